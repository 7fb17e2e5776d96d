"""The manager's own objects, read from what the API server holds.

The CRDs' schemas have checked types and enumerations already; what is read here needs no second check.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tpd_core.errors import Category, TpdError
from tpd_core.proto import link_pb2

Object = Mapping[str, Any]

MODES: Mapping[str, link_pb2.Mode.ValueType] = {"intercept": link_pb2.MODE_INTERCEPT}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something is not as wanted, for the object's status and over the wire."""

    category: Category
    message: str
    hint: str = ""

    @classmethod
    def of(cls, error: TpdError) -> Problem:
        """The same for an error."""
        return cls(error.category, error.message, error.hint)

    def to_status(self) -> dict[str, str]:
        """As in an object's status."""
        return {"category": self.category.value, "message": self.message, "hint": self.hint}

    def to_message(self) -> link_pb2.Problem:
        """As in a message."""
        return link_pb2.Problem(category=self.category.value, message=self.message, hint=self.hint)


@dataclass(frozen=True, slots=True)
class PortSpec:
    """One attached port."""

    container_port: int
    local_port: int
    name: str = ""
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class MountSpec:
    """One volume mount of the attached container."""

    mount_path: str
    volume: str
    sub_path: str = ""
    read_only: bool = False

    def to_status(self) -> dict[str, Any]:
        """As in an attachment's status."""
        return {
            "mountPath": self.mount_path,
            "volume": self.volume,
            "subPath": self.sub_path,
            "readOnly": self.read_only,
        }

    def to_message(self) -> link_pb2.Mount:
        """As in grants."""
        return link_pb2.Mount(**asdict(self))


@dataclass(frozen=True, slots=True)
class Attachment:
    """What a user asked for."""

    uid: str
    namespace: str
    name: str
    created: str
    session: str
    user: str
    kind: str
    workload: str
    container: str
    mode: str
    ports: tuple[PortSpec, ...]

    @classmethod
    def of(cls, item: Object) -> Attachment:
        """From the API's object."""
        metadata, spec = item["metadata"], item["spec"]
        return cls(
            uid=metadata["uid"],
            namespace=metadata["namespace"],
            name=metadata["name"],
            created=metadata["creationTimestamp"],
            session=spec["session"],
            user=spec["user"],
            kind=spec["workload"]["kind"],
            workload=spec["workload"]["name"],
            container=spec["container"],
            mode=spec["mode"],
            ports=tuple(
                PortSpec(port["containerPort"], port["localPort"], port.get("name", ""), port.get("protocol", "TCP"))
                for port in spec["ports"]
            ),
        )

    @property
    def ports_title(self) -> str:
        """How lists name the ports: LOCAL:REMOTE where the two differ."""
        return ",".join(
            str(port.container_port)
            if port.local_port == port.container_port
            else f"{port.local_port}:{port.container_port}"
            for port in self.ports
        )

    @property
    def title(self) -> str:
        """How messages name the workload."""
        return f"{self.kind.lower()}/{self.workload}"


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """An enrolled agent, as kept in the ConfigMap tpd-agents under its pod's UID."""

    namespace: str
    pod: str
    ip: str
    port: int
    container: str
    version: str
    key: str  # SHA-256 of its public key, hexadecimal
    enrolled: int  # Unix seconds

    def dump(self) -> str:
        """The ConfigMap's value."""
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)

    @classmethod
    def load(cls, value: str) -> AgentRecord | None:
        """From the ConfigMap's value; None if it is none (somebody edited it)."""
        try:
            fields = json.loads(value)
            return cls(**{name: fields[name] for name in cls.__dataclass_fields__})
        except (ValueError, TypeError, KeyError):
            return None


def load_registry(config_map: Object) -> dict[str, AgentRecord]:
    """All records of the ConfigMap by pod UID."""
    records = {uid: AgentRecord.load(value) for uid, value in (config_map.get("data") or {}).items()}
    return {uid: record for uid, record in records.items() if record is not None}
