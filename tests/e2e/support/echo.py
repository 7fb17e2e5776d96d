"""The workload of the end-to-end tests, run by the same file in the cluster and on the laptop.

GET /            who answered, and who asked
GET /env?NAME    an environment variable
GET /file?PATH   a file's content; PUT writes it; /list?DIR names what is there
GET /first       what LOOK_AT contained when the process started
GET /get?URL     fetch a URL from here; GET /resolve?NAME an address
GET /slow?S      answers after S seconds, for connections that are busy
GET /healthz     for probes; counted in /
"""

import json
import os
import socket
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

PORT = int(os.environ.get("PORT", "8080"))
LOOK_AT = os.environ.get("LOOK_AT", "")


def look(path: str) -> str | None:
    """Content of a file, or None where it cannot be read."""
    try:
        return Path(path).read_text()
    except OSError:
        return None


FIRST = {path: look(path) for path in LOOK_AT.split(",") if path}
PROBES = 0


class Handler(BaseHTTPRequestHandler):
    """One request each, keep-alive."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        argument = unquote(parts.query)
        try:
            answer = self.answer(parts.path, argument)
        except (OSError, ValueError) as problem:
            self.reply(500, {"error": repr(problem)})
        else:
            self.reply(200, answer)

    def do_PUT(self) -> None:
        path = Path(unquote(urlsplit(self.path).query))
        data = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        try:
            path.write_bytes(data)
        except OSError as problem:
            self.reply(500, {"error": repr(problem)})
        else:
            self.reply(200, {"written": len(data)})

    def answer(self, path: str, argument: str) -> object:
        global PROBES
        if path == "/healthz":
            PROBES += 1
            return "ok"
        if path == "/env":
            return os.environ.get(argument)
        if path == "/environ":
            return dict(os.environ)
        if path == "/file":
            return Path(argument).read_text()
        if path == "/list":
            return sorted(entry.name for entry in Path(argument).iterdir())
        if path == "/first":
            return FIRST
        if path == "/get":
            with urllib.request.urlopen(argument, timeout=10) as response:
                return json.loads(response.read())
        if path == "/resolve":
            return sorted({info[4][0] for info in socket.getaddrinfo(argument, None, socket.AF_INET)})
        if path == "/slow":
            threading.Event().wait(float(argument))
            return "slow"
        return {
            "origin": os.environ.get("ORIGIN", "?"),
            "hostname": socket.gethostname(),
            "peer": self.client_address[0],
            "probes": PROBES,
        }

    def reply(self, status: int, answer: object) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        if "kube-probe" not in (self.headers.get("User-Agent") or ""):
            print(self.client_address[0], format % args, flush=True)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("listening on", PORT, flush=True)
    Server(("", PORT), Handler).serve_forever()
