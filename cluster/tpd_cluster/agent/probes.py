"""Tells the kubelet's probes from other traffic. Pure.

An HTTP probe is known by its request: method, path and `User-Agent`. Nothing else tells it apart: its source is the
node's bridge address, which clients of a NodePort have as well. Probes whose first bytes say nothing (TCP, gRPC,
HTTPS) are let through to the app by the packet filter instead, see `rules`.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from tpd_core.errors import ConfigError

MAX_HEAD: Final = 8192
"""A request whose User-Agent does not come within so many bytes is no probe."""

_AGENT: Final = "kube-probe/"
_SAFE: Final = "/?&=:@!$'()*+,;~-._%"


class Verdict(enum.Enum):
    """What the first bytes of a connection say."""

    MORE = enum.auto()
    PROBE = enum.auto()
    OTHER = enum.auto()


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe of the pod spec.

    Attributes:
        container: Whose probe it is.
        kind: `http`, `tcp` or `grpc`.
        port: A number; names are resolved.
        path: Of an HTTP probe.
        scheme: Of an HTTP probe, upper case.
        user_agent: The value that the pod spec sets for an HTTP probe, or None for the kubelet's own.
    """

    container: str
    kind: str
    port: int
    path: str = "/"
    scheme: str = "HTTP"
    user_agent: str | None = None


def parse_probes(text: str) -> tuple[Probe, ...]:
    """The probes that the manager found in the pod spec.

    Raises:
        ConfigError: Not the JSON list that it should be.
    """
    try:
        return tuple(
            Probe(
                container=str(entry["container"]),
                kind=str(entry["kind"]),
                port=int(entry["port"]),
                path=str(entry.get("path") or "/"),
                scheme=str(entry.get("scheme") or "HTTP").upper(),
                user_agent=next(
                    (str(value) for name, value in entry.get("headers") or () if name.lower() == "user-agent"), None
                ),
            )
            for entry in json.loads(text or "[]")
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"TPD_PROBES is not a list of probes: {error!r}") from error


def filtered_ports(probes: Iterable[Probe]) -> frozenset[int]:
    """Ports with probes that only the packet filter can tell apart."""
    return frozenset(probe.port for probe in probes if not _readable(probe))


class ProbeMatcher:
    """Recognises the HTTP probes of one port by a connection's first bytes."""

    def __init__(self, probes: Iterable[Probe], port: int) -> None:
        wanted = [probe for probe in probes if probe.port == port and _readable(probe)]
        self._requests = {line: probe.user_agent for probe in wanted for line in _request_lines(probe.path)}

    def __bool__(self) -> bool:
        return bool(self._requests)

    def match(self, head: bytes) -> Verdict:
        """What `head`, all bytes so far, says; once it is not MORE, further bytes do not change it."""
        end = head.find(b"\r\n")
        if end < 0:
            possible = any(line.startswith(head) or head == line + b"\r" for line in self._requests)
            return Verdict.MORE if possible else Verdict.OTHER
        try:
            agent = self._requests[head[:end]]
        except KeyError:
            return Verdict.OTHER
        position = end + 2
        while (end := head.find(b"\r\n", position)) >= 0:
            line = head[position:end]
            if end > MAX_HEAD or not line:
                return Verdict.OTHER
            name, _, value = line.partition(b":")
            if name.lower() == b"user-agent":
                return Verdict.PROBE if _is_kubelet(value.strip().decode("latin-1"), agent) else Verdict.OTHER
            position = end + 2
        return Verdict.MORE if len(head) <= MAX_HEAD else Verdict.OTHER


def _readable(probe: Probe) -> bool:
    return probe.kind == "http" and probe.scheme == "HTTP"


def _request_lines(path: str) -> set[bytes]:
    path = "/" + path.removeprefix("/")
    return {f"GET {form} HTTP/1.1".encode() for form in (path, quote(path, safe=_SAFE))}


def _is_kubelet(agent: str, declared: str | None) -> bool:
    return agent == declared if declared is not None else agent.startswith(_AGENT)
