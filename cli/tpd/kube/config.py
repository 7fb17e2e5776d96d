"""Kubeconfig to a connection: every login that the `kubernetes` package knows, without its client.

The package's loader runs exec plugins, refreshes OIDC tokens and reads client certificates, tokens and passwords; what
it finds becomes an `ssl.SSLContext` and an Authorization header.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from tpd.kube.kubeconfig import Entry, plain_settings, read_kubeconfig, select
from tpd_core.errors import ConfigError

KUBECONFIG_DEFAULT = "~/.kube/config"


@dataclass(slots=True)
class Login:
    """How to reach one cluster as one user.

    Attributes:
        server: The API server's URL, without a trailing slash.
        context: The kubeconfig context's name.
        namespace: The context's namespace, "default" where it names none.
        ssl: TLS settings for the API server; None for plain HTTP.
        ca: The API server's CA certificates, PEM; empty for the system's.
        tls_server_name: The name to verify in the server's certificate; None for the URL's host.
        proxy: An HTTP proxy's URL; None for a direct connection.
        verify: False where the kubeconfig says to skip verification.
    """

    server: str
    context: str
    namespace: str
    ssl: ssl.SSLContext | None
    ca: bytes
    tls_server_name: str | None
    proxy: str | None
    verify: bool
    _loader: Any = field(repr=False)
    _settings: SimpleNamespace = field(repr=False)

    @property
    def host(self) -> str:
        """The API server's host name or address."""
        return urlsplit(self.server).hostname or ""

    @property
    def port(self) -> int:
        """The API server's TCP port."""
        parts = urlsplit(self.server)
        return parts.port or (443 if parts.scheme == "https" else 80)

    async def headers(self) -> dict[str, str]:
        """Authorization headers, fresh: an expired token is renewed first (in a thread, plugins may take seconds)."""
        token_file: Path | None = getattr(self._settings, "token_file", None)
        if token_file is not None:
            with _config_errors(str(token_file)):
                return {"Authorization": f"Bearer {token_file.read_text(encoding='utf-8').strip()}"}
        hook = getattr(self._settings, "refresh_api_key_hook", None)
        if hook is not None and self._loader is not None and _expired(self._loader):
            with _config_errors(self.context):
                await asyncio.to_thread(hook, self._settings)
        token = self._settings.api_key.get("BearerToken")
        return {"Authorization": token} if token else {}


def load_login(kubeconfig: str | None = None, context: str | None = None) -> Login:
    """Read the kubeconfig and log in.

    Args:
        kubeconfig: A path, or several joined as in KUBECONFIG; None takes KUBECONFIG, else ~/.kube/config.
        context: The context's name; None takes the current one.

    Raises:
        ConfigError: The file, the context or what it names is missing or wrong, or its login plugin failed.
    """
    paths = kubeconfig or os.environ.get("KUBECONFIG") or KUBECONFIG_DEFAULT
    _require_file(paths, kubeconfig is not None)
    entry = select(read_kubeconfig(paths), context)
    if entry.needs_plugin:
        return _load_with_package(paths, entry)
    settings = SimpleNamespace(api_key={})
    with tempfile.TemporaryDirectory(prefix="tpd-kube-") as scratch, _config_errors(paths):
        plain_settings(entry, settings, Path(scratch))
        return _login(entry, settings, None)


def _load_with_package(paths: str, entry: Entry) -> Login:
    # Half a second to load, so only for the logins that need it.
    from kubernetes.config import kube_config

    package: Any = kube_config  # it has no annotations
    with _config_errors(paths):
        merger = package.KubeConfigMerger(paths)
        # Client keys that a plugin hands out pass through files: a directory of our own, emptied at once.
        with tempfile.TemporaryDirectory(prefix="tpd-kube-") as scratch:
            loader = package.KubeConfigLoader(
                config_dict=merger.config,
                active_context=entry.name,
                config_base_path=None,
                config_persister=merger.save_changes,
                temp_file_path=scratch,
            )
            settings = SimpleNamespace(api_key={})
            with _spoken_errors() as spoken:
                loader.load_and_set(settings)
            if spoken:
                raise ConfigError(f"the login of context {entry.name!r} failed: {spoken[-1]}")
            try:
                return _login(entry, settings, loader)
            finally:
                vars(package)["_temp_files"].clear()  # it would hand out the removed files' names again


def _login(entry: Entry, settings: SimpleNamespace, loader: Any) -> Login:
    server = getattr(settings, "host", "")
    if not server:
        raise ConfigError(f"the context {entry.name!r} names a cluster without a server")
    verify = bool(getattr(settings, "verify_ssl", True))
    ca_file = getattr(settings, "ssl_ca_cert", None)
    ca = Path(ca_file).read_bytes() if ca_file else b""
    tls = None
    if server.startswith("https"):
        tls = _ssl_context(
            ca.decode(), verify, getattr(settings, "cert_file", None), getattr(settings, "key_file", None)
        )
    return Login(
        server=server,
        context=entry.name,
        namespace=entry.namespace,
        ssl=tls,
        ca=ca,
        tls_server_name=getattr(settings, "tls_server_name", None),
        proxy=getattr(settings, "proxy", None) or _environment_proxy(server),
        verify=verify,
        _loader=loader,
        _settings=settings,
    )


def _ssl_context(ca: str, verify: bool, cert_file: str | None, key_file: str | None) -> ssl.SSLContext:
    tls = ssl.create_default_context(cadata=ca or None)
    # Many clusters' CAs lack a key identifier, which Python 3.13's default refuses.
    tls.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    if not verify:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    if cert_file:
        tls.load_cert_chain(cert_file, key_file)
    return tls


def _environment_proxy(server: str) -> str | None:
    """The proxy that HTTPS_PROXY and NO_PROXY choose for the server, as kubectl does."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(server)
    if proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get(parts.scheme)


def _require_file(paths: str, explicit: bool) -> None:
    candidates = [Path(path).expanduser() for path in paths.split(os.pathsep) if path]
    if any(path.exists() for path in candidates):
        return
    shown = ", ".join(str(path) for path in candidates)
    raise ConfigError(
        f"the kubeconfig {shown!r} does not exist",
        hint="Check --kubeconfig." if explicit else "Set KUBECONFIG, or pass --kubeconfig.",
    )


def _expired(loader: Any) -> bool:
    expiry = loader.__dict__.get("expiry")
    if expiry is None:
        return False
    margin = datetime.timedelta(seconds=30)
    return bool(datetime.datetime.now(tz=datetime.UTC) + margin >= expiry)


@contextlib.contextmanager
def _config_errors(what: str) -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    except FileNotFoundError as error:
        raise ConfigError(f"the kubeconfig {what!r} needs {error.filename!r}, which is not there") from error
    except PermissionError as error:
        raise ConfigError(f"the kubeconfig {what!r} cannot be read: {error}") from error
    except Exception as error:  # also the package's ConfigException, which is nobody's subclass
        raise ConfigError(f"the kubeconfig {what!r} cannot be used: {error}") from error


@contextlib.contextmanager
def _spoken_errors() -> Iterator[list[str]]:
    """The loader reports a failed plugin only to the log: collect what it says."""
    spoken: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            spoken.append(record.getMessage())

    collector = Collector(level=logging.ERROR)
    root = logging.getLogger()
    root.addHandler(collector)
    try:
        yield spoken
    finally:
        root.removeHandler(collector)
