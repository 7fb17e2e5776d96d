"""One stream's state, as the multiplexer sees it."""

from __future__ import annotations

from typing import Any

from tpd_core.wire.frames import MIN_WINDOW


class MuxStream:
    """Counters and flags of one stream.

    Credit, as the granting end counts it: `receivable + unread + owed == window` at all times, so neither a fast
    sender nor a slow reader makes more than `window` bytes wait here.

    Attributes:
        id: Number on the wire.
        initiated: This end sent OPEN.
        app: Belongs to the driver.
        opened: OPENED was sent or received.
        sendable: Bytes that the peer still lets us send.
        window: Bytes that we grant in all.
        receivable: What the peer may still send of it.
        unread: Received, not yet consumed.
        owed: Consumed, not yet granted again.
        starved: The peer used up its credit and waits.
        fin_sent: This end sends no more.
        fin_received: The peer sends no more.
        done: The stream is over and forgotten.
    """

    __slots__ = (
        "app",
        "done",
        "fin_received",
        "fin_sent",
        "id",
        "initiated",
        "opened",
        "owed",
        "receivable",
        "sendable",
        "starved",
        "unread",
        "window",
    )

    def __init__(self, number: int, *, initiated: bool) -> None:
        self.id = number
        self.initiated = initiated
        self.app: Any = None
        self.opened = self.starved = self.fin_sent = self.fin_received = self.done = False
        self.sendable = MIN_WINDOW
        self.window = self.receivable = MIN_WINDOW
        self.owed = self.unread = 0

    def __repr__(self) -> str:
        flags = [name for name in ("opened", "starved", "fin_sent", "fin_received", "done") if getattr(self, name)]
        return f"<MuxStream {self.id} {' '.join(flags)} sendable={self.sendable} unread={self.unread}/{self.window}>"
