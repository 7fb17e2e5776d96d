"""A cluster as a run uses it: login, API client, and refusals that say who could help."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Iterator

from tpd.kube.config import Login, load_login
from tpd_core.errors import ClusterError
from tpd_core.kube import ApiClient, Forbidden, Unauthorized

WHOM_TO_ASK = (
    "Ask a cluster administrator to add you to the chart's client.subjects (ClusterRole tpd-client), "
    "and to grant pods/exec in the workload's namespace."
)
_WHO = re.compile(r'User "(?P<user>[^"]*)" cannot (?P<verb>\S+) resource "(?P<resource>[^"]*)"(?P<rest>.*)')


class RightsError(ClusterError):
    """The user's own login may not do what is needed."""


@contextlib.asynccontextmanager
async def open_cluster(kubeconfig: str | None, context: str | None) -> AsyncIterator[tuple[Login, ApiClient]]:
    """Log in and keep one client open.

    Raises:
        ConfigError: The kubeconfig cannot be used.
    """
    import asyncio

    login = await asyncio.to_thread(load_login, kubeconfig, context)
    async with client_for(login) as client:
        yield login, client


def client_for(login: Login) -> ApiClient:
    """A client (to be entered) with the login's rights."""
    return ApiClient(
        login.server,
        tls=login.ssl,
        headers=login.headers,
        server_hostname=login.tls_server_name,
        proxy=login.proxy,
    )


@contextlib.contextmanager
def rights(purpose: str) -> Iterator[None]:
    """Turn the API server's 401 and 403 into what is missing, what for, and whom to ask.

    Args:
        purpose: What was being done, as in "to read workloads".

    Raises:
        RightsError: The server refused the login or the deed.
    """
    try:
        yield
    except Forbidden as error:
        raise RightsError(_refusal(error.words, purpose), hint=WHOM_TO_ASK) from error
    except Unauthorized as error:
        raise RightsError(
            f"the API server does not accept the login ({error.words or 'Unauthorized'}), needed {purpose}",
            hint="Log in again; `kubectl auth whoami` with the same context must work.",
        ) from error


def _refusal(words: str, purpose: str) -> str:
    match = _WHO.search(words)
    if match is None:
        return f"the cluster forbids what is needed {purpose}: {words}"
    rest = match["rest"].split(":")[0].strip()
    return f"user {match['user']!r} may not {match['verb']} {match['resource']} ({rest}), needed {purpose}"
