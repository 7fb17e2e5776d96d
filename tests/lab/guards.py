"""Rules that refuse packets for the cluster's addresses on the host, so that a leak out of a tunnel fails loudly.

Without them something beyond the host might answer for such an address, and a test would pass that should not.
"""

import re
from collections.abc import Sequence

from tests.lab.shell import output, run, succeeds
from tests.lab.spec import POD_CIDR, SERVICE_CIDR

CHAIN = "TPD-LAB"
RANGES = (SERVICE_CIDR, POD_CIDR)
HOOKS = ("OUTPUT", "DOCKER-USER")


def ensure() -> None:
    """Install the rules; rules that are there keep their counters."""
    if not succeeds(*_iptables("-n", "-L", CHAIN)):
        run(*_iptables("-N", CHAIN))
    for cidr in RANGES:
        rule = ("-d", cidr, "-j", "REJECT")
        if not succeeds(*_iptables("-C", CHAIN, *rule)):
            run(*_iptables("-A", CHAIN, *rule))
    for hook in _hooks():
        if not succeeds(*_iptables("-C", hook, "-j", CHAIN)):
            run(*_iptables("-I", hook, "1", "-j", CHAIN))


def remove() -> None:
    """Take the rules away."""
    for hook in HOOKS:
        while succeeds(*_iptables("-D", hook, "-j", CHAIN)):
            pass
    if succeeds(*_iptables("-F", CHAIN)):
        run(*_iptables("-X", CHAIN))


def installed() -> bool:
    """Tell whether every packet that leaves the host, or is forwarded for a container, passes the rules."""
    return all(succeeds(*_iptables("-C", hook, "-j", CHAIN)) for hook in _hooks()) and len(leaks()) == len(RANGES)


def leaks() -> dict[str, int]:
    """Return the number of refused packets by range; empty when the rules are not there."""
    if not succeeds(*_iptables("-n", "-L", CHAIN)):
        return {}
    return parse_counters(output(*_iptables("-n", "-v", "-x", "-L", CHAIN)), RANGES)


def parse_counters(listing: str, ranges: Sequence[str]) -> dict[str, int]:
    """Read the packet counters of the rules for `ranges` out of `iptables -n -v -x -L`."""
    counters: dict[str, int] = {}
    for line in listing.splitlines():
        found = re.match(r"\s*(\d+)\s+\d+\s+REJECT\s", line)
        if found:
            counters |= {cidr: int(found.group(1)) for cidr in ranges if f" {cidr} " in f"{line} "}
    return counters


def _hooks() -> list[str]:
    # Docker makes DOCKER-USER; another engine may not have it.
    return [hook for hook in HOOKS if hook == "OUTPUT" or succeeds(*_iptables("-n", "-L", hook))]


def _iptables(*args: str) -> tuple[str, ...]:
    return ("iptables", "-w", *args)
