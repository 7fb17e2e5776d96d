"""Structured logs: one JSON object a line on stderr, made from the standard `logging` calls.

A call may carry fields: `log.info("agent linked", extra={"pod": name})`. They become keys of the object.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Final

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_OWN: Final = ("tpd", "tpd_cluster", "tpd_core")


class JsonFormatter(logging.Formatter):
    """Time, level, logger and message, then the call's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line without a line break."""
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, object] = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def setup(level: str) -> None:
    """Send all logs to stderr.

    Args:
        level: A standard level's name in any case; an unknown one counts as `info`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    # Debugging tpd is not debugging its libraries, some of which log every turn of the loop.
    logging.basicConfig(level=max(number, logging.INFO), handlers=[handler], force=True)
    for name in _OWN:
        logging.getLogger(name).setLevel(number)
