"""Puts the manager's parts together: one replica, from start to the end of its drain."""

from __future__ import annotations

import asyncio
import datetime
import logging
import signal
import ssl
import time
from pathlib import Path

from tpd_cluster.manager import ca_secret, pki
from tpd_cluster.manager.board import Board
from tpd_cluster.manager.clusterinfo import ClusterFacts
from tpd_cluster.manager.daemons import Daemons
from tpd_cluster.manager.election import Election
from tpd_cluster.manager.enroll import Enroller
from tpd_cluster.manager.health import serve_health
from tpd_cluster.manager.inject import AgentSettings
from tpd_cluster.manager.presence import Presence
from tpd_cluster.manager.reconcile import Reconciler
from tpd_cluster.manager.router import Router, listen
from tpd_cluster.manager.settings import LEASE, Settings
from tpd_cluster.manager.stop import Stopper
from tpd_core.aio.tasks import cancel_and_wait
from tpd_core.aio.tls import client_context, server_context
from tpd_core.kube import ApiClient, InCluster
from tpd_core.kube.paths import SERVICES

_DRAIN = 10.0  # seconds that carried connections get after SIGTERM
_RESOLV_CONF = Path("/etc/resolv.conf")
_log = logging.getLogger(__name__)


class _Contexts:
    """The router's TLS contexts; the manager's own key lives only as long as the process."""

    def __init__(self, authority: pki.Authority) -> None:
        key = pki.new_key()
        certificate = authority.issue_manager(key.public_key(), datetime.datetime.now(datetime.UTC)).pem
        key_pem = pki.key_to_pem(key)
        self.manager = server_context(certificate, key_pem, authority.pem)
        self.enroll = server_context(certificate, key_pem, None)
        self.agents = client_context(authority.pem, certificate, key_pem)
        self.back = client_context(authority.pem, certificate, key_pem)
        self.back.check_hostname = False
        self.back.verify_mode = ssl.CERT_NONE


async def run(settings: Settings, cluster: InCluster) -> None:
    """Be one replica of the manager until SIGTERM or SIGINT.

    Raises:
        TpdError: It cannot start.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    missing = {"": "starting"}
    async with cluster.client() as client, serve_health(settings.health_port, lambda: missing.get("", "")):
        authority = await ca_secret.load_or_create(client, settings.namespace)
        replica = await _Replica.create(client, settings, authority)
        async with asyncio.TaskGroup() as group:
            board_task = group.create_task(replica.board.run())
            await replica.board.wait_synced()
            replica.presence.forget_former_life(replica.board.sessions())
            router_task = group.create_task(replica.router.run(listen(settings.port)))
            facts_task = group.create_task(replica.facts.run())
            election_task = group.create_task(replica.election.run(replica.reconciler.run))
            missing[""] = ""
            _log.info("ready", extra={"replica": settings.pod, "port": settings.port})
            await stopped.wait()
            missing[""] = "draining"
            _log.info("draining")
            await cancel_and_wait(router_task, election_task)
            await replica.election.release()
            await replica.daemons.close("this replica of the manager is shutting down")
            await replica.router.drain(_DRAIN)
            await cancel_and_wait(board_task, facts_task)


class _Replica:
    """All parts, wired."""

    def __init__(
        self,
        client: ApiClient,
        settings: Settings,
        authority: pki.Authority,
        facts: ClusterFacts,
        agents: AgentSettings,
    ) -> None:
        contexts = _Contexts(authority)
        self.facts = facts
        self.board = Board(client, settings.namespace)
        self.presence = Presence(client, settings.pod)
        self.daemons = Daemons(client, self.board, facts, authority, presence=self.presence, tls=contexts.manager)
        enroller = Enroller(client, self.board, authority, tls=contexts.enroll, back=contexts.back)
        names = {pki.MANAGER_NAME: self.daemons.serve, pki.ENROLL_NAME: enroller.serve}
        self.router = Router(names, lambda: self.board.agents, client)
        stopper = Stopper(client, self.board, contexts.agents)
        self.reconciler = Reconciler(client, self.board, facts, authority, settings, agents, stopper)
        self.election = Election(client, settings.namespace, LEASE, settings.pod, time.monotonic)

    @classmethod
    async def create(cls, client: ApiClient, settings: Settings, authority: pki.Authority) -> _Replica:
        facts = ClusterFacts(client, settings, _RESOLV_CONF.read_text())
        await facts.refresh()
        service = await client.get(SERVICES.path(settings.namespace, settings.service))
        hosts = [host for host in (service["spec"].get("clusterIP"), settings.pod_ip) if host and host != "None"]
        agents = AgentSettings(
            image=settings.agent_image,
            pull_policy=settings.agent_pull_policy,
            enroll=tuple(f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}" for host in hosts),
            ca=authority.pem.decode(),
            idle_timeout=settings.agent_idle_timeout,
            log=settings.agent_log,
        )
        return cls(client, settings, authority, facts, agents)
