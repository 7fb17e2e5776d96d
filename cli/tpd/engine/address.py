"""Where the engine listens, found as the `docker` program finds it."""

from __future__ import annotations

import os

from tpd_core.errors import ConfigError


def engine_address() -> str:
    """The engine's URL: DOCKER_HOST, else the selected docker context, else the default socket.

    Raises:
        ConfigError: The selected context does not exist.
    """
    host = os.environ.get("DOCKER_HOST")
    if host:
        return host
    name = os.environ.get("DOCKER_CONTEXT")
    from docker.context import ContextAPI
    from docker.errors import ContextException

    try:
        context = ContextAPI.get_context(name) if name else ContextAPI.get_current_context()
    except ContextException as error:
        raise ConfigError(f"the docker context {name or 'in use'!r} cannot be read: {error}") from error
    if context is None:
        raise ConfigError(
            f"there is no docker context named {name or ContextAPI.get_current_context_name()!r}",
            hint="`docker context ls` lists those that exist.",
        )
    return str(context.Host) if context.Host else default_address()


def default_address() -> str:
    """The address used when nothing is set."""
    return "npipe:////./pipe/docker_engine" if os.name == "nt" else "unix:///var/run/docker.sock"
