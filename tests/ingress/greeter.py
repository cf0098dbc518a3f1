"""A server of TCP at PORT that speaks first, and then repeats each line in capitals."""

import socket
import socketserver
import sys


class Greeter(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 greetings\r\n")
        for line in self.rfile:
            self.wfile.write(line.upper())


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True


Server(("::", int(sys.argv[1])), Greeter).serve_forever()
