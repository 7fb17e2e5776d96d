"""Answers kept for as long as they are valid. Pure: the caller brings the clock."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, TypeAlias

import dns.name
import dns.rrset
from dns.rcode import Rcode

Key: TypeAlias = tuple[str, int, int]
"""Lower-case name, type, class."""

MAX_TTL: Final = 300
"""Seconds; an answer is asked for again after that, however long its owner would keep it."""

NEGATIVE_TTL: Final = 5
"""Seconds that "no such name" is kept: a service that has just been created is soon found."""

_CAPACITY: Final = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """What a resolver said: code, answer section, authority section."""

    rcode: Rcode
    answer: tuple[dns.rrset.RRset, ...] = ()
    authority: tuple[dns.rrset.RRset, ...] = ()

    @property
    def found(self) -> bool:
        """The name exists."""
        return self.rcode == Rcode.NOERROR

    def lifetime(self) -> int:
        """Seconds that it may be kept; 0 for failures."""
        if self.rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
            return 0
        ttl = min((int(rrset.ttl) for rrset in self.answer), default=NEGATIVE_TTL)
        return min(ttl, MAX_TTL if self.answer else NEGATIVE_TTL)

    def aged(self, seconds: float) -> Answer:
        """The same with the time to live that is left."""
        return Answer(self.rcode, tuple(_aged(rrset, int(seconds)) for rrset in self.answer), self.authority)


class Cache:
    """The most recently used answers."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Key, tuple[float, Answer]] = OrderedDict()

    def get(self, key: Key, now: float) -> Answer | None:
        """The answer, with what is left of its time to live.

        Args:
            key: The question.
            now: Seconds of a clock that never goes back.
        """
        entry = self._entries.get(key)
        if entry is None:
            return None
        stored, answer = entry
        if now - stored >= answer.lifetime():
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return answer.aged(now - stored)

    def put(self, key: Key, answer: Answer, now: float) -> None:
        """Keep an answer; one that may not be kept is ignored."""
        if answer.lifetime() <= 0:
            return
        self._entries[key] = (now, answer)
        self._entries.move_to_end(key)
        while len(self._entries) > _CAPACITY:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything: another session, another cluster."""
        self._entries.clear()


def renamed(rrset: dns.rrset.RRset, name: dns.name.Name, ttl: int) -> dns.rrset.RRset:
    """The same records under another name or with another time to live, in seconds."""
    return dns.rrset.from_rdata_list(name, ttl, list(rrset))


def _aged(rrset: dns.rrset.RRset, seconds: int) -> dns.rrset.RRset:
    return renamed(rrset, rrset.name, max(0, int(rrset.ttl) - seconds))
