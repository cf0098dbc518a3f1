"""UDP at both ends of a Gateway.

datagrams.py serve NAME PORT       answers `who` with its name and who has asked, anything else as it came
datagrams.py ask HOST PORT [--sockets N] [--from PORT] [--bytes N] [--tries N]
                                   asks by so many sockets, all at once, and prints a line for each: the answer, or a dash
"""

import argparse
import hashlib
import select
import socket
import time

QUIET = 1.5


def serve(name, port):
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    server.bind(("::", port))
    while True:
        asked, client = server.recvfrom(65535)
        answer = f"{name} {client[1]}".encode() if asked == b"who" else asked
        server.sendto(answer, client)


def ask(options):
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    pattern = bytes(index * 7 % 251 for index in range(options.bytes)) if options.bytes else b"who"
    clients, answers = [], {}
    for _ in range(options.sockets):
        client = socket.socket(family, socket.SOCK_DGRAM)
        if options.from_port:
            client.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", options.from_port))
        # Only what comes from exactly there is taken for an answer.
        client.connect((options.host, options.port))
        clients.append(client)
    for _ in range(options.tries):
        silent = [client for client in clients if client not in answers]
        for client in silent:
            client.send(pattern)
        until = time.monotonic() + QUIET
        while silent and (left := until - time.monotonic()) > 0:
            for client in select.select(silent, [], [], left)[0]:
                answers[client] = client.recv(65535)
                silent.remove(client)
                until = time.monotonic() + QUIET
    for client in clients:
        answer = answers.get(client)
        if answer is None:
            print("-")
        elif options.bytes:
            print(len(answer), hashlib.sha256(answer).hexdigest() == hashlib.sha256(pattern).hexdigest())
        else:
            print(answer.decode())


parser = argparse.ArgumentParser()
commands = parser.add_subparsers(dest="command", required=True)
server = commands.add_parser("serve")
server.add_argument("name")
server.add_argument("port", type=int)
client = commands.add_parser("ask")
client.add_argument("host")
client.add_argument("port", type=int)
client.add_argument("--sockets", type=int, default=1)
client.add_argument("--from", type=int, dest="from_port")
client.add_argument("--bytes", type=int)
client.add_argument("--tries", type=int, default=1)
options = parser.parse_args()
if options.command == "serve":
    serve(options.name, options.port)
else:
    ask(options)
