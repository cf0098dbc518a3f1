"""A server for the tests of limits: many connections at a time, on one thread.

server.py HTTP-PORT POUR-PORT [MORE-HTTP-PORTS...]

HTTP/1.1: /bytes/COUNT answers so many bytes, /count answers how many bytes the body had, anything else `ok`.
The pour port sends without end to whoever connects, as fast as it is taken.
"""

import asyncio
import socket
import sys

PIECE = bytes(64 * 1024)


async def answer(reader, writer):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    path, length = head.split(" ")[1], 0
    for line in head.split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            left = int(value)
            while left:
                piece = await reader.read(min(left, 65536))
                if not piece:
                    raise ConnectionResetError
                left -= len(piece)
                length += len(piece)
    if path.startswith("/bytes/"):
        left = int(path.split("/")[2])
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n".encode())
        while left:
            piece = PIECE[:left]
            writer.write(piece)
            left -= len(piece)
            await writer.drain()
        return
    body = str(length) if path.startswith("/count") else "ok"
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    await writer.drain()


async def serve(reader, writer):
    try:
        while True:
            await answer(reader, writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def pour(_, writer):
    try:
        while True:
            writer.write(PIECE)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


def listener(port):
    return socket.create_server(("::", port), family=socket.AF_INET6, backlog=4096, dualstack_ipv6=True)


async def main():
    http, pour_port, *more = map(int, sys.argv[1:])
    servers = [await asyncio.start_server(serve, sock=listener(port)) for port in (http, *more)]
    servers.append(await asyncio.start_server(pour, sock=listener(pour_port)))
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main())
