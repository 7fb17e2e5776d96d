"""One-use tickets: how an agent's first request shows that the manager itself put it into its pod. Pure.

A ticket is a claim and its authentication code, so every replica can check it and none has to remember it. Whoever
may read the pod can read the ticket too, which is why enrolment also connects back to the pod's own address, and why
a container that is enrolled already is refused.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from tpd_core.errors import ClusterError


class BadTicket(ClusterError):
    """A ticket that was not made for this agent, or is too old."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Who the ticket is for.

    Attributes:
        container: The ephemeral container's name, new for every injection.
        expires: Unix seconds.
    """

    namespace: str
    pod: str
    pod_uid: str
    container: str
    expires: int


def secret_from(ca_key_pem: bytes) -> bytes:
    """The key of the authentication codes: known to whoever holds the CA's key."""
    return hashlib.sha256(b"tpd ticket v1\0" + ca_key_pem).digest()


def make(claim: Claim, secret: bytes) -> str:
    """The ticket as text."""
    return f"{_words(claim)}/{_code(claim, secret)}"


def check(ticket: str, secret: bytes, *, now: float) -> Claim:
    """The claim in a good ticket.

    Raises:
        BadTicket: It is none, was not made by this manager, or is too old.
    """
    parts = ticket.split("/")
    if len(parts) != 6 or not (parts[4].isascii() and parts[4].isdigit() and len(parts[4]) <= 12):
        raise BadTicket("The agent's ticket is no ticket")
    claim = Claim(parts[0], parts[1], parts[2], parts[3], int(parts[4]))
    if not hmac.compare_digest(parts[5].encode(), _code(claim, secret).encode()):
        raise BadTicket(f"The ticket for pod {claim.namespace}/{claim.pod} was not made by this manager")
    if now >= claim.expires:
        raise BadTicket(f"The ticket of {claim.container} in pod {claim.pod} expired {now - claim.expires:.0f} s ago")
    return claim


def _words(claim: Claim) -> str:
    return f"{claim.namespace}/{claim.pod}/{claim.pod_uid}/{claim.container}/{claim.expires}"


def _code(claim: Claim, secret: bytes) -> str:
    return hmac.new(secret, _words(claim).encode(), hashlib.sha256).hexdigest()
