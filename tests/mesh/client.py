"""A client of bytes for the tests of the mesh: sends what it is told to, and says what came back and how it ended.

client.py HOST PORT STEP...   where STEP is
    HEX            send these bytes
    read:TEXT      read until TEXT has come
    pause:SECONDS  wait
    half           end this side's half
    bulk:COUNT     send COUNT bytes of the pattern
    reset          reset the connection
    rest           read to the end

Prints one line of JSON: `text`, what was read (Latin-1); `length` and `hash` of it; `end`, one of `open`, `closed`
and `reset`; `times`, the seconds from the start to the end of each step.
"""

import hashlib
import json
import socket
import struct
import sys
import time

PATTERN = bytes(index * 7 % 251 for index in range(65536))


def main():
    host, port, *steps = sys.argv[1:]
    connection = socket.create_connection((host, int(port)), timeout=20)
    begun = time.monotonic()
    text, end, times = b"", "open", []

    def read():
        nonlocal text, end
        piece = connection.recv(65536)
        text += piece
        if not piece:
            end = "closed"
        return bool(piece)

    try:
        for step in steps:
            word, _, argument = step.partition(":")
            if word == "read":
                while argument.encode() not in text and read():
                    pass
            elif word == "pause":
                time.sleep(float(argument))
            elif word == "half":
                connection.shutdown(socket.SHUT_WR)
            elif word == "bulk":
                whole, rest = divmod(int(argument), len(PATTERN))
                for _ in range(whole):
                    connection.sendall(PATTERN)
                connection.sendall(PATTERN[:rest])
            elif word == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
            elif word == "rest":
                while read():
                    pass
            else:
                connection.sendall(bytes.fromhex(step))
            times.append(round(time.monotonic() - begun, 3))
    except (ConnectionResetError, BrokenPipeError):
        end = "reset"
    except TimeoutError:
        end = "timeout"
    shown = text.decode("latin-1") if len(text) < 100_000 else ""
    found = {"text": shown, "length": len(text), "hash": hashlib.sha256(text).hexdigest(), "end": end, "times": times}
    print(json.dumps(found))


main()
