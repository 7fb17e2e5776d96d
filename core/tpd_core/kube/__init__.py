"""The Kubernetes API as plain REST over aiohttp: dict bodies, typed errors, a watch that restarts itself."""

from tpd_core.kube.client import ApiClient, api_tls
from tpd_core.kube.errors import ApiError, Conflict, Forbidden, Gone, Invalid, NotFound, Unauthorized
from tpd_core.kube.incluster import InCluster
from tpd_core.kube.paths import ATTACHMENTS, SESSIONS, Resource
from tpd_core.kube.reflector import Change, ChangeKind, Reflector

__all__ = [
    "ATTACHMENTS",
    "SESSIONS",
    "ApiClient",
    "ApiError",
    "Change",
    "ChangeKind",
    "Conflict",
    "Forbidden",
    "Gone",
    "InCluster",
    "Invalid",
    "NotFound",
    "Reflector",
    "Resource",
    "Unauthorized",
    "api_tls",
]
