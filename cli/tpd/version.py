"""The version of this distribution, which is also the tag of tpd's images."""

from __future__ import annotations

import functools
from importlib import metadata


@functools.cache
def client_version() -> str:
    """For example "0.1.0"."""
    return metadata.version("tpd-k8s")
