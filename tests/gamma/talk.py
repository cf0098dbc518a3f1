"""Both sides of a conversation in which the server speaks first, in plain text or inside TLS.

talk.py serve NAME PORT [CERTIFICATE KEY]         says NAME to whoever comes, and then repeats what it hears
talk.py ask COUNT HOST PORT [SERVER_NAME ROOTS]   opens COUNT connections, one after the other, and prints a line for
                                                  each: the name, or how it ended (closed, reset, refused)
talk.py trickle HOST PORT SERVER_NAME ROOTS       the same once, with a ClientHello in pieces of 100 bytes
talk.py late SECONDS HOST PORT SERVER_NAME ROOTS   the same, after a silence
talk.py endless HOST PORT                         how a ClientHello ends that has 64 KiB and means nothing
talk.py hold HOST PORT                            prints the name, and then what is repeated ten times a second

A server name of `-` asks for none. The certificate must be that of ROOTS and of the server name, where there is one.
"""

import socket
import ssl
import sys
import threading
import time


def serve(name, port, certificate=None, key=None):
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)

    def talk(connection):
        try:
            if context:
                connection = context.wrap_socket(connection, server_side=True)
            connection.sendall(name.encode() + b"\n")
            while piece := connection.recv(65536):
                connection.sendall(piece)
        except OSError:
            pass
        finally:
            connection.close()

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=talk, args=(connection,), daemon=True).start()


def connect(host, port):
    # Of one address only: a client that was refused and tries another has not had one answer.
    family, kind, protocol, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    connection = socket.socket(family, kind, protocol)
    connection.settimeout(20)
    connection.connect(address)
    return connection


def client_context(name, roots):
    context = ssl.create_default_context(cafile=roots)
    context.check_hostname = name != "-"
    return context


def read_line(connection):
    line = b""
    while not line.endswith(b"\n"):
        piece = connection.recv(1024)
        if not piece:
            return "closed"
        line += piece
    return line.decode().strip()


def outcome(attempt):
    try:
        return attempt()
    except ConnectionRefusedError:
        return "refused"
    except (ConnectionResetError, BrokenPipeError):
        return "reset"
    except ssl.SSLEOFError:
        return "closed"


def ask(count, host, port, name=None, roots=None):
    def once():
        with connect(host, port) as connection:
            if name is None:
                return read_line(connection)
            asked = None if name == "-" else name
            with client_context(name, roots).wrap_socket(connection, server_hostname=asked) as secured:
                return read_line(secured)

    for _ in range(int(count)):
        print(outcome(once))


def late(seconds, host, port, name, roots):
    def once():
        with connect(host, port) as connection:
            time.sleep(float(seconds))
            with client_context(name, roots).wrap_socket(connection, server_hostname=name) as secured:
                return read_line(secured)

    print(outcome(once))


def endless(host, port):
    def once():
        with connect(host, port) as connection:
            # A message of 65535 bytes in records of 16384, the first of which has the message's own head.
            message = b"\x01\x00\xff\xff" + bytes(65535)
            for start in range(0, len(message), 16384):
                piece = message[start : start + 16384]
                connection.sendall(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece)
            return read_line(connection)

    print(outcome(once))


def trickle(host, port, name, roots):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = client_context(name, roots).wrap_bio(incoming, outgoing, server_hostname=name)

    def once():
        with connect(host, port) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def until_done(step):
                while True:
                    try:
                        return step()
                    except ssl.SSLWantReadError:
                        flight = outgoing.read()
                        for start in range(0, len(flight), 100):
                            connection.sendall(flight[start : start + 100])
                            time.sleep(0.005)
                        piece = connection.recv(65536)
                        if not piece:
                            raise ssl.SSLEOFError from None
                        incoming.write(piece)

            until_done(secured.do_handshake)
            return until_done(lambda: secured.read(1024)).decode().strip()

    print(outcome(once))


def hold(host, port):
    connection = connect(host, port)
    while True:
        print(read_line(connection), flush=True)
        connection.sendall(b"still here\n")
        time.sleep(0.1)


globals()[sys.argv[1]](*sys.argv[2:])
