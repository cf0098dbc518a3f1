"""Waits for what a server at HOST PORT says first, answers with a ClientHello of the mesh's, and prints what comes of it.

It stands for a proxy of the mesh on a machine that was too busy to speak first.
"""

import socket
import ssl
import sys

context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.set_alpn_protocols(["gammarus/1"])
written = ssl.MemoryBIO()
tls = context.wrap_bio(ssl.MemoryBIO(), written, server_hostname="nobody.example.com")
try:
    tls.do_handshake()
except ssl.SSLWantReadError:
    pass

with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as connection:
    print(connection.recv(65536))
    connection.sendall(written.read())
    try:
        print(connection.recv(65536))
    except ConnectionResetError:
        print("reset")
