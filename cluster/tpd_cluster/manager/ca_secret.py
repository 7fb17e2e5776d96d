"""The CA's home: a Secret that the chart makes empty and the first replica fills."""

from __future__ import annotations

import base64
import binascii
import datetime
import logging
from typing import Any

from tpd_cluster.manager.pki import Authority
from tpd_cluster.manager.settings import CA_SECRET
from tpd_core.errors import ClusterError
from tpd_core.kube import ApiClient, Conflict
from tpd_core.kube.paths import SECRETS

_CERTIFICATE, _KEY = "tls.crt", "tls.key"
_log = logging.getLogger(__name__)


async def load_or_create(client: ApiClient, namespace: str) -> Authority:
    """The CA that all replicas share.

    The Secret's resourceVersion decides between replicas that start at the same time.

    Raises:
        ClusterError: The Secret is missing or holds something else.
    """
    path = SECRETS.path(namespace, CA_SECRET)
    while True:
        secret = await client.get(path)
        data = secret.get("data") or {}
        if data:
            return _parse(data)
        authority = Authority.create(datetime.datetime.now(datetime.UTC))
        contents = {_CERTIFICATE: authority.pem, _KEY: authority.key_pem}
        body = {
            "metadata": {"resourceVersion": secret["metadata"]["resourceVersion"]},
            "data": {name: base64.b64encode(value).decode() for name, value in contents.items()},
        }
        try:
            await client.patch(path, body)
        except Conflict:
            continue
        _log.info("made a new CA")
        return authority


def _parse(data: dict[str, Any]) -> Authority:
    try:
        certificate, key = (base64.b64decode(data[name]) for name in (_CERTIFICATE, _KEY))
    except (KeyError, binascii.Error) as error:
        raise ClusterError(
            f"The Secret {CA_SECRET} lacks {_CERTIFICATE} or {_KEY}",
            hint="Empty its data: the manager makes a new CA.",
        ) from error
    return Authority.load(certificate, key)
