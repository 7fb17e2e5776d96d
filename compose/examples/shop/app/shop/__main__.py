"""Runs one of the shop's services: ``python3 -m shop web|orders|inventory``."""

import logging
import os
import sys

from . import inventory, orders, web
from .identity import Place
from .service import serve

SERVICES = {"web": web.build, "orders": orders.build, "inventory": inventory.build}


def main() -> int:
    """Serves the service named on the command line until SIGTERM or Ctrl-C.

    Environment: ``ORIGIN`` labels the place in every answer; ``LISTEN`` is a comma-separated list of ports.
    """
    if len(sys.argv) != 2 or sys.argv[1] not in SERVICES:
        print(f"usage: python3 -m shop {'|'.join(SERVICES)}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(name)s %(message)s")
    name = sys.argv[1]
    ports = [int(port) for port in os.environ.get("LISTEN", "8080").split(",")]
    place = Place.here(name, os.environ)
    serve(SERVICES[name](place, os.environ), place, ports)
    return 0


if __name__ == "__main__":
    sys.exit(main())
