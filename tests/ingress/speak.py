"""Says something to HOST PORT byte for byte, `--in N` pieces of N bytes with pauses, and prints what comes back.

The text has the escapes of Python's bytes: \\x0d\\x0a.
"""

import argparse
import codecs
import socket
import sys
import time

arguments = argparse.ArgumentParser()
arguments.add_argument("host")
arguments.add_argument("port", type=int)
arguments.add_argument("text")
arguments.add_argument("--in", dest="size", type=int, default=65536)
arguments = arguments.parse_args()
text = codecs.escape_decode(arguments.text.encode())[0]

with socket.create_connection((arguments.host, arguments.port), timeout=15) as connection:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        for start in range(0, len(text), arguments.size):
            connection.sendall(text[start : start + arguments.size])
            if arguments.size < len(text):
                time.sleep(0.01)
        while piece := connection.recv(65536):
            sys.stdout.buffer.write(piece)
    except ConnectionResetError:
        print("reset")
    except TimeoutError:
        print("silence")
