"""Every failure that a user can meet, by whose turn it is to act.

The category survives every hop (agent to manager to daemon to CLI) and decides the exit code; the message names the
offending value; the hint says what to do next. Anything that is not a `TpdError` is a bug in tpd.
"""

from __future__ import annotations

import enum


class Category(enum.StrEnum):
    """Whose turn it is, and the exit code that tells a script."""

    USER = "user"  # the command line or compose file asks for something impossible
    CONFIG = "config"  # kubeconfig, chart values, configuration files
    CLUSTER = "cluster"  # the cluster refuses or lacks something
    NETWORK = "network"  # something cannot be reached
    ENGINE = "engine"  # the container engine refuses or is absent
    BUG = "bug"  # tpd itself

    @property
    def exit_code(self) -> int:
        """Process exit status: distinct per category and clear of what shells and `docker` use (125 to 127)."""
        return {"user": 2, "config": 3, "cluster": 4, "network": 5, "engine": 6, "bug": 70}[self.value]


class TpdError(Exception):
    """A failure with a category, a message that names the offending value, and a hint what to do.

    Args:
        message: One sentence saying what is wrong, naming the value.
        hint: What to do next; empty where the message says it already.
    """

    category: Category = Category.BUG

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UserError(TpdError):
    """The request itself is wrong."""

    category = Category.USER


class ConfigError(TpdError):
    """A configuration that tpd was given cannot be used."""

    category = Category.CONFIG


class ClusterError(TpdError):
    """The cluster refuses, or lacks what is needed."""

    category = Category.CLUSTER


class NetworkError(TpdError):
    """Something cannot be reached."""

    category = Category.NETWORK


class EngineError(TpdError):
    """The container engine refuses, or there is none."""

    category = Category.ENGINE


class BugError(TpdError):
    """tpd broke one of its own rules."""


_CLASSES = {cls.category: cls for cls in (UserError, ConfigError, ClusterError, NetworkError, EngineError, BugError)}


def from_category(category: str, message: str, hint: str = "") -> TpdError:
    """Rebuild an error that arrived over a wire; an unknown category counts as a bug."""
    try:
        cls = _CLASSES[Category(category)]
    except ValueError:
        cls = BugError
    return cls(message, hint=hint)


def first_error(error: BaseException) -> BaseException:
    """The error that counts in a group: the first `TpdError`, else the first of all."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [first_error(item) for item in error.exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, TpdError)), leaves[0])
