"""How links and streams fail."""

from __future__ import annotations

from tpd_core.errors import NetworkError


class LinkClosed(NetworkError):
    """The link is gone, and with it every stream on it."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"link closed: {reason}")
        self.reason = reason


class StreamRejected(NetworkError):
    """The peer did not open the stream; `code` is a `wire.frames.RejectCode` where the number is known."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message or f"stream rejected with code {code}")
        self.code = code


class StreamReset(NetworkError):
    """The peer (or this side) ended the stream at once."""

    def __init__(self, message: str = "stream reset by the peer") -> None:
        super().__init__(message)
