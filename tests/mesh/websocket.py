"""WebSocket by Debian's `websockets`, for the tests of the mesh.

websocket.py serve PORT       echoes; closes with 4001 when told `bye`; says something by itself at /greet
websocket.py talk URL PAUSE [HOST TRUSTED]
                              a whole conversation with a silence of PAUSE seconds in it; prints what became of it as JSON;
                              with HOST at that address, and in TLS by the certificates in the file TRUSTED
"""

import asyncio
import json
import ssl
import sys
import urllib.parse

import websockets


async def echo(socket, path):
    if path.endswith("/greet"):
        await socket.send("the server speaks first")
    async for message in socket:
        if message == "bye":
            await socket.close(4001, "as told")
            return
        await socket.send(message)


async def serve(port):
    # Without pings of its own: nothing but the conversation keeps the connection busy.
    async with websockets.serve(echo, None, port, ping_interval=None, max_size=None):
        print("listening", flush=True)
        await asyncio.Future()


async def talk(url, pause, host=None, trusted=None):
    found = {}
    options = {"ping_interval": None, "max_size": None, "compression": None}
    if host:
        options["host"] = host
    if url.startswith("wss:"):
        context = ssl.create_default_context(cafile=trusted)
        # A server's own certificate is enough, as it is for curl.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        options["ssl"] = context
        options["server_hostname"] = urllib.parse.urlsplit(url).hostname
    try:
        async with websockets.connect(url, **options) as socket:
            found["greeting"] = await socket.recv()
            await socket.send("text")
            found["text"] = await socket.recv()
            await asyncio.sleep(pause)
            large = bytes(range(256)) * 8192
            await socket.send(large)
            found["large"] = await socket.recv() == large
            await (await socket.ping(b"are you there"))
            found["pong"] = True
            for index in range(100):
                await socket.send(str(index))
            found["order"] = [await socket.recv() for _ in range(100)] == [str(index) for index in range(100)]
            await socket.send("bye")
            await socket.wait_closed()
            found["close"] = [socket.close_code, socket.close_reason]
    except websockets.InvalidStatusCode as error:
        found["status"] = error.status_code
        found["reason"] = error.headers.get("gammarus-reason")
    print(json.dumps(found))


async def main():
    if sys.argv[1] == "serve":
        await serve(int(sys.argv[2]))
    else:
        await talk(sys.argv[2], float(sys.argv[3]), *sys.argv[4:])


asyncio.run(main())
