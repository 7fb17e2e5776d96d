"""The agent's settings, from the environment that the manager wrote into the ephemeral container."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from tpd_cluster.agent.probes import Probe, parse_probes
from tpd_core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class User:
    """Whom an app container runs as; None: its image decides."""

    uid: int | None
    gid: int | None


@dataclass(frozen=True, slots=True)
class Settings:
    """What the manager tells an agent.

    Attributes:
        pod: The pod's name.
        pod_uid: The pod's UID.
        namespace: The pod's namespace.
        container: Name of the agent's own ephemeral container.
        enroll: Addresses where the manager takes enrolments, to be tried in order.
        ticket: Shown once, at enrolment.
        ca: PEM of the manager's CA.
        idle_timeout: Seconds without a link after which the agent ends.
        probes: All probes of the pod.
        users: Of the pod's containers, by name.
        peek_token: Shown by a peek container.
        node_ip: The node's address, None when unknown.
        log: Level.
    """

    pod: str
    pod_uid: str
    namespace: str
    container: str
    enroll: tuple[tuple[str, int], ...]
    ticket: str = field(repr=False)
    ca: bytes = field(repr=False)
    idle_timeout: float
    probes: tuple[Probe, ...]
    users: Mapping[str, User]
    peek_token: str = field(repr=False)
    node_ip: str | None
    log: str

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Read and check all of it.

        Raises:
            ConfigError: A value is missing or wrong; the message names it.
        """
        return cls(
            pod=_need(environ, "TPD_POD_NAME"),
            pod_uid=_need(environ, "TPD_POD_UID"),
            namespace=_need(environ, "TPD_POD_NAMESPACE"),
            container=_need(environ, "TPD_CONTAINER"),
            enroll=tuple(_endpoint(entry) for entry in _need(environ, "TPD_ENROLL").split(",")),
            ticket=_need(environ, "TPD_TICKET"),
            ca=_need(environ, "TPD_CA").encode(),
            idle_timeout=_seconds(environ, "TPD_IDLE_TIMEOUT", 3600.0),
            probes=parse_probes(environ.get("TPD_PROBES", "")),
            users=_users(environ.get("TPD_CONTAINERS", "")),
            peek_token=environ.get("TPD_PEEK_TOKEN", ""),
            node_ip=_address(environ, "TPD_NODE_IP"),
            log=environ.get("TPD_LOG") or "info",
        )


def _need(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if not value:
        raise ConfigError(f"{name} is not set: agents are started by tpd's manager, not by hand")
    return value


def _endpoint(entry: str) -> tuple[str, int]:
    host, _, port = entry.strip().rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        number = int(port)
    except ValueError as error:
        raise ConfigError(f"TPD_ENROLL has {entry!r} where address:port is expected") from error
    return str(address), number


def _address(environ: Mapping[str, str], name: str) -> str | None:
    value = environ.get(name)
    if not value:
        return None
    try:
        return str(ipaddress.ip_address(value))
    except ValueError as error:
        raise ConfigError(f"{name} is {value!r}, not an IP address") from error


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    value = environ.get(name)
    try:
        seconds = float(value) if value else default
    except ValueError as error:
        raise ConfigError(f"{name} is {value!r}, not a number of seconds") from error
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{name} is {value!r}, it must be positive")
    return seconds


def _users(text: str) -> dict[str, User]:
    try:
        return {str(entry["name"]): User(entry.get("uid"), entry.get("gid")) for entry in json.loads(text or "[]")}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"TPD_CONTAINERS is not a list of containers: {error!r}") from error
