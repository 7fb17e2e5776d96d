"""What can go wrong with the container engine, in words that a user can act on."""

from __future__ import annotations

from tpd_core.errors import EngineError


class EngineUnavailableError(EngineError):
    """No engine answers."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(
            f"no container engine answers at {address}: {reason}",
            hint="Start Docker (or set DOCKER_HOST, or choose a context with `docker context use`) and try again.",
        )


class DockerMissingError(EngineError):
    """The `docker` program is not on the PATH."""

    def __init__(self, program: str = "docker") -> None:
        super().__init__(
            f"the program {program!r} was not found on the PATH",
            hint="Install the Docker command line with its compose plugin; tpd runs `docker compose` and `docker run`.",
        )


class ImageMissingError(EngineError):
    """An image that tpd needs is neither on the engine nor to be had."""

    def __init__(self, image: str, reason: str) -> None:
        super().__init__(
            f"the image {image!r} is not on the engine and cannot be pulled: {reason}",
            hint="Build tpd's images with `tpd images build`, or name another place with --registry.",
        )


class EngineRefusedError(EngineError):
    """The engine answered, with a refusal."""

    def __init__(self, action: str, reason: str) -> None:
        super().__init__(f"the container engine refused to {action}: {reason}")
