"""Reading kubeconfig files as kubectl does: several merge into one, and the first mention of a name counts.

Logins that need a program or a refresh (exec plugins, OIDC) are left to the `kubernetes` package's loader.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tpd_core.errors import ConfigError


@dataclass(slots=True)
class Kubeconfig:
    """Merged files.

    Attributes:
        paths: As given, for messages.
        contexts: By name; so are clusters and users, each with the directory that its relative paths start from.
    """

    paths: str
    current: str = ""
    contexts: dict[str, dict[str, Any]] = field(default_factory=dict)
    clusters: dict[str, tuple[dict[str, Any], Path]] = field(default_factory=dict)
    users: dict[str, tuple[dict[str, Any], Path]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """One context with what it names."""

    name: str
    namespace: str
    cluster: Mapping[str, Any]
    cluster_base: Path
    user: Mapping[str, Any]
    user_base: Path

    @property
    def needs_plugin(self) -> bool:
        """The login needs a program, or a provider's refresh."""
        return bool(self.user.get("exec") or self.user.get("auth-provider"))


def read_kubeconfig(paths: str) -> Kubeconfig:
    """Read and merge files.

    Args:
        paths: Joined by the platform's path separator; those that do not exist are left out.

    Raises:
        ConfigError: One is no kubeconfig.
    """
    merged = Kubeconfig(paths)
    for text in paths.split(os.pathsep):
        path = Path(text).expanduser()
        if text and path.exists():
            _merge(merged, path)
    return merged


def select(config: Kubeconfig, context: str | None) -> Entry:
    """The context of that name, or the current one.

    Raises:
        ConfigError: It does not exist, or names a cluster or user that does not.
    """
    name = context or config.current
    known = ", ".join(sorted(config.contexts))
    if not name:
        raise ConfigError(
            f"the kubeconfig {config.paths!r} selects no context",
            hint=f"Pass --context with one of: {known}." if known else "",
        )
    if name not in config.contexts:
        raise ConfigError(
            f"there is no context {name!r} in the kubeconfig {config.paths!r}",
            hint=f"It has: {known}." if known else "It has none.",
        )
    chosen = config.contexts[name]
    cluster, user = str(chosen.get("cluster") or ""), str(chosen.get("user") or "")
    if cluster not in config.clusters:
        raise ConfigError(f"the context {name!r} of the kubeconfig {config.paths!r} names no cluster that is in it")
    if user and user not in config.users:
        raise ConfigError(
            f"the context {name!r} names the user {user!r}, who is not in the kubeconfig {config.paths!r}"
        )
    cluster_entry, cluster_base = config.clusters[cluster]
    user_entry, user_base = config.users.get(user, ({}, Path()))
    namespace = str(chosen.get("namespace") or "default")
    return Entry(name, namespace, cluster_entry, cluster_base, user_entry, user_base)


def plain_settings(entry: Entry, settings: SimpleNamespace, scratch: Path) -> None:
    """Put an entry that needs no plugin into the form that the package's loader gives.

    Args:
        entry: What to read.
        settings: Gets host, ssl_ca_cert, cert_file, key_file, verify_ssl, tls_server_name, proxy and api_key
            (or token_file).
        scratch: Directory for certificates that the entry holds inline.

    Raises:
        OSError: A file that it names cannot be read.
        ValueError: Inline data are not base64.
    """
    cluster, user = entry.cluster, entry.user
    settings.host = str(cluster.get("server") or "").rstrip("/")
    settings.verify_ssl = not cluster.get("insecure-skip-tls-verify", False)
    settings.tls_server_name = cluster.get("tls-server-name") or None
    settings.proxy = cluster.get("proxy-url") or None
    settings.ssl_ca_cert = _file(cluster, "certificate-authority", entry.cluster_base, scratch)
    settings.cert_file = _file(user, "client-certificate", entry.user_base, scratch)
    settings.key_file = _file(user, "client-key", entry.user_base, scratch)
    token = user.get("token") or ""
    if not token and user.get("tokenFile"):
        # Whoever writes such a file renews it: it is read for every request.
        settings.token_file = entry.user_base / str(user["tokenFile"])
        settings.token_file.read_text(encoding="utf-8")
    elif token:
        settings.api_key["BearerToken"] = f"Bearer {token}"
    elif user.get("username"):
        words = f"{user['username']}:{user.get('password') or ''}"
        settings.api_key["BearerToken"] = f"Basic {base64.b64encode(words.encode()).decode()}"


def _file(entry: Mapping[str, Any], key: str, base: Path, scratch: Path) -> str | None:
    if entry.get(f"{key}-data"):
        path = scratch / key
        path.touch(mode=0o600)
        path.write_bytes(base64.b64decode(str(entry[f"{key}-data"]), validate=False))
        return str(path)
    return str(base / str(entry[key])) if entry.get(key) else None


def _merge(merged: Kubeconfig, path: Path) -> None:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 (a safe loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        words = " ".join(str(error).split())
        raise ConfigError(f"the kubeconfig {str(path)!r} cannot be read: {words}") from error
    if content is None:
        return
    if not isinstance(content, dict):
        raise ConfigError(f"the file {str(path)!r} is not a kubeconfig")
    base = path.absolute().parent
    merged.current = merged.current or str(content.get("current-context") or "")
    for item in content.get("contexts") or ():
        merged.contexts.setdefault(str(item.get("name")), item.get("context") or {})
    for item in content.get("clusters") or ():
        merged.clusters.setdefault(str(item.get("name")), (item.get("cluster") or {}, base))
    for item in content.get("users") or ():
        merged.users.setdefault(str(item.get("name")), (item.get("user") or {}, base))
