"""A server whose mood a file says, for the tests of balancing.

moody.py NAME PORT MOOD-FILE    HTTP/1.1; answers its name, or 503, or a reset, or nothing, as the file has it

A path /slow/SECONDS takes its time, whatever the mood. One line is logged for each connection, its end and each
request.
"""

import asyncio
import socket
import struct
import sys

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


async def answer(reader, writer):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
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
