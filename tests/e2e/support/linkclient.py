"""A daemon of few lines: it makes a Session, links to the manager and to agents, and says and hears what one does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tpd_core.aio.link import Link
from tpd_core.aio.messages import MessageStream
from tpd_core.aio.stream import Incoming
from tpd_core.aio.tasks import spawn
from tpd_core.aio.tls import client_context
from tpd_core.kube import ATTACHMENTS, SESSIONS, ApiClient, api_tls
from tpd_core.kube.client import wait_for
from tpd_core.kube.paths import SELF_SUBJECT_REVIEWS
from tpd_core.proto import link_pb2

GROUP = "tpd.dev/v1alpha1"


@contextlib.asynccontextmanager
async def api(kubeconfig: str, *, as_user: str = "", as_groups: tuple[str, ...] = ()) -> AsyncIterator[ApiClient]:
    """A client with the lab's admin certificate, or impersonating somebody."""
    config = yaml.safe_load(Path(kubeconfig).read_text())
    server, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    tls = api_tls(base64.b64decode(server["certificate-authority-data"]))
    descriptor = Path(f"/dev/shm/tpd-test-{secrets.token_hex(4)}")
    descriptor.write_bytes(
        b"\n".join(base64.b64decode(user[key]) for key in ("client-certificate-data", "client-key-data"))
    )
    tls.load_cert_chain(descriptor)
    descriptor.unlink()

    async def headers() -> dict[str, str]:
        return {"Impersonate-User": as_user, **({"Impersonate-Group": as_groups[0]} if as_groups else {})}

    async with ApiClient(server["server"], tls=tls, headers=headers if as_user else None) as client:
        yield client


@dataclass
class Key:
    """A private key, and what is made of it."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def request(self) -> str:
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        return builder.sign(self.key, SHA256()).public_bytes(Encoding.PEM).decode()


@dataclass
class Session:
    """A Session object that the manager has signed."""

    client: ApiClient
    key: Key
    item: dict[str, Any]
    user: str

    @property
    def name(self) -> str:
        return str(self.item["metadata"]["name"])

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.item["status"])

    @property
    def endpoint(self) -> tuple[str, int]:
        first = self.status["endpoints"][0]
        return first["host"], first["port"]

    async def link(
        self, name: str = "manager.tpd", on_open: Callable[[Incoming], None] = lambda incoming: incoming.reject(5)
    ) -> Link:
        """A link to the manager, or to `<pod-uid>.agent.tpd`, by the cluster's endpoint."""
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self.endpoint)
        ca, certificate = self.status["ca"].encode(), self.status["certificate"].encode()
        return await Link.connect(
            sock, tls=client_context(ca, certificate, self.key.pem), server_hostname=name, on_open=on_open
        )

    async def attach(
        self, namespace: str, workload: str, *, container: str = "app", port: int = 8080, kind: str = "Deployment"
    ) -> dict[str, Any]:
        """Make an Attachment object."""
        owner = {
            "apiVersion": GROUP,
            "kind": "Session",
            "name": self.name,
            "uid": self.item["metadata"]["uid"],
            "blockOwnerDeletion": False,
        }
        body = {
            "apiVersion": GROUP,
            "kind": "Attachment",
            "metadata": {"generateName": f"{workload}-", "namespace": namespace, "ownerReferences": [owner]},
            "spec": {
                "session": self.name,
                "user": self.user,
                "workload": {"kind": kind, "name": workload},
                "container": container,
                "mode": "intercept",
                "ports": [{"containerPort": port, "localPort": port}],
            },
        }
        return await self.client.create(ATTACHMENTS.path(namespace), body)

    async def attachment_in(self, phase: str, item: dict[str, Any], timeout: float = 30) -> dict[str, Any]:
        """The attachment once it is in a phase."""
        metadata = item["metadata"]
        found = await wait_for(
            self.client,
            ATTACHMENTS.path(metadata["namespace"]),
            metadata["name"],
            done=lambda now: now is not None and (now.get("status") or {}).get("phase") == phase,
            timeout=timeout,
        )
        assert found is not None
        return found

    async def delete(self) -> None:
        await self.client.delete(SESSIONS.path(name=self.name))


async def whoami(client: ApiClient) -> dict[str, Any]:
    """Name and groups of the client's user."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = await client.create(SELF_SUBJECT_REVIEWS.path(), review)
    return dict(answer["status"]["userInfo"])


def session_body(user: str, groups: list[str], request: str) -> dict[str, Any]:
    return {
        "apiVersion": GROUP,
        "kind": "Session",
        "metadata": {"generateName": "e2e-manager-"},
        "spec": {"user": user, "groups": groups, "request": request, "client": {"version": "0", "host": "test"}},
    }


async def open_session(client: ApiClient) -> Session:
    """Make a Session and wait until the manager has signed it."""
    me, key = await whoami(client), Key()
    made = await client.create(SESSIONS.path(), session_body(me["username"], me.get("groups") or [], key.request))
    item = await wait_for(
        client,
        SESSIONS.path(),
        made["metadata"]["name"],
        done=lambda now: now is not None and bool((now.get("status") or {}).get("phase")),
        timeout=20,
    )
    assert item is not None
    return Session(client, key, item, me["username"])


class Control:
    """The control conversation with the manager; keeps what it said."""

    def __init__(self, messages: MessageStream) -> None:
        self.messages = messages
        self.cluster: link_pb2.ClusterInfo | None = None
        self.attachments: dict[str, link_pb2.AttachmentState] = {}
        self.gone: set[str] = set()
        self.ended = ""
        self._changed = asyncio.Condition()

    @classmethod
    async def start(cls, link: Link, session: str) -> Control:
        stream = await link.open(link_pb2.OpenRequest(control=link_pb2.Control()).SerializeToString(), timeout=10)
        control = cls(MessageStream(stream))
        hello = link_pb2.DaemonHello(version="test", session=session)
        await control.messages.send(link_pb2.DaemonToManager(hello=hello))
        spawn(control._listen(), name="control", on_error=lambda error: None)
        return control

    async def _listen(self) -> None:
        while (message := await self.messages.receive(link_pb2.ManagerToDaemon)) is not None:
            async with self._changed:
                kind = message.WhichOneof("message")
                if kind == "cluster":
                    self.cluster = message.cluster
                elif kind == "attachment":
                    self.attachments[message.attachment.uid] = message.attachment
                elif kind == "gone":
                    self.attachments.pop(message.gone.uid, None)
                    self.gone.add(message.gone.uid)
                elif kind == "ended":
                    self.ended = message.ended.reason
                self._changed.notify_all()

    async def until(self, seen: Callable[[Control], object], timeout: float = 20) -> None:
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(lambda: bool(seen(self)))

    async def granted(self, uid: str, timeout: float = 20) -> link_pb2.AttachmentState:
        """The attachment's state once every pod of it has a grant."""

        def complete(control: Control) -> bool:
            state = control.attachments.get(uid)
            return state is not None and bool(state.pods) and all(pod.HasField("grant") for pod in state.pods)

        await self.until(complete, timeout)
        return self.attachments[uid]
