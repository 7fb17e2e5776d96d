"""What the API server answers when it does not do as asked."""

from __future__ import annotations

import json
from typing import Any

from tpd_core.errors import ClusterError


class ApiError(ClusterError):
    """The API server answered with an error status.

    Attributes:
        status: HTTP status.
        reason: The machine-readable `reason` of the Status object, empty if the answer was none.
        body: The Status object, empty if the answer was none.
    """

    def __init__(self, method: str, path: str, status: int, reason: str, words: str, body: dict[str, Any]) -> None:
        super().__init__(f"{method} {path}: {status} {words}".rstrip(), hint=_HINTS.get(status, ""))
        self.status = status
        self.reason = reason
        self.words = words
        self.body = body


class Unauthorized(ApiError):
    """401: the credentials are missing, wrong or expired."""


class Forbidden(ApiError):
    """403: the user may not do this."""


class NotFound(ApiError):
    """404: no such object, or no such API."""


class Conflict(ApiError):
    """409: the object exists already, or was changed meanwhile."""


class Gone(ApiError):
    """410: the resource version is too old to watch from."""


class Invalid(ApiError):
    """422: the object breaks its schema or an admission policy."""


_HINTS = {401: "Log in to the cluster again: `kubectl get --raw /version` should work with the same context."}
_CLASSES: dict[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
}


def error_from(method: str, path: str, status: int, body: bytes | dict[str, Any]) -> ApiError:
    """The typed error for an answer; `body` is a Status object, or whatever a proxy on the way said."""
    if isinstance(body, bytes):
        try:
            parsed = json.loads(body)
        except ValueError:
            parsed = None
    else:
        parsed = body
    if isinstance(parsed, dict):
        words, reason = str(parsed.get("message", "")), str(parsed.get("reason", ""))
    else:
        words, reason, parsed = (body.decode(errors="replace")[:300] if isinstance(body, bytes) else ""), "", {}
    return _CLASSES.get(status, ApiError)(method, path, status, reason, words.strip(), parsed)
