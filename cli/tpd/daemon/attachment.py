"""An attachment as the daemon sees it: the manager's snapshot, a link for each pod, the volumes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from tpd.daemon.agent import AgentLink
from tpd.daemon.changes import Changes
from tpd.daemon.linker import Linker
from tpd.daemon.volumes import VolumeSet
from tpd_core.aio.stream import Stream
from tpd_core.aio.tasks import spawn
from tpd_core.errors import Category, NetworkError
from tpd_core.proto import control_pb2, link_pb2

_log = logging.getLogger(__name__)


class Attachment:
    """One Attachment object.

    Args:
        state: The manager's first snapshot.
        linker: Makes links.
        changes: Rung when anything in `status` may have changed.
        may_speak_from: See inbound.deliver.
        root: Where volumes are mounted, None where none are wanted.
    """

    def __init__(
        self,
        state: link_pb2.AttachmentState,
        linker: Linker,
        changes: Changes,
        *,
        may_speak_from: Callable[[str], bool],
        root: str | None,
    ) -> None:
        self.state = state
        self.pods: dict[str, AgentLink] = {}
        self.volumes = VolumeSet(root, state.workload_name, self._open_files, changes)
        self._linker = linker
        self._changes = changes
        self._may_speak_from = may_speak_from
        self._leaving = False
        self._ended: set[asyncio.Task[None]] = set()

    def update(self, state: link_pb2.AttachmentState) -> None:
        """Take a newer snapshot: link to new pods, leave those that are gone, pass renewed grants on."""
        self.state = state
        self.volumes.update(state.mounts)
        wanted = {pod.pod_uid: pod for pod in state.pods if pod.HasField("grant")}
        for uid, pod in wanted.items():
            if uid in self.pods:
                self.pods[uid].update(pod)
            elif not self._leaving:
                self.pods[uid] = AgentLink(
                    state.uid,
                    pod,
                    self._linker,
                    self._changes,
                    local_port=self.local_port,
                    may_speak_from=self._may_speak_from,
                )
        known = {pod.pod_uid for pod in state.pods}
        for uid in [uid for uid in self.pods if uid not in known]:
            gone = self.pods.pop(uid)
            _log.info("pod gone", extra={"pod": gone.pod.pod})
            task = spawn(gone.aclose(), name="pod-gone")
            self._ended.add(task)
            task.add_done_callback(self._ended.discard)
        self._changes.ring()

    def local_port(self, container_port: int) -> int | None:
        """Where the laptop's app listens for a container port; None if that port is not attached."""
        return next((port.local_port for port in self.state.ports if port.container_port == container_port), None)

    @property
    def engaged(self) -> bool:
        """At least one pod's traffic comes here."""
        return any(pod.engaged for pod in self.pods.values())

    @property
    def settled(self) -> bool:
        """For every pod it is known how it went, and one is engaged, or the attachment failed."""
        if self.failure is not None:
            return True
        every = len(self.pods) == len(self.state.pods) and all(pod.settled for pod in self.pods.values())
        return self.engaged and every

    @property
    def failure(self) -> link_pb2.Problem | None:
        """Why there is nothing to wait for: the manager gave up, or every pod's agent refused."""
        if self.state.phase == link_pb2.AttachmentState.FAILED:
            return self.state.problem
        problems = [pod.problem for pod in self.pods.values()]
        if len(problems) < max(1, len(self.state.pods)):
            return None
        # A link that is down may come up again; a refusal is an answer.
        refusals = [problem for problem in problems if problem is not None and problem.category != Category.NETWORK]
        return refusals[0] if len(refusals) == len(problems) else None

    @property
    def problem(self) -> link_pb2.Problem | None:
        """The first thing that is wrong: the manager's word, else a pod's."""
        if self.state.HasField("problem"):
            return self.state.problem
        return next((pod.problem for pod in self.pods.values() if pod.problem is not None), None)

    @property
    def welcome(self) -> link_pb2.AgentWelcome | None:
        """What an agent said of environment and user; one that knows the running process's is preferred."""
        found = [pod.welcome for pod in self.pods.values() if pod.welcome is not None]
        best = [one for one in found if one.environment_source == link_pb2.AgentWelcome.PROCESS]
        return next(iter(best or found), None)

    def status(self) -> control_pb2.AttachmentStatus:
        """For the CLI."""
        state = self.state
        return control_pb2.AttachmentStatus(
            uid=state.uid,
            namespace=state.namespace,
            name=state.name,
            workload=f"{state.workload_kind.lower()}/{state.workload_name}",
            container=state.container,
            mode=state.mode,
            ports=state.ports,
            pods=[
                self.pods[pod.pod_uid].status()
                if pod.pod_uid in self.pods
                else control_pb2.PodStatus(pod=pod.pod, ip=pod.pod_ip)
                for pod in state.pods
            ],
            volumes=self.volumes.status(),
            problem=self.problem,
            engaged=self.engaged,
        )

    async def disengage(self, drain: float) -> None:
        """Give the traffic back in every pod; links and volumes stay.

        Args:
            drain: Seconds that open connections may take to fall idle.
        """
        self._leaving = True
        await asyncio.gather(*(pod.disengage(drain) for pod in self.pods.values()))

    async def aclose(self, drain: float | None) -> None:
        """Leave: unmount, close the links.

        Args:
            drain: Seconds that open connections may take to fall idle; None to leave without a word.
        """
        if drain is not None:
            await self.disengage(drain)
        await self.volumes.aclose()
        pods, self.pods = list(self.pods.values()), {}
        await asyncio.gather(*(pod.aclose() for pod in pods))
        if self._ended:
            await asyncio.wait(self._ended)

    async def _open_files(self, volume: str) -> Stream:
        failure: Exception = NetworkError(f"no pod of {self.state.workload_name} is linked")
        for pod in sorted(self.pods.values(), key=lambda pod: not pod.engaged):
            if pod.link is None:
                continue
            try:
                return await pod.open_files(volume)
            except (NetworkError, TimeoutError) as error:
                failure = error
        raise failure
