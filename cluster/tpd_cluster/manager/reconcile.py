"""The leader's work: sign and end sessions, bring agents to attachments' pods, keep the registry clean.

Everything here decides through `sessions`, `plan` and `rights`, and only carries out.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import secrets
import time
from typing import Any, Final

from tpd_cluster.manager import inject, pki, plan, pods, sessions, stop, tickets, workloads
from tpd_cluster.manager.board import Board
from tpd_cluster.manager.clusterinfo import ClusterFacts
from tpd_cluster.manager.model import Attachment, Object, Problem
from tpd_cluster.manager.rights import Rights
from tpd_cluster.manager.settings import Settings
from tpd_cluster.manager.workqueue import WorkQueue
from tpd_core.errors import Category
from tpd_core.kube import ATTACHMENTS, SESSIONS, ApiClient, ApiError, Change, ChangeKind, NotFound
from tpd_core.kube.paths import PODS

Key = tuple[str, str, str]
"""What to look at: "session", "attachment", "stop" or "sweep"; namespace; name."""

_STOP: Final[Key] = ("stop", "", "")
_SWEEP: Final[Key] = ("sweep", "", "")
_SWEEP_EVERY: Final = 600.0
"""Seconds between checks of registered agents in namespaces that are not watched."""
_EXPECT_FOR: Final = 30.0
"""Seconds in which the watch must show what was patched in."""

_log = logging.getLogger(__name__)


class Reconciler:
    """Runs while this replica leads."""

    def __init__(
        self,
        client: ApiClient,
        board: Board,
        facts: ClusterFacts,
        authority: pki.Authority,
        settings: Settings,
        agents: inject.AgentSettings,
        stopper: stop.Stopper,
    ) -> None:
        self._client = client
        self._board = board
        self._facts = facts
        self._authority = authority
        self._settings = settings
        self._agents = agents
        self._stopper = stopper
        self._secret = tickets.secret_from(authority.key_pem)
        self._rights = Rights(
            client,
            require_exec=settings.require_exec,
            namespaces=settings.agent_namespaces,
            monotonic=time.monotonic,
        )
        self._queue: WorkQueue[Key] = WorkQueue(self._handle)
        self._indexes = workloads.PodIndexes(client, self._pod_changed)
        self._expected: dict[str, tuple[str, float]] = {}  # by pod UID: container, Unix seconds
        self._refusals: dict[str, plan.Refusal] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Work until cancelled."""
        board = self._board
        self._queue = WorkQueue(self._handle)
        self._indexes = workloads.PodIndexes(self._client, self._pod_changed)
        board.on_session.append(self._session_changed)
        board.on_attachment.append(self._attachment_changed)
        board.on_registry.append(self._registry_changed)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._follow_namespaces()
                for session in board.sessions():
                    self._queue.add(("session", "", session["metadata"]["name"]))
                self._look_at_attachments()
                self._queue.add(_STOP)
                self._queue.add(_SWEEP)
                await self._queue.run()
        finally:
            self._group = None
            board.on_session.remove(self._session_changed)
            board.on_attachment.remove(self._attachment_changed)
            board.on_registry.remove(self._registry_changed)

    # -- what changed --------------------------------------------------------------------------------------------
    def _session_changed(self, change: Change) -> None:
        self._queue.add(("session", "", change.object["metadata"]["name"]))

    def _attachment_changed(self, change: Change) -> None:
        metadata = change.object["metadata"]
        self._follow_namespaces()
        if change.kind is ChangeKind.DELETED:
            self._rights.forget(metadata["uid"])
        if change.kind is ChangeKind.DELETED or (
            change.old is not None and _phase(change.old) != _phase(change.object)
        ):
            self._look_at_attachments(metadata["namespace"])  # who has a port decides for the others
        self._queue.add(("attachment", metadata["namespace"], metadata["name"]))

    def _registry_changed(self) -> None:
        self._look_at_attachments()
        self._queue.add(_STOP)

    def _pod_changed(self, change: Change) -> None:
        metadata = change.object["metadata"]
        if change.kind is ChangeKind.DELETED:
            self._expected.pop(metadata["uid"], None)
            self._refusals.pop(metadata["uid"], None)
        self._look_at_attachments(metadata["namespace"])

    def _look_at_attachments(self, namespace: str | None = None) -> None:
        for item in self._board.attachments():
            metadata = item["metadata"]
            if namespace is None or metadata["namespace"] == namespace:
                self._queue.add(("attachment", metadata["namespace"], metadata["name"]))

    def _follow_namespaces(self) -> None:
        if self._group is not None:
            allowed = self._settings.agent_namespaces
            wanted = {item["metadata"]["namespace"] for item in self._board.attachments()}
            self._indexes.want({name for name in wanted if not allowed or name in allowed}, self._group)

    async def _handle(self, key: Key) -> float | None:
        kind, namespace, name = key
        if kind == "session":
            return await self._session(name)
        if kind == "attachment":
            return await self._attachment(namespace, name)
        if kind == "stop":
            await self._stopper.obey()
            return None
        await self._stopper.sweep()
        return _SWEEP_EVERY

    # -- sessions ------------------------------------------------------------------------------------------------
    async def _session(self, name: str) -> float | None:
        session = self._board.session(name)
        if session is None:
            await self._end_attachments(name)
            return None
        now = time.time()
        step = sessions.decide(
            session, now=now, grace=self._settings.session_grace, connect_within=self._settings.session_connect_within
        )
        if step.step is sessions.Step.SIGN:
            await self._sign(session)
        elif step.step is sessions.Step.DELETE:
            _log.info("session ends", extra={"session": name, "reason": step.reason})
            await self._delete(SESSIONS.path(name=name), session)
        return None if step.again is None else step.again - now

    async def _sign(self, session: Object) -> None:
        name = session["metadata"]["name"]
        path = SESSIONS.path(name=name)
        current = await self._client.get(path)  # never from a cache: what is signed is what the API server holds
        if (current.get("status") or {}).get("phase"):
            return
        info = self._facts.current or await self._facts.refresh()
        settings = self._settings
        status = sessions.signed_status(
            current,
            self._authority,
            datetime.datetime.now(datetime.UTC),
            endpoints=list(info.endpoints),
            manager={"namespace": settings.namespace, "pods": settings.pods, "port": settings.port},
        )
        body = {"metadata": {"resourceVersion": current["metadata"]["resourceVersion"]}, "status": status}
        await self._client.patch(f"{path}/status", body)
        _log.info("session signed", extra={"session": name, "user": current["spec"]["user"]})

    async def _end_attachments(self, session: str) -> None:
        """The API server's garbage collector would do it too, some seconds later, if they are owned as they should."""
        for item in self._board.attachments():
            if item["spec"]["session"] == session:
                metadata = item["metadata"]
                await self._delete(ATTACHMENTS.path(metadata["namespace"], metadata["name"]), item)

    async def _delete(self, path: str, item: Object) -> None:
        try:
            await self._client.delete(path, {"preconditions": {"uid": item["metadata"]["uid"]}})
        except NotFound:
            return

    # -- attachments ---------------------------------------------------------------------------------------------
    async def _attachment(self, namespace: str, name: str) -> float | None:
        item = self._board.attachment(namespace, name)
        if item is None or item["metadata"].get("deletionTimestamp"):
            return None
        attachment = Attachment.of(item)
        now = time.time()
        decided = await self._decide(attachment, now)
        await asyncio.gather(*(self._inject(attachment, pod, now) for pod in decided.pods))
        await self._write_status(item, {**decided.status(), "ports": attachment.ports_title})
        due = decided.again
        if any(pod.inject_agent for pod in decided.pods):
            due = min(due or float("inf"), now + _EXPECT_FOR + 1)  # should the watch never show it
        return None if due is None else due - now

    async def _decide(self, attachment: Attachment, now: float) -> plan.Plan:
        problem = await self._rights.check(attachment, await self._session_of(attachment))
        if problem is None:
            others = [other for other in self._board.attachments() if _phase(other) != plan.FAILED]
            problem = plan.conflict(attachment, map(Attachment.of, others))
        index = self._indexes.get(attachment.namespace)
        if problem is not None or index is None:
            return plan.failed(problem or _unwatched(attachment))
        present = await index.of(attachment)
        if not present:
            names = await workloads.missing(self._client, attachment)
            if names is not None:
                return plan.failed(_no_workload(attachment, names))
        expected = {uid: name for uid, (name, since) in self._expected.items() if now < since + _EXPECT_FOR}
        return plan.decide(
            attachment,
            present,
            registry=self._board.agents,
            expected=expected,
            refusals=self._refusals,
            now=now,
        )

    async def _session_of(self, attachment: Attachment) -> Object | None:
        """The watch of sessions may be behind the one of attachments."""
        known = self._board.session(attachment.session)
        if known is not None:
            return known
        try:
            return await self._client.get(SESSIONS.path(name=attachment.session))
        except NotFound:
            return None

    async def _inject(self, attachment: Attachment, pod_plan: plan.PodPlan, now: float) -> None:
        """Patch containers into one pod, unless another attachment is just doing so."""
        pod = pod_plan.pod
        metadata = pod["metadata"]
        uid = metadata["uid"]
        container = pods.container_of(pod, attachment.container)
        if container is None or not (pod_plan.inject_agent or pod_plan.peek_token) or self._expects(pod, now):
            return
        suffix = secrets.token_hex(3)[:5]
        token = pod_plan.peek_token or secrets.token_hex(16)
        peek_name = pods.PEEK_PREFIX + suffix
        added = [inject.peek_container(pod, container, name=peek_name, token=token, settings=self._agents)]
        name = peek_name
        if pod_plan.inject_agent:
            name = pods.AGENT_PREFIX + suffix
            claim = tickets.Claim(
                metadata["namespace"], metadata["name"], uid, name, int(now + plan.PULL_DEADLINE + plan.ENROLL_DEADLINE)
            )
            agent = inject.agent_container(
                pod,
                name=name,
                ticket=tickets.make(claim, self._secret),
                token=token,
                injected=int(now),
                settings=self._agents,
            )
            added.insert(0, agent)
        self._expected[uid] = (name, now)
        path = PODS.path(metadata["namespace"], metadata["name"], "ephemeralcontainers")
        try:
            await self._client.patch(path, inject.patch(*added), "strategic")
        except NotFound:
            self._expected.pop(uid, None)
        except ApiError as error:
            self._expected.pop(uid, None)
            count = self._refusals[uid].count + 1 if uid in self._refusals else 1
            self._refusals[uid] = plan.Refusal(error.words or error.message, count, now)
            _log.warning("a pod refused the agent: %s", error.message)
            self._queue.add(("attachment", attachment.namespace, attachment.name))
        except BaseException:
            self._expected.pop(uid, None)
            raise
        else:
            self._refusals.pop(uid, None)
            _log.info(
                "injected", extra={"namespace": metadata["namespace"], "pod": metadata["name"], "containers": name}
            )

    def _expects(self, pod: Object, now: float) -> bool:
        """Something was patched in that this state of the pod does not show: the decision came too early."""
        name, since = self._expected.get(pod["metadata"]["uid"], ("", 0.0))
        shown = (entry["name"] for entry in pod["spec"].get("ephemeralContainers") or ())
        return now < since + _EXPECT_FOR and name not in shown

    async def _write_status(self, item: Object, status: dict[str, Any]) -> None:
        current = item.get("status") or {}
        if all((current.get(name) or None) == (value or None) for name, value in status.items()):
            return
        metadata = item["metadata"]
        path = ATTACHMENTS.path(metadata["namespace"], metadata["name"], "status")
        try:
            await self._client.patch(path, {"metadata": {"uid": metadata["uid"]}, "status": status})
        except NotFound:
            return


def _phase(item: Object) -> str:
    return (item.get("status") or {}).get("phase") or ""


def _unwatched(attachment: Attachment) -> Problem:
    return Problem(Category.BUG, f"Namespace {attachment.namespace} is not watched")


def _no_workload(attachment: Attachment, names: str) -> Problem:
    return Problem(
        Category.USER,
        f"{attachment.title} does not exist in namespace {attachment.namespace}",
        hint=f"Those of that kind there: {names}.",
    )
