"""A steady stream of requests from inside the cluster, and one connection kept open throughout.

Usage: steady.py URL RATE; ends on SIGTERM or when its standard input ends, then prints one JSON line:
how many requests each origin answered, and every failure.
"""

import collections
import http.client
import json
import sys
import threading
import time
from urllib.parse import urlsplit


def main(url: str, rate: float) -> None:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    fresh: collections.Counter[str] = collections.Counter()
    kept: collections.Counter[str] = collections.Counter()
    failures: list[str] = []
    stop = threading.Event()

    def ask(connection: http.client.HTTPConnection) -> str:
        connection.request("GET", "/")
        return str(json.loads(connection.getresponse().read())["origin"])

    def keep() -> None:
        connection = http.client.HTTPConnection(host, port, timeout=5)
        while not stop.is_set():
            try:
                kept[ask(connection)] += 1
            except (OSError, http.client.HTTPException, ValueError) as problem:
                failures.append(f"kept: {problem!r}")
                connection.close()
                connection = http.client.HTTPConnection(host, port, timeout=5)
            stop.wait(1 / rate)

    def renew() -> None:
        due = time.monotonic()
        while not stop.is_set():
            connection = http.client.HTTPConnection(host, port, timeout=5)
            try:
                fresh[ask(connection)] += 1
            except (OSError, http.client.HTTPException, ValueError) as problem:
                failures.append(f"fresh: {problem!r}")
            connection.close()
            due += 1 / rate
            stop.wait(max(0.0, due - time.monotonic()))

    threads = [threading.Thread(target=work) for work in (keep, renew)]
    for thread in threads:
        thread.start()
    print("started", flush=True)
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"fresh": fresh, "kept": kept, "failures": failures}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
