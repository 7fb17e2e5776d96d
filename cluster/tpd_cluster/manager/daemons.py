"""Links of daemons: who they are, what they are told, what they may dial."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import ssl
import time
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from tpd_cluster.manager import pki
from tpd_cluster.manager.board import Board
from tpd_cluster.manager.clusterinfo import ClusterFacts
from tpd_cluster.manager.dial import dial
from tpd_cluster.manager.model import Object
from tpd_cluster.manager.presence import Presence
from tpd_cluster.manager.snapshot import Held, Signer, renewal_time, snapshot
from tpd_core import grants
from tpd_core.aio.errors import LinkClosed, StreamReset
from tpd_core.aio.link import Link
from tpd_core.aio.messages import MessageStream
from tpd_core.aio.stream import Incoming
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.errors import TpdError
from tpd_core.kube import SESSIONS, ApiClient, Change, ChangeKind, NotFound
from tpd_core.proto import link_pb2
from tpd_core.wire.errors import ProtocolError
from tpd_core.wire.frames import RejectCode

_HELLO_TIMEOUT = 10.0
_MAX_EARLY = 64  # streams that wait for the look-up of the session
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Daemon:
    """One daemon's link.

    Attributes:
        id: Names this very connection in the session's status.
        dirty: UIDs of attachments of which it must be told.
        grants: What it holds, by attachment UID and pod UID.
        wake: Set when there is something to tell.
    """

    session: str
    link: Link
    signer: Signer
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    talking: bool = False
    dirty: dict[str, Object | None] = field(default_factory=dict)
    grants: dict[str, dict[str, Held]] = field(default_factory=dict)
    tell_cluster: bool = True
    ended: str = ""
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def touch(self, item: Object, *, gone: bool = False) -> None:
        """An attachment changed."""
        self.dirty[item["metadata"]["uid"]] = None if gone else item
        self.wake.set()


class Daemons:
    """All daemons' links of this replica.

    Args:
        presence: Where it is noted who is here.
        tls: The context of `manager.tpd`, which wants client certificates.
    """

    def __init__(
        self,
        client: ApiClient,
        board: Board,
        facts: ClusterFacts,
        authority: pki.Authority,
        *,
        presence: Presence,
        tls: ssl.SSLContext,
    ) -> None:
        self._client = client
        self._board = board
        self._facts = facts
        self._authority = authority
        self._presence = presence
        self._tls = tls
        self._by_session: dict[str, set[_Daemon]] = {}
        self._closing = False
        board.on_attachment.append(self._attachment_changed)
        board.on_session.append(self._session_changed)
        board.on_registry.append(self._registry_changed)
        facts.on_change = self._cluster_changed

    async def serve(self, sock: socket.socket) -> None:
        """Be the accepting end of one daemon's link until it is gone."""
        if self._closing:
            sock.close()
            return
        daemon: _Daemon | None = None
        early: list[Incoming] = []

        def on_open(incoming: Incoming) -> None:
            if daemon is not None:
                self._on_open(daemon, incoming)
            elif len(early) < _MAX_EARLY:
                early.append(incoming)
            else:
                incoming.reject(RejectCode.DENIED, "not yet")

        try:
            link = await Link.accept(sock, tls=self._tls, on_open=on_open)
        except LinkClosed as error:
            _log.info("a daemon did not get through: %s", error.reason)
            return
        async with link:
            signer = await self._identify(link)
            if signer is None or self._closing:
                return
            daemon = _Daemon(signer.session, link, signer)
            peers = self._by_session.setdefault(signer.session, set())
            peers.add(daemon)
            try:
                for incoming in early:
                    self._on_open(daemon, incoming)
                self._presence.came(daemon.session, daemon.id)
                reason = await link.wait_closed()
                _log.info("daemon gone", extra={"session": daemon.session, "reason": reason})
            finally:
                peers.discard(daemon)
                if not peers:
                    self._by_session.pop(daemon.session, None)
                self._presence.went(daemon.session, daemon.id)

    async def close(self, reason: str) -> None:
        """End all links, for good: their daemons find another replica."""
        self._closing = True
        links = [daemon.link for peers in self._by_session.values() for daemon in peers]
        await asyncio.gather(*(link.aclose(reason) for link in links))
        await asyncio.sleep(0)  # those who waited for the links go on, and say so
        await self._presence.close()

    # -- who is it -----------------------------------------------------------------------------------------------
    async def _identify(self, link: Link) -> Signer | None:
        """The session behind the link's certificate, as the API server knows it; else the link is ended."""
        certificate = link.peer_certificate
        name = pki.session_of(certificate) if certificate is not None else None
        if certificate is None or name is None:
            await link.aclose("this certificate is not a session's")
            return None
        key = grants.session_key_of(certificate)
        try:
            session = await self._client.get(SESSIONS.path(name=name))
        except NotFound:
            await link.aclose(f"session {name} does not exist (any more)")
            return None
        except TpdError as error:
            await link.aclose(f"the session could not be looked up: {error.message}")
            return None
        signed = (session.get("status") or {}).get("certificate") or ""
        if not signed or pki.key_of_certificate(signed.encode()) != key or session["metadata"].get("deletionTimestamp"):
            await link.aclose(f"session {name} belongs to another key")
            return None
        return Signer(name, key, lambda grant: grants.sign(grant, self._authority.key), lambda: os.urandom(16))

    # -- streams -------------------------------------------------------------------------------------------------
    def _on_open(self, daemon: _Daemon, incoming: Incoming) -> None:
        try:
            request = link_pb2.OpenRequest.FromString(incoming.request)
        except DecodeError:
            incoming.reject(RejectCode.UNSUPPORTED, "the request cannot be read")
            return
        kind = request.WhichOneof("kind")
        if kind == "dial":
            resolver = self._facts.current.dns_address if self._facts.current else ""
            spawn(dial(incoming, request.dial, resolver=resolver), name="dial")
        elif kind == "control" and not daemon.talking:
            daemon.talking = True
            spawn(self._converse(daemon, incoming), name="control")
        else:
            incoming.reject(RejectCode.UNSUPPORTED, f"the manager serves no stream of kind {kind}")

    async def _converse(self, daemon: _Daemon, incoming: Incoming) -> None:
        try:
            messages = MessageStream(incoming.accept())
            async with asyncio.timeout(_HELLO_TIMEOUT):
                first = await messages.receive(link_pb2.DaemonToManager)
            if first is None or first.WhichOneof("message") != "hello" or first.hello.session != daemon.session:
                daemon.link.close("the first message is not this session's hello")
                return
            _log.info("daemon linked", extra={"session": daemon.session, "version": first.hello.version})
            for item in self._board.attachments():
                if item["spec"]["session"] == daemon.session:
                    daemon.touch(item)
            teller = spawn(self._tell(daemon, messages), name="tell daemon")
            try:
                while await messages.receive(link_pb2.DaemonToManager) is not None:
                    pass  # something that only a newer manager understands
            finally:
                await cancel_and_wait(teller)
        except (LinkClosed, StreamReset):
            return
        except (ProtocolError, TimeoutError) as error:
            daemon.link.close(f"control: {error or 'no hello in time'}")
        finally:
            daemon.talking = False

    async def _tell(self, daemon: _Daemon, messages: MessageStream) -> None:
        """Say what changed, whenever it does, and renew grants in time."""
        with contextlib.suppress(LinkClosed, StreamReset):
            while not daemon.ended:
                await self._tell_once(daemon, messages)
                await self._wait(daemon)
            await messages.send(link_pb2.ManagerToDaemon(ended=link_pb2.SessionEnded(reason=daemon.ended)))
            messages.stream.write_eof()

    async def _tell_once(self, daemon: _Daemon, messages: MessageStream) -> None:
        daemon.wake.clear()
        if daemon.tell_cluster and self._facts.current is not None:
            daemon.tell_cluster = False
            await messages.send(link_pb2.ManagerToDaemon(cluster=self._facts.current))
        now = time.time()
        for uid, held in daemon.grants.items():
            due = renewal_time(held)
            if due is not None and due <= now:
                self._touch_uid(daemon, uid)
        dirty, daemon.dirty = daemon.dirty, {}
        for uid, item in dirty.items():
            await messages.send(self._message(daemon, uid, item, now))

    async def _wait(self, daemon: _Daemon) -> None:
        dues = [due for held in daemon.grants.values() if (due := renewal_time(held)) is not None]
        timeout = max(min(dues) - time.time(), 0.0) if dues else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await daemon.wake.wait()

    def _message(self, daemon: _Daemon, uid: str, item: Object | None, now: float) -> link_pb2.ManagerToDaemon:
        if item is None:
            daemon.grants.pop(uid, None)
            return link_pb2.ManagerToDaemon(gone=link_pb2.AttachmentGone(uid=uid))
        state, daemon.grants[uid] = snapshot(
            item, agents=self._board.agents, signer=daemon.signer, held=daemon.grants.get(uid, {}), now=now
        )
        return link_pb2.ManagerToDaemon(attachment=state)

    def _touch_uid(self, daemon: _Daemon, uid: str) -> None:
        for item in self._board.attachments():
            if item["metadata"]["uid"] == uid:
                daemon.touch(item)

    # -- changes -------------------------------------------------------------------------------------------------
    def _attachment_changed(self, change: Change) -> None:
        for daemon in self._by_session.get(change.object["spec"]["session"], ()):
            daemon.touch(change.object, gone=change.kind is ChangeKind.DELETED)

    def _registry_changed(self) -> None:
        for item in self._board.attachments():
            for daemon in self._by_session.get(item["spec"]["session"], ()):
                daemon.touch(item)

    def _session_changed(self, change: Change) -> None:
        if change.kind is ChangeKind.DELETED or change.object["metadata"].get("deletionTimestamp"):
            for daemon in self._by_session.get(change.object["metadata"]["name"], ()):
                daemon.ended = "the session was deleted"
                daemon.wake.set()
                asyncio.get_running_loop().call_later(2.0, daemon.link.close, daemon.ended)

    def _cluster_changed(self, _info: link_pb2.ClusterInfo) -> None:
        for peers in self._by_session.values():
            for daemon in peers:
                daemon.tell_cluster = True
                daemon.wake.set()
