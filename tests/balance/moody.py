"""A server whose mood a file says, for the tests of balancing.

moody.py NAME PORT MOOD-FILE    HTTP/1.1; answers its name, or 503, or a reset, or half an answer, or nothing, as the file
                                has it; HTTP/2 by prior knowledge, which knows the first and half an answer

A path /slow/SECONDS takes its time, whatever the mood. One line is logged for each connection, its end and each
request.
"""

import asyncio
import socket
import struct
import sys

# RFC 9113, sections 6 and 7.
DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
END_STREAM, ACK, END_HEADERS, INTERNAL_ERROR = 1, 1, 4, 2

NAME, PORT, MOOD_FILE = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def log(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def mood():
    try:
        with open(MOOD_FILE, encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return "well"


def frame(kind, flags, stream, payload):
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


async def serve_http2(reader, writer):
    """Answers every request with a head of 200 and data; of the requests only their number is looked at."""
    await reader.readexactly(len(b"SM\r\n\r\n"))
    writer.write(frame(SETTINGS, 0, 0, b""))
    while True:
        head = await reader.readexactly(9)
        kind, flags, stream = struct.unpack("!BBI", head[3:])
        payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        if kind in (SETTINGS, PING) and not flags & ACK:
            writer.write(frame(kind, ACK, 0, b"" if kind == SETTINGS else payload))
        elif kind == HEADERS:
            log("REQUEST", "of HTTP/2")
            # `:status: 200` of the static table (RFC 7541 appendix A).
            writer.write(frame(HEADERS, END_HEADERS, stream, b"\x88"))
            if mood() == "half":
                writer.write(frame(DATA, 0, stream, b"half"))
                writer.write(frame(RST_STREAM, 0, stream, struct.pack("!I", INTERNAL_ERROR)))
            else:
                writer.write(frame(DATA, END_STREAM, stream, NAME.encode() + b"\n"))
        await writer.drain()


async def answer(reader, writer):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    if head.startswith("PRI "):
        return await serve_http2(reader, writer)
    path = head.split(" ")[1]
    for line in head.split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            await reader.readexactly(int(value))
    log("REQUEST", path)
    if path.startswith("/slow/"):
        await asyncio.sleep(float(path.split("/")[2]))
    match mood():
        case "503":
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        case "500":
            writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
        case "reset":
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        case "half":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            await writer.drain()
            return False
        case "silent":
            await asyncio.sleep(3600)
        case _:
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(NAME) + 1}\r\n\r\n{NAME}\n".encode())
    await writer.drain()
    return True


async def serve(reader, writer):
    log("CONNECTION")
    try:
        while await answer(reader, writer):
            pass
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    log("CLOSED")
    writer.close()


async def main():
    listener = socket.create_server(("::", PORT), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True)
    async with await asyncio.start_server(serve, sock=listener) as server:
        await server.serve_forever()


asyncio.run(main())
