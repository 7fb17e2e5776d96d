"""The process's environment: what tpd sets in it for itself, and what children get."""

from __future__ import annotations

import os

# gRPC's handlers for fork() have nothing to do here (children are programs of their own) but write to the terminal.
_GRPC = {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "NONE"}
_ours: set[str] = set()


def quiet_grpc() -> None:
    """Keep gRPC's own messages off the terminal; to be called before it is imported."""
    for name, value in _GRPC.items():
        if name not in os.environ:
            os.environ[name] = value
            _ours.add(name)


def child_base() -> dict[str, str]:
    """The user's environment, for children."""
    return {name: value for name, value in os.environ.items() if name not in _ours}
