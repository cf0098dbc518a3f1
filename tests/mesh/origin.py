"""A server for the tests of the mesh, with sockets and nothing else between it and the bytes.

origin.py http PORT [PAUSE]   HTTP/1.1, by path; every head that arrives is logged as it came
origin.py tcp PORT            opaque protocols, by the first line

One line is logged for each connection and each request.
"""

import hashlib
import json
import os
import socket
import struct
import sys
import threading
import time

PATTERN = bytes(index * 7 % 251 for index in range(65536))


def log(*words):
    # In one write, so that the lines of two threads do not mix.
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


class Reader:
    def __init__(self, connection):
        self.connection = connection
        self.bytes = b""

    def more(self):
        piece = self.connection.recv(65536)
        self.bytes += piece
        return bool(piece)

    def until(self, end):
        while end not in self.bytes:
            if not self.more():
                return None
        found, self.bytes = self.bytes.split(end, 1)
        return found

    def exactly(self, count, use):
        while count:
            if not self.bytes and not self.more():
                return False
            piece, self.bytes = self.bytes[:count], self.bytes[count:]
            count -= len(piece)
            use(piece)
        return True


def read_body(reader, fields, use):
    """Reads a body; returns whether it was whole, and its trailers."""
    if fields.get("transfer-encoding") == "chunked":
        while True:
            line = reader.until(b"\r\n")
            if line is None:
                return False, ""
            size = int(line.split(b";")[0], 16)
            if size == 0:
                trailers = []
                while line := reader.until(b"\r\n"):
                    trailers.append(line.decode())
                return line is not None, "|".join(trailers)
            if not reader.exactly(size, use) or reader.until(b"\r\n") is None:
                return False, ""
    return reader.exactly(int(fields.get("content-length", "0")), use), ""


def answer(connection, status, body=b"", fields=()):
    lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}", "", ""]
    connection.sendall("\r\n".join(lines).encode() + body)


def chunk(piece):
    return b"%x\r\n%s\r\n" % (len(piece), piece)


def pattern(count):
    whole, rest = divmod(count, len(PATTERN))
    for _ in range(whole):
        yield PATTERN
    yield PATTERN[:rest]


def serve_request(connection, path, body_hash, body_length, head, trailers):
    """Answers one request; returns whether the connection goes on."""
    name, _, argument = path.lstrip("/").partition("/")
    match name:
        case "hash":
            answer(connection, "200 OK", f"{body_length} {body_hash} {trailers}".encode())
        case "bytes":
            count = int(argument)
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {count}\r\n\r\n".encode())
            for piece in pattern(count):
                connection.sendall(piece)
        case "chunked":
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Last\r\n\r\n")
            for piece in pattern(int(argument)):
                if piece:
                    connection.sendall(chunk(piece))
            connection.sendall(b"0\r\nX-Last: yes\r\n\r\n")
        case "slow":
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"first "))
            time.sleep(1)
            connection.sendall(chunk(b"last") + b"0\r\n\r\n")
        case "until":
            # The second part comes when there is a file of this name.
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"first "))
            while not os.path.exists("/" + argument):
                time.sleep(0.02)
            connection.sendall(chunk(b"last") + b"0\r\n\r\n")
        case "hints":
            for interim in (b"103 Early Hints\r\nLink: </a.css>; rel=preload", b"102 Processing"):
                connection.sendall(b"HTTP/1.1 " + interim + b"\r\n\r\n")
            time.sleep(1)
            answer(connection, "200 OK", b"the answer")
        case "endless":
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            piece = chunk(PATTERN)
            while True:
                connection.sendall(piece)
        case "leaves":
            # As if it stayed.
            answer(connection, "200 OK", b"and gone")
            return False
        case "until-close":
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
            return False
        case "port":
            answer(connection, "200 OK", f"port {connection.getpeername()[1]}.".encode())
        case "hang":
            try:
                Reader(connection).more()
                log("LEFT", path, "in order")
            except ConnectionResetError:
                log("LEFT", path, "by a reset")
            return False
        case "204":
            connection.sendall(b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n")
        case "304":
            connection.sendall(b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 9\r\n\r\n")
        case "head":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")
        case "fields":
            answer(connection, "200 Fine By Me", b"", [
                "X-Case: kept", "x-lower: kept", "Connection: X-Mine", "X-Mine: dropped",
                "Keep-Alive: timeout=5", "Proxy-Connection: dropped", "Set-Cookie: a=1", "Set-Cookie: b=2",
            ])
        case "broken":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
            return False
        case "vanish":
            return False
        case "two-lengths":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")
            return False
        case _:
            answer(connection, "200 OK", head)
    return True


def switch(connection, reader):
    """Goes on with another protocol: greets, and says back what it hears until the client's end."""
    head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
    connection.sendall(head + b"hello " + reader.bytes)
    while piece := connection.recv(65536):
        connection.sendall(piece)


def serve_http(connection, peer, pause):
    reader = Reader(connection)
    while (head := reader.until(b"\r\n\r\n")) is not None:
        lines = head.decode("latin-1").split("\r\n")
        log("REQUEST", json.dumps({"from": peer, "lines": lines}))
        path = lines[0].split(" ")[1].split("?")[0]
        fields = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        if path.startswith("/unread/"):
            # Its body is left where it is, for as long as the path says.
            time.sleep(float(path.removeprefix("/unread/")))
            return
        if "expect" in fields:
            if path == "/refused":
                answer(connection, "417 Expectation Failed")
                return
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body_hash = hashlib.sha256()
        length = 0

        def use(piece):
            nonlocal length
            length += len(piece)
            body_hash.update(piece)

        whole, trailers = read_body(reader, fields, use)
        log("BODY", path, length, "whole" if whole else "broken")
        if not whole:
            return
        time.sleep(pause)
        if path == "/switch":
            switch(connection, reader)
            return
        if not serve_request(connection, path, body_hash.hexdigest(), length, head, trailers):
            return
        if fields.get("connection") == "close" or lines[0].endswith("HTTP/1.0"):
            return


def serve_tcp(connection, peer):
    reader = Reader(connection)
    line = reader.until(b"\n")
    log("LINE", peer, line)
    match (line or b"").strip():
        case b"*1":
            reader.until(b"PING\r\n")
            connection.sendall(b"+PONG\r\n")
            reader.more()
        case b"hash":
            # Answers only when the client has ended its half.
            body_hash, length = hashlib.sha256(reader.bytes), len(reader.bytes)
            while piece := connection.recv(65536):
                body_hash.update(piece)
                length += len(piece)
            connection.sendall(f"{length} {body_hash.hexdigest()} {peer}\n".encode())
        case b"send":
            # Ends its own half first, and then hears the client out.
            for piece in pattern(8_000_000):
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            rest = reader.until(b"\n")
            log("AFTER", rest)
        case b"endless":
            while True:
                connection.sendall(PATTERN)
        case b"unread":
            time.sleep(3)
        case b"reset":
            connection.sendall(b"a part")
            time.sleep(0.1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        case b"wait":
            try:
                reader.more()
                log("ENDED", "in order")
            except ConnectionResetError:
                log("ENDED", "by a reset")
        case other:
            connection.sendall(b"unknown " + other + b"\n")


def serve(connection, address, kind, pause):
    peer = address[0].removeprefix("::ffff:")
    log("CONNECTION", peer)
    with connection:
        try:
            if kind == "http":
                serve_http(connection, peer, pause)
            else:
                serve_tcp(connection, peer)
        except OSError as error:
            log("ERROR", error)
            return
    log("CLOSED", peer)


def main():
    kind, port = sys.argv[1], int(sys.argv[2])
    pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0
    listener = socket.create_server(("::", port), family=socket.AF_INET6, backlog=256, dualstack_ipv6=True)
    log("listening")
    while True:
        connection, address = listener.accept()
        threading.Thread(target=serve, args=(connection, address, kind, pause), daemon=True).start()


main()
