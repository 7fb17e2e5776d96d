"""How a pod talks to its own API server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tpd_core.errors import ConfigError
from tpd_core.kube.client import ApiClient, api_tls

_MOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_REREAD_AFTER = 60.0  # seconds; the kubelet renews tokens long before they expire


@dataclass(slots=True)
class InCluster:
    """The service account of the pod that this process runs in.

    Args:
        environment: The process's environment (KUBERNETES_SERVICE_HOST and _PORT).
        mount: Where the kubelet puts token, CA and namespace.
    """

    environment: Mapping[str, str]
    mount: Path = _MOUNT
    _token: str = field(default="", init=False)
    _read_at: float = field(default=float("-inf"), init=False)

    @property
    def url(self) -> str:
        """The API server's base URL.

        Raises:
            ConfigError: This process does not run in a pod.
        """
        try:
            host, port = self.environment["KUBERNETES_SERVICE_HOST"], self.environment["KUBERNETES_SERVICE_PORT"]
        except KeyError as error:
            raise ConfigError(
                f"{error.args[0]} is not set: this is not a Kubernetes pod",
                hint="The manager runs inside the cluster: install it with `tpd helm install`.",
            ) from error
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"

    @property
    def namespace(self) -> str:
        """The pod's namespace."""
        return self._read("namespace").strip()

    async def headers(self) -> dict[str, str]:
        """The bearer token, read again once a minute."""
        now = time.monotonic()
        if now - self._read_at > _REREAD_AFTER:
            self._token, self._read_at = self._read("token").strip(), now
        return {"Authorization": f"Bearer {self._token}"}

    def client(self) -> ApiClient:
        """A client with the pod's own rights."""
        return ApiClient(self.url, tls=api_tls(self._read("ca.crt").encode()), headers=self.headers)

    def _read(self, name: str) -> str:
        try:
            return (self.mount / name).read_text()
        except OSError as error:
            raise ConfigError(
                f"{self.mount / name} cannot be read: {error.strerror}",
                hint="The pod needs its service account's token (automountServiceAccountToken).",
            ) from error
