"""Running a command in a pod's container with the user's own rights, over a websocket to the API server."""

from __future__ import annotations

import json
from collections.abc import Sequence

import aiohttp

from tpd.kube.access import WHOM_TO_ASK, RightsError
from tpd.kube.config import Login
from tpd_core.errors import ClusterError, NetworkError
from tpd_core.kube.paths import PODS

_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDOUT, _STDERR, _STATUS = 1, 2, 3


async def run_in_pod(
    login: Login, namespace: str, pod: str, container: str, command: Sequence[str], *, timeout: float = 15.0
) -> str:
    """Run a command to its end and return what it wrote, stdout and stderr together.

    Args:
        timeout: Seconds.

    Raises:
        RightsError: The user may not exec in this pod.
        ClusterError: The command failed, or the container does not run.
        NetworkError: The API server cannot be reached, or did not answer in time.
    """
    url = login.server + PODS.path(namespace, pod, "exec")
    params = [
        ("container", container),
        ("stdout", "true"),
        ("stderr", "true"),
        *(("command", word) for word in command),
    ]
    where = f"container {container!r} of pod {namespace}/{pod}"
    written: list[bytes] = []
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout), trust_env=False) as session,
            session.ws_connect(
                url,
                params=params,
                protocols=_PROTOCOLS,
                headers=await login.headers(),
                ssl=login.ssl or True,
                server_hostname=login.tls_server_name,
                proxy=login.proxy,
                max_msg_size=0,
            ) as websocket,
        ):
            async for message in websocket:
                if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                    continue
                channel, data = message.data[0], message.data[1:]
                if channel in (_STDOUT, _STDERR):
                    written.append(data)
                elif channel == _STATUS:
                    _check(data, where)
    except aiohttp.WSServerHandshakeError as error:
        if error.status in (401, 403):
            raise RightsError(
                f"the user may not run commands in {where} (verbs get and create on pods/exec)", hint=WHOM_TO_ASK
            ) from error
        raise ClusterError(f"the API server refused to run a command in {where}: {error.status}") from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        words = str(error) or "no answer in time"
        raise NetworkError(f"the API server {login.server} could not run a command in {where}: {words}") from error
    return b"".join(written).decode(errors="replace")


def _check(data: bytes, where: str) -> None:
    status = json.loads(data)
    if status.get("status") != "Success":
        raise ClusterError(f"a command in {where} failed: {status.get('message', 'no reason given')}")
