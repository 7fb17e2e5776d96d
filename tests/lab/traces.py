"""What a stopped engine leaves in the host's network stack, and how to take it away."""

import json
import re

from tests.lab.shell import output, run, succeeds

TABLES = ("filter", "nat")
ENGINES_OWN = re.compile(r"\bDOCKER|\bdocker0\b|\bbr-[0-9a-f]{12}\b")
BRIDGE = re.compile(r"docker0|br-[0-9a-f]{12}")


def remove() -> None:
    """Remove the engine's rules and bridges; call it only when the engine is stopped and was the lab's."""
    for table in TABLES:
        if succeeds("iptables-save", "-t", table):
            run("iptables-restore", "-w", stdin=without_engine(output("iptables-save", "-t", table)).encode())
    for link in json.loads(output("ip", "-json", "link", "show", "type", "bridge") or "[]"):
        if BRIDGE.fullmatch(link["ifname"]):
            run("ip", "link", "delete", link["ifname"])


def without_engine(saved: str) -> str:
    """Return what `iptables-save` printed without the engine's chains and rules, forwarding accepted again."""
    lines = [line for line in saved.splitlines() if not ENGINES_OWN.search(line)]
    return "\n".join(re.sub(r"^:FORWARD DROP", ":FORWARD ACCEPT", line) for line in lines) + "\n"
