"""One network namespace with its daemon: from the first greeting to the last detachment."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tpd.control.client import DaemonClient, DaemonGoneError, wait_state
from tpd.engine.docker import Engine
from tpd.kube.attachments import attachment_body, create_attachment, delete_attachment, list_attachments, target_of
from tpd.kube.config import Login
from tpd.kube.session import Identity, LinkToken, create_session, delete_session, link_token
from tpd.kube.targets import Target, TargetPort
from tpd.run.reach import Reach
from tpd.run.state import AttachmentRecord, SeatRecord
from tpd.version import client_version
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.errors import EngineError, TpdError
from tpd_core.kube import SESSIONS, ApiClient, NotFound
from tpd_core.proto import control_pb2, link_pb2

HELLO_SECONDS = 30.0
CONNECT_SECONDS = 30.0
ATTACH_SECONDS = 60.0
DRAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster as all seats of a run share it."""

    login: Login
    api: ApiClient
    identity: Identity
    manager_namespace: str
    reach: Reach


@dataclass(frozen=True, slots=True)
class SeatPlan:
    """What one daemon is for.

    Attributes:
        namespace: Where short names are looked up first, and where the workloads are.
        targets: The workloads to attach.
        transports: Kinds of transport to use, in order; empty for the usual.
    """

    namespace: str
    targets: tuple[Target, ...]
    mount: bool
    transports: tuple[int, ...] = ()
    dns_upstreams: tuple[str, ...] = ()
    local_names: tuple[str, ...] = ()
    remote_names: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SeatPlan:
        """Rebuild a plan that was kept as JSON.

        Raises:
            KeyError, TypeError: It is not one.
        """
        targets = tuple(
            Target(
                item["kind"],
                item["name"],
                item["namespace"],
                item["container"],
                tuple(
                    (TargetPort(port["name"], port["number"], tuple(port["services"])), local)
                    for port, local in item["ports"]
                ),
            )
            for item in content["targets"]
        )
        lists = ("transports", "dns_upstreams", "local_names", "remote_names")
        return cls(content["namespace"], targets, content["mount"], **{name: tuple(content[name]) for name in lists})


@dataclass(frozen=True, slots=True)
class Attached:
    """An attachment in force, with what the app needs of it."""

    target: Target
    record: AttachmentRecord
    reply: control_pb2.AttachReply
    transport: int = control_pb2.TRANSPORT_UNSPECIFIED


class Seat:
    """An async context manager: while entered, the daemon can be spoken to.

    Args:
        record: What is remembered about it; updated as objects are made.
        changed: Called after each such update, to save it.
    """

    def __init__(
        self, engine: Engine, cluster: Cluster, record: SeatRecord, plan: SeatPlan, changed: Callable[[], None]
    ) -> None:
        self.record = record
        self.plan = plan
        self.cluster = cluster
        self.engaged_instance = ""
        self.token: LinkToken | None = None
        self.manager_pods: tuple[str, ...] = ()
        self.manager_port = 0
        self._engine = engine
        self._changed = changed
        self.client = DaemonClient(self._find_daemon)

    async def __aenter__(self) -> Self:
        await self.client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.__aexit__(kind, error, trace)

    async def _find_daemon(self) -> str | None:
        return await asyncio.to_thread(self._engine.find, self.record.label, "daemon")

    async def join_network(self) -> None:
        """Let the anchor into the network that the API server is in."""
        network = self.cluster.reach.network
        if network is None:
            return
        anchor = await asyncio.to_thread(self._engine.find, self.record.label, "anchor")
        if anchor is not None:
            await asyncio.to_thread(self._engine.connect, network, anchor)

    async def revive(self) -> None:
        """Start a daemon container that was ended from outside; the engine's restart policy leaves such ones alone."""
        daemon, anchor = await asyncio.gather(
            *(asyncio.to_thread(self._engine.find, self.record.label, role) for role in ("daemon", "anchor"))
        )
        if daemon is not None and anchor is not None:
            await asyncio.to_thread(self._engine.start_again, daemon, anchor)

    async def hello(self, timeout: float = HELLO_SECONDS) -> control_pb2.HelloReply:
        """Wait for the daemon to answer.

        Raises:
            EngineError: It did not, or its container has ended; with its last words.
        """
        greeting = spawn(self.client.hello(client_version(), timeout), name="hello", on_error=_ignore)
        ended = spawn(self._until_ended(), name="daemon-ended", on_error=_ignore)
        try:
            await asyncio.wait({greeting, ended}, return_when=asyncio.FIRST_COMPLETED)
            if greeting.done():
                return greeting.result()
            raise EngineError(f"tpd's daemon container ended at once: {ended.result()}")
        finally:
            await cancel_and_wait(greeting)
            await cancel_and_wait(ended)

    async def _until_ended(self) -> str:
        while True:
            await asyncio.sleep(1.0)
            found = await asyncio.to_thread(self._engine.find, self.record.label, "daemon")
            description = await asyncio.to_thread(self._engine.inspect, found) if found else None
            if description is not None and description["State"]["Status"] in ("exited", "dead"):
                words = (await asyncio.to_thread(self._engine.logs, found or "", 5)).strip()
                return words.splitlines()[-1] if words else f"exit code {description['State']['ExitCode']}"

    async def engage(self) -> list[Attached]:
        """Greet, get a session, connect and attach everything; what an earlier daemon had is given up first.

        Raises:
            TpdError: Whatever stands in the way.
        """
        _, hello, targets = await asyncio.gather(self.join_network(), self.hello(), self._present_targets())
        await self._delete_objects()
        self.record.generation += 1
        generation = self.record.generation
        name = self.record.base if generation == 1 else f"{self.record.base}-{generation}"
        cluster = self.cluster
        session, token = await asyncio.gather(
            create_session(
                cluster.api,
                name,
                cluster.identity,
                hello.certificate_request,
                version=client_version(),
                host=socket.gethostname(),
            ),
            link_token(cluster.api, cluster.manager_namespace),
        )
        self.token = token
        self.record.session, self.record.instance = session.name, hello.instance
        self._changed()
        self.manager_pods, self.manager_port = session.pods, session.port
        request = control_pb2.ConnectRequest(
            session=session.name,
            certificate=session.certificate,
            ca=session.ca,
            endpoints=[link_pb2.Endpoint(host=host, port=port) for host, port in session.endpoints],
            transports=cluster.reach.transports(self.plan.transports),  # type: ignore[arg-type]
            namespace=self.plan.namespace,
            dns_upstreams=self.plan.dns_upstreams,
            local_names=self.plan.local_names,
            remote_names=self.plan.remote_names,
        )
        if cluster.reach.url:
            request.api_server.CopyFrom(
                control_pb2.ApiServer(
                    url=cluster.reach.url,
                    ca=cluster.login.ca,
                    tls_server_name=cluster.reach.tls_server_name,
                    token=control_pb2.Token(token=token.token, expires=token.expires),
                    manager_namespace=session.manager_namespace,
                    manager_pods=session.pods,
                    manager_port=session.port,
                )
            )
        objects = [
            (target, attachment_body(session.name, session.uid, cluster.identity.user, target, mount=self.plan.mount))
            for target in targets
        ]
        connected, *created = await asyncio.gather(
            self.client.connect(request, CONNECT_SECONDS),
            *(create_attachment(cluster.api, target.namespace, body) for target, body in objects),
        )
        transport = int(connected.transport)
        records = []
        for (target, _), item in zip(objects, created, strict=True):
            meta = item["metadata"]
            ports = [(local, port.number) for port, local in target.ports]
            record = AttachmentRecord(
                meta["namespace"], meta["name"], meta["uid"], str(target), target.container, ports
            )
            records.append(record)
        self.record.attachments = records
        self._changed()
        self.engaged_instance = hello.instance
        replies = await asyncio.gather(
            *(self.client.attach(record.uid, mount=self.plan.mount, timeout=ATTACH_SECONDS) for record in records)
        )
        return [
            Attached(target, record, reply, transport)
            for (target, _), record, reply in zip(objects, records, replies, strict=True)
        ]

    async def resume(self) -> bool:
        """Take over a daemon that another process has engaged; False when it needs to be engaged anew.

        A daemon that has lost its link comes back by itself.

        Raises:
            TpdError: The daemon or the cluster does not answer.
        """
        hello = await self.hello()
        if hello.instance != self.record.instance or not self.record.session:
            return False
        try:
            session = await self.cluster.api.get(SESSIONS.path(None, self.record.session))
        except NotFound:
            return False
        manager = session.get("status", {}).get("manager") or {}
        self.manager_pods, self.manager_port = tuple(manager.get("pods") or ()), int(manager.get("port") or 0)
        await self.renew_token()
        self.engaged_instance = hello.instance
        return True

    async def _present_targets(self) -> tuple[Target, ...]:
        """What to attach: at first what the plan says, then what the earlier session had at its end.

        Others may have added or ended attachments meanwhile (`tpd intercept`, `tpd leave`, kubectl).
        """
        if not self.record.session:
            return self.plan.targets
        namespaces = {self.plan.namespace, *(target.namespace for target in self.plan.targets)}
        listings = await asyncio.gather(*(list_attachments(self.cluster.api, name) for name in sorted(namespaces)))
        return tuple(
            target_of(item)
            for listing in listings
            for item in listing
            if item["spec"]["session"] == self.record.session
        )

    async def renew_token(self) -> LinkToken:
        """Give the daemon a fresh token."""
        self.token = await link_token(self.cluster.api, self.cluster.manager_namespace)
        await self.client.set_token(self.token.token, self.token.expires)
        return self.token

    async def release(self, drain: float = DRAIN_SECONDS) -> None:
        """Give all traffic back and unmount, as far as the daemon still lives."""
        uids = {record.uid for record in self.record.attachments}
        with contextlib.suppress(TpdError, TimeoutError):
            state = await wait_state(self.client, lambda state: True, timeout=3.0)
            uids |= {attachment.uid for attachment in state.attachments}
        await asyncio.gather(*(self._detach(uid, drain) for uid in uids))

    async def _detach(self, uid: str, drain: float) -> None:
        with contextlib.suppress(DaemonGoneError):
            await self.client.detach(uid, drain)

    async def disconnect(self) -> None:
        """Have the daemon unmount everything, as far as it still lives: no stale mount must outlive its container."""
        with contextlib.suppress(DaemonGoneError):
            await self.client.disconnect()

    async def _delete_objects(self) -> None:
        await delete_objects(self.cluster.api, [self.record])
        self._changed()


async def delete_objects(api: ApiClient, seats: Sequence[SeatRecord]) -> None:
    """Delete the attachments and sessions of seats, all at once.

    Raises:
        TpdError: The first refusal; the others were tried.
    """
    deletions = [
        functools.partial(delete_attachment, api, item.namespace, item.name)
        for seat in seats
        for item in seat.attachments
    ] + [functools.partial(delete_session, api, seat.session) for seat in seats if seat.session]
    outcomes = await asyncio.gather(*(deletion() for deletion in deletions), return_exceptions=True)
    for seat in seats:
        seat.attachments, seat.session = [], ""
    for outcome in outcomes:
        if isinstance(outcome, TpdError):
            raise outcome


def _ignore(error: BaseException) -> None:
    """The task's owner looks at its outcome."""
