"""One pod of an attachment: its link, the grant, what is engaged, and the callers that come over it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from tpd.daemon.changes import Backoff, Changes
from tpd.daemon.inbound import deliver
from tpd.daemon.linker import Linker, agent_name
from tpd_core.aio.errors import LinkClosed
from tpd_core.aio.link import Link
from tpd_core.aio.messages import MessageStream
from tpd_core.aio.stream import Incoming, Stream
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.errors import TpdError
from tpd_core.proto import control_pb2, link_pb2
from tpd_core.wire.errors import ProtocolError
from tpd_core.wire.frames import RejectCode

_log = logging.getLogger(__name__)

_OPEN_TIMEOUT: Final = 10.0  # seconds
_ASK_AGAIN: Final = 2.0  # seconds until an agent that refused is asked again
_DISENGAGE_GRACE: Final = 2.0  # seconds beyond the drain until the agent must have answered


class AgentLink:
    """Keeps a link to one pod's agent for one attachment, as long as the manager grants it.

    Args:
        attachment: The Attachment object's UID.
        pod: The pod and its first grant.
        linker: Makes links.
        changes: Rung when anything in `status` may have changed.
        local_port: Where the laptop's app listens for a container port, None if that port is not attached.
        may_speak_from: See inbound.deliver.

    Attributes:
        link: The link, None while there is none.
        welcome: The agent's first answer, None before it.
        engaged: The agent has taken the grant's ports.
        problem: Why there is no link, or why the agent refused.
    """

    def __init__(
        self,
        attachment: str,
        pod: link_pb2.PodGrant,
        linker: Linker,
        changes: Changes,
        *,
        local_port: Callable[[int], int | None],
        may_speak_from: Callable[[str], bool],
    ) -> None:
        self.attachment = attachment
        self.pod = pod
        self.link: Link | None = None
        self.welcome: link_pb2.AgentWelcome | None = None
        self.engaged = False
        self.problem: link_pb2.Problem | None = None
        self._existing = 0
        self._counters = link_pb2.Counters()
        self._bytes_in = self._bytes_out = 0
        self._streams: set[Stream] = set()
        self._linker = linker
        self._changes = changes
        self._local_port = local_port
        self._may_speak_from = may_speak_from
        self._control: MessageStream | None = None
        self._renewed = asyncio.Event()
        self._disengaged = asyncio.Event()
        self._leaving = False
        self._task = spawn(self._run(), name=f"agent-{pod.pod}")

    @property
    def settled(self) -> bool:
        """It is known how it went: engaged, or a problem."""
        return self.engaged or self.problem is not None

    def update(self, pod: link_pb2.PodGrant) -> None:
        """The manager sent the pod's state anew: another grant, perhaps."""
        renewed = pod.grant != self.pod.grant
        self.pod = pod
        if renewed:
            self._renewed.set()

    def status(self) -> control_pb2.PodStatus:
        """For the CLI."""
        return control_pb2.PodStatus(
            pod=self.pod.pod,
            ip=self.pod.pod_ip,
            linked=self.link is not None and not self.link.suspended,
            engaged=self.engaged,
            connections=self._counters.connections,
            fallback=self._counters.fallback,
            probes=self._counters.probes,
            bytes_in=self._bytes_in + sum(stream.received for stream in self._streams),
            bytes_out=self._bytes_out + sum(stream.sent for stream in self._streams),
            existing=self._existing,
            problem=self.problem,
        )

    async def open_files(self, volume: str) -> Stream:
        """An SFTP session on one of the attachment's volumes.

        Raises:
            NetworkError: The agent refused, or there is no link.
            TimeoutError: No answer.
        """
        if self.link is None:
            raise LinkClosed("not linked")
        request = link_pb2.OpenRequest(files=link_pb2.Files(attachment=self.attachment, volume=volume))
        return await self.link.open(request.SerializeToString(), timeout=_OPEN_TIMEOUT)

    async def disengage(self, drain: float) -> None:
        """Give the ports back and wait until open connections are drained; the link stays, for files and dialling.

        Args:
            drain: Seconds that open connections may take to fall idle.
        """
        self._leaving = True
        if self._control is None or not self.engaged:
            return
        order = link_pb2.Disengage(attachment=self.attachment, drain=drain)
        try:
            async with asyncio.timeout(drain + _DISENGAGE_GRACE):
                await self._control.send(link_pb2.DaemonToAgent(disengage=order))
                await self._disengaged.wait()
        except (TpdError, TimeoutError) as error:
            _log.warning("no orderly end", extra={"pod": self.pod.pod, "reason": str(error)})

    async def aclose(self) -> None:
        """Close the link; the agent gives the ports back by itself."""
        await cancel_and_wait(self._task)

    # -- the link's life -----------------------------------------------------------------------------------------
    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            try:
                link, _ = await self._linker.connect(agent_name(self.pod.pod_uid), self._on_open)
            except TpdError as error:
                self._set_problem(str(error.category), error.message, error.hint)
            else:
                try:
                    await self._converse(link, backoff)
                except (TpdError, ProtocolError, TimeoutError) as error:
                    reason = link.reason or str(error) or "no answer"
                    _log.warning("agent link lost", extra={"pod": self.pod.pod, "reason": reason})
                    self._set_problem("network", f"the link to pod {self.pod.pod} was lost: {reason}")
                finally:
                    self.link = self._control = None
                    self.engaged = False
                    self._disengaged.set()
                    self._changes.ring()
                    link.close()
            await asyncio.sleep(backoff.next())

    async def _converse(self, link: Link, backoff: Backoff) -> None:
        request = link_pb2.OpenRequest(control=link_pb2.Control())
        control = MessageStream(await link.open(request.SerializeToString(), timeout=_OPEN_TIMEOUT))
        self._control = control
        self._renewed.clear()
        await control.send(link_pb2.DaemonToAgent(grant=self.pod.grant))
        renewer = spawn(self._renew(control), name=f"renew-{self.pod.pod}", on_error=lambda error: None)
        try:
            while (message := await control.receive(link_pb2.AgentToDaemon)) is not None:
                await self._handle(message, link, control, backoff)
        finally:
            await cancel_and_wait(renewer)
        raise LinkClosed("the agent ended the conversation")

    async def _handle(
        self, message: link_pb2.AgentToDaemon, link: Link, control: MessageStream, backoff: Backoff
    ) -> None:
        match message.WhichOneof("message"):
            case "welcome":
                self.welcome = message.welcome
                self.link = link
                if not self._leaving:
                    await control.send(link_pb2.DaemonToAgent(engage=link_pb2.Engage(attachment=self.attachment)))
            case "engaged":
                self._existing = message.engaged.existing
                self.engaged = True
                self.problem = None
                backoff.reset()
                _log.info("engaged", extra={"pod": self.pod.pod, "existing": self._existing})
            case "disengaged":
                self.engaged = False
                self._disengaged.set()
            case "refused":
                problem = message.refused.problem
                # Another holder of the port may go at any time.
                asyncio.get_running_loop().call_later(_ASK_AGAIN, self._renewed.set)
                self._set_problem(problem.category, problem.message, problem.hint)
                _log.warning("agent refused", extra={"pod": self.pod.pod, "reason": problem.message})
            case "counters":
                self._counters = message.counters
        self._changes.ring()

    async def _renew(self, control: MessageStream) -> None:
        """Forward each newer grant; whatever the agent refuses is asked for again."""
        while True:
            await self._renewed.wait()
            self._renewed.clear()
            await control.send(link_pb2.DaemonToAgent(grant=self.pod.grant))
            if not self.engaged and not self._leaving:
                await control.send(link_pb2.DaemonToAgent(engage=link_pb2.Engage(attachment=self.attachment)))

    def _set_problem(self, category: str, message: str, hint: str = "") -> None:
        self.problem = link_pb2.Problem(category=category, message=message, hint=hint)
        self._changes.ring()

    # -- callers -------------------------------------------------------------------------------------------------
    def _on_open(self, incoming: Incoming) -> None:
        try:
            request = link_pb2.OpenRequest.FromString(incoming.request)
        except DecodeError:
            incoming.reject(RejectCode.UNSUPPORTED, "not an OpenRequest")
            return
        if request.WhichOneof("kind") != "inbound":
            incoming.reject(RejectCode.UNSUPPORTED, "an agent opens only callers' streams")
            return
        inbound = request.inbound
        port = self._local_port(inbound.destination_port) if inbound.attachment == self.attachment else None
        if port is None:
            incoming.reject(RejectCode.DENIED, f"port {inbound.destination_port} is not attached")
            return
        spawn(self._serve(incoming, inbound, port), name="inbound")

    async def _serve(self, incoming: Incoming, inbound: link_pb2.Inbound, port: int) -> None:
        taken: list[Stream] = []

        def opened(stream: Stream) -> None:
            taken.append(stream)
            self._streams.add(stream)

        try:
            await deliver(incoming, inbound, port, may_speak_from=self._may_speak_from, opened=opened)
        finally:
            for stream in taken:
                self._streams.discard(stream)
                self._bytes_in += stream.received
                self._bytes_out += stream.sent
