"""Which environment the app has, from what a peek container saw. Pure.

The names are those that the pod spec declares; the values are the running process's where it could be read, else
those that the kubelet resolved for the peek container out of the same declarations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

_LINK_PARTS: Final = ("_SERVICE_HOST", "_SERVICE_PORT", "_PORT")


@dataclass(frozen=True, slots=True)
class Peek:
    """What a peek container sends.

    Attributes:
        container: The app container that it looked at.
        names: Names in the container's `env`.
        prefixes: One prefix per source in its `envFrom`, often empty strings.
        resolved: The peek's own environment, which the kubelet filled from copies of both.
        process: The app process's environment, None where it could not be read.
        uid: The app process's user, None where it was not found.
        gid: Its group.
        groups: Its supplementary groups.
        note: Why something is missing.
    """

    container: str
    names: tuple[str, ...]
    prefixes: tuple[str, ...]
    resolved: Mapping[str, str] = field(repr=False)
    process: Mapping[str, str] | None = field(repr=False)
    uid: int | None
    gid: int | None
    groups: tuple[int, ...]
    note: str

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Peek:
        """Rebuild it from the message.

        Raises:
            ValueError: Something is missing or of another type.
        """
        try:
            return cls(
                container=str(data["container"]),
                names=tuple(map(str, data["names"])),
                prefixes=tuple(map(str, data["prefixes"])),
                resolved=_strings(data["resolved"]),
                process=None if data["process"] is None else _strings(data["process"]),
                uid=None if data["uid"] is None else int(data["uid"]),
                gid=None if data["gid"] is None else int(data["gid"]),
                groups=tuple(map(int, data["groups"])),
                note=str(data["note"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a peek: {error!r}") from error


def environment_of(peek: Peek, common: Mapping[str, str]) -> dict[str, str]:
    """The declared names with their values.

    Args:
        peek: What was seen.
        common: The agent's own environment: the names that image and kubelet give to every container.
    """
    names = set(peek.names)
    if peek.prefixes:
        fresh = {name for name in peek.resolved if name not in common and not name.startswith("TPD_")}
        fresh -= _service_links(peek.resolved, fresh)
        names |= {name for name in fresh if name.startswith(peek.prefixes)}
    process = peek.process or {}
    found = ((name, process.get(name, peek.resolved.get(name))) for name in sorted(names))
    return {name: value for name, value in found if value is not None}


def _service_links(values: Mapping[str, str], names: set[str]) -> set[str]:
    """Names that the kubelet made for Services that came after the agent: whole families, never a single name."""
    bases: Sequence[str] = [
        name.removesuffix("_SERVICE_HOST")
        for name in names
        if name.endswith("_SERVICE_HOST")
        and all(name.removesuffix("_SERVICE_HOST") + part in names for part in _LINK_PARTS)
        and "://" in values[name.removesuffix("_SERVICE_HOST") + "_PORT"]
    ]
    return {name for name in names for base in bases if name.startswith((f"{base}_SERVICE_", f"{base}_PORT"))}


def _strings(data: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in data.items()}
