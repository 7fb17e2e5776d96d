"""Through the API server: port-forward to one of the manager's pods."""

from __future__ import annotations

import ssl
from functools import partial

from tpd.daemon.transports.base import Opened
from tpd_core.errors import ClusterError, NetworkError, TpdError
from tpd_core.proto import control_pb2

_TIMEOUT = 4.0  # seconds; a network that has just come back is met by the next attempt, not this one


class ApiServerTransport:
    """A websocket for each link, to the manager's pods in turn.

    Args:
        api: What the CLI said about the API server.

    Attributes:
        token: Replaced when the CLI brings a newer one.
    """

    kind = control_pb2.TRANSPORT_API_SERVER
    head_start = 3.0

    def __init__(self, api: control_pb2.ApiServer) -> None:
        self.token = api.token.token
        self._api = api
        self._pods = list(api.manager_pods)
        self._tls: ssl.SSLContext | None = None

    def available(self) -> bool:
        """See Transport."""
        return bool(self._api.url and self._pods)

    async def open(self) -> Opened:
        """See Transport."""
        # The HTTP library is loaded only where it is used: it takes a third of the daemon's start and 9 MB.
        from tpd.kube.portforward import ApiAccess, PodPort, PortForward
        from tpd_core.kube.client import api_tls

        if self._tls is None:
            self._tls = api_tls(self._api.ca or None)
        access = ApiAccess(
            self._api.url,
            self._tls,
            {"Authorization": f"Bearer {self.token}"},
            server_hostname=self._api.tls_server_name,
        )
        failure: TpdError = NetworkError("the manager has no pods")
        for pod in list(self._pods):
            # In turn: a pod that accepts the forward but not the link is not tried first again.
            self._pods.remove(pod)
            self._pods.append(pod)
            try:
                target = PodPort(self._api.manager_namespace, pod, self._api.manager_port)
                forward = await PortForward.open(access, target, timeout=_TIMEOUT)
            except ClusterError as error:  # this pod; anything else is true of all of them
                failure = error
            else:
                return Opened(forward.socket, self.kind, partial(getattr, forward, "problem"))
        raise failure
