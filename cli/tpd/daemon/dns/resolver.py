"""Answers one question out of cache, cluster and world; the same question asked twice at once is asked once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final

import dns.name
import dns.rcode
import dns.rdatatype

from tpd.daemon.dns.cache import Answer, Cache, Key, renamed
from tpd.daemon.dns.cluster import ClusterResolver
from tpd.daemon.dns.policy import NameConfig, Plan, plan
from tpd.daemon.dns.upstream import ask_upstream, make_question
from tpd_core.aio.tasks import spawn
from tpd_core.errors import NetworkError

_log = logging.getLogger(__name__)

DEADLINE: Final = 2.8
"""Seconds until a failure is answered: Docker's resolver gives up after 4 s (seen in engine 20.10), silently."""

_CLUSTER_SHARE: Final = 1.8
"""Seconds for the cluster where the world may know the name too."""

_KNOWN: Final = 4096  # names remembered as the cluster's

FAILURE: Final = Answer(dns.rcode.SERVFAIL)


class Resolver:
    """Names for one container.

    `config`, `upstreams` and `cluster` are set by the session; without `config` every answer is a failure, which is
    what the app should see before the daemon knows whom to ask.
    """

    def __init__(self) -> None:
        self.config: NameConfig | None = None
        self.upstreams: Sequence[str] = ()
        self.cluster: ClusterResolver | None = None
        self._cache = Cache()
        self._flights: dict[Key, asyncio.Task[Answer]] = {}
        self._known: dict[str, None] = {}

    def configure(self, config: NameConfig | None, upstreams: Sequence[str], cluster: ClusterResolver | None) -> None:
        """Change whom to ask; what was learnt before is forgotten."""
        self.config, self.upstreams, self.cluster = config, upstreams, cluster
        self._cache.clear()
        self._known.clear()
        self._flights.clear()

    def cached(self, key: Key) -> Answer | None:
        """The answer if it is at hand."""
        return self._cache.get(key, time.monotonic())

    async def resolve(self, key: Key) -> Answer:
        """The answer, within DEADLINE."""
        if (answer := self.cached(key)) is not None:
            return answer
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = spawn(self._fly(key), name=f"dns-{key[0]}")
        return await asyncio.shield(flight)

    async def _fly(self, key: Key) -> Answer:
        answer = FAILURE
        config = self.config
        try:
            async with asyncio.timeout(DEADLINE):
                answer = await self._ask(key)
        except TimeoutError:
            _log.warning("no answer in time", extra={"question": key[0]})
        finally:
            if self._flights.get(key) is asyncio.current_task():
                del self._flights[key]
        if self.config is config:
            self._cache.put(key, answer, time.monotonic())
        return answer

    async def _ask(self, key: Key) -> Answer:
        if self.config is None:
            return FAILURE
        name, rdtype, rdclass = key
        decision = plan(name, self.config)
        missing: Answer | None = None
        if decision.candidates:
            try:
                missing = await self._ask_cluster(decision, key)
            except (NetworkError, TimeoutError) as error:
                # A name that the cluster has answered before must not get the world's answer instead.
                if decision.certain or name in self._known:
                    _log.warning("the cluster cannot be asked", extra={"question": name, "reason": str(error)})
                    return FAILURE
            else:
                if missing.found:
                    self._remember(name)
                    return missing
        if decision.world:
            return await ask_upstream(make_question(name, rdtype, rdclass), self.upstreams)
        return missing or Answer(dns.rcode.NXDOMAIN)

    async def _ask_cluster(self, decision: Plan, key: Key) -> Answer:
        if self.cluster is None:
            raise NetworkError("not connected to a cluster")
        name, rdtype, rdclass = key
        # The cluster's IPv6 addresses are not captured: whether the name exists is all that an AAAA question learns.
        only_exists = rdtype == dns.rdatatype.AAAA
        answer = Answer(dns.rcode.NXDOMAIN)
        for candidate in decision.candidates:
            wanted = dns.rdatatype.A if only_exists else rdtype
            async with asyncio.timeout(_CLUSTER_SHARE if decision.world else DEADLINE):
                answer = await self._ask_candidate(candidate, wanted, rdclass)
            if answer.rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                raise NetworkError(f"the cluster's resolver answered {dns.rcode.to_text(answer.rcode)}")
            if answer.found:
                return Answer(answer.rcode) if only_exists else _renamed(answer, candidate, name)
        return answer

    async def _ask_candidate(self, candidate: str, rdtype: int, rdclass: int) -> Answer:
        key = (candidate, rdtype, rdclass)
        if (answer := self.cached(key)) is None:
            assert self.cluster is not None
            answer = await self.cluster.ask(candidate, rdtype, rdclass)
            self._cache.put(key, answer, time.monotonic())
        return answer

    def _remember(self, name: str) -> None:
        self._known[name] = None
        if len(self._known) > _KNOWN:
            del self._known[next(iter(self._known))]


def _renamed(answer: Answer, candidate: str, name: str) -> Answer:
    """The same under the name that was asked for, which is what simple resolvers look for."""
    if candidate == name:
        return answer
    full, asked = dns.name.from_text(candidate), dns.name.from_text(name)
    records = [renamed(rrset, asked if rrset.name == full else rrset.name, int(rrset.ttl)) for rrset in answer.answer]
    return Answer(answer.rcode, tuple(records))
