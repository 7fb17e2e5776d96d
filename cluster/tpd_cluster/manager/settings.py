"""What the chart tells the manager, by environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tpd_core.errors import ConfigError

REGISTRY = "tpd-agents"
CA_SECRET = "tpd-ca"  # noqa: S105 - a name
LEASE = "tpd-manager"


@dataclass(frozen=True, slots=True)
class Settings:
    """The manager's configuration.

    Attributes:
        namespace: The manager's own.
        pod: This replica's pod name, also its name as leader.
        pod_ip: Its address.
        service: Name of the Service in front of all replicas.
        replicas: How many there are; pod names are made from it.
        port: The router's TCP port.
        health_port: TCP port of /healthz and /readyz.
        agent_image: Image of agents.
        agent_pull_policy: Their imagePullPolicy.
        agent_idle_timeout: Seconds.
        agent_log: Their log level.
        agent_namespaces: Where agents may be injected; empty for everywhere.
        require_exec: An attachment also needs the right to `pods/exec`.
        session_grace: Seconds after the loss of a session's link until the session is deleted.
        session_connect_within: Seconds in which a new session's daemon must connect.
        pod_cidrs: Instead of what the nodes say.
        service_cidrs: Instead of what the API server says.
        cluster_domain: Instead of what resolv.conf says.
        dns_address: Instead of what resolv.conf says.
        endpoint_type: "None", "NodePort" or "LoadBalancer".
        endpoint_host: Instead of the nodes' or the load balancer's addresses.
        endpoint_service: Name of the Service behind the endpoint.
        log: Level.
    """

    namespace: str
    pod: str
    pod_ip: str
    agent_image: str
    service: str = "tpd-manager"
    replicas: int = 2
    port: int = 8443
    health_port: int = 8080
    agent_pull_policy: str = "IfNotPresent"
    agent_idle_timeout: int = 3600
    agent_log: str = "info"
    agent_namespaces: tuple[str, ...] = ()
    require_exec: bool = True
    session_grace: int = 60
    session_connect_within: int = 300
    pod_cidrs: tuple[str, ...] = ()
    service_cidrs: tuple[str, ...] = ()
    cluster_domain: str = ""
    dns_address: str = ""
    endpoint_type: str = "None"
    endpoint_host: str = ""
    endpoint_service: str = "tpd-endpoint"
    log: str = "info"

    @classmethod
    def load(cls, environment: Mapping[str, str]) -> Settings:
        """From TPD_* variables.

        Raises:
            ConfigError: One is missing or not of its type; the message names it.
        """
        values: dict[str, object] = {}
        for name, default in _DEFAULTS.items():
            variable = f"TPD_{name.upper()}"
            text = environment.get(variable)
            if text is None or (text == "" and default is not None):
                if default is None:
                    raise ConfigError(f"{variable} is not set", hint="Install the manager with its chart.")
                continue
            values[name] = _parse(variable, text, default)
        return cls(**values)  # type: ignore[arg-type]  # _parse gives each its default's type

    @property
    def pods(self) -> list[str]:
        """Names of all replicas' pods."""
        return [f"tpd-manager-{index}" for index in range(self.replicas)]


_DEFAULTS: Mapping[str, object] = {
    name: None if name in ("namespace", "pod", "pod_ip", "agent_image") else field.default
    for name, field in Settings.__dataclass_fields__.items()
}


def _parse(variable: str, text: str, default: object) -> object:
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ConfigError(f"{variable} is {text!r}", hint="It must be true or false.")
        return text == "true"
    if isinstance(default, int):
        if not (text.isascii() and text.isdigit()):
            raise ConfigError(f"{variable} is {text!r}", hint="It must be a whole number.")
        return int(text)
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text
