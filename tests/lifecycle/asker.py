"""Asks a server over HTTP/1.1 so many times a second until it is told to stop, and never twice the same: with a connection
for each request, or with one that is kept until the server says that it ends. Prints what came of it, as JSON."""

import http.client
import json
import signal
import sys
import time

host, port, rate, way = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
is_over = False


def stop(*_):
    global is_over
    is_over = True


signal.signal(signal.SIGTERM, stop)
counts = {"sent": 0, "ok": 0, "connections": 0}
failures = []
connection = None
while not is_over:
    due = time.monotonic() + 1 / rate
    counts["sent"] += 1
    try:
        if connection is None:
            connection = http.client.HTTPConnection(host, port, timeout=10)
            connection.connect()
            counts["connections"] += 1
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise ValueError(f"{answer.status} {answer.headers.as_string()!r}")
        counts["ok"] += 1
        if way == "new" or answer.will_close:
            connection.close()
            connection = None
    except Exception as error:
        failures.append(f"{time.time():.3f} {error!r}")
        connection = None
    time.sleep(max(0, due - time.monotonic()))
print(json.dumps(counts | {"failures": failures}), flush=True)
