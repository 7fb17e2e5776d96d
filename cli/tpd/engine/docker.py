"""The engine as tpd uses it: a handful of verbs over the Docker SDK, blocking, safe to call from worker threads."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import docker
import docker.errors
import docker.types
import requests.exceptions

from tpd.engine.address import engine_address
from tpd.engine.errors import DockerMissingError, EngineRefusedError, EngineUnavailableError, ImageMissingError

LABEL = "dev.tpd"
SESSION_LABEL = "dev.tpd.session"
ROLE_LABEL = "dev.tpd.role"
PROJECT_LABEL = "com.docker.compose.project"


class Engine:
    """One container engine.

    Args:
        address: The engine's URL; None finds it as the `docker` program does.

    Raises:
        EngineUnavailableError: Nothing answers there.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = address or engine_address()
        try:
            if os.environ.get("DOCKER_HOST") == self.address:
                self._client = docker.DockerClient.from_env(timeout=60)
            else:
                self._client = docker.DockerClient(base_url=self.address, timeout=60)
            self.version: dict[str, Any] = self._client.version()
        except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
            raise EngineUnavailableError(self.address, _reason(error)) from error

    def close(self) -> None:
        """Give up the connections to the engine."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def info(self) -> dict[str, Any]:
        """The engine's description of itself."""
        with _refusals("describe itself"):
            return dict(self._client.api.info())

    # ---- containers ---------------------------------------------------------------------------------------------

    def containers(self, labels: Mapping[str, str | None], *, running: bool = False) -> list[dict[str, Any]]:
        """Containers that carry all the labels (a value of None asks for the key alone), as `/containers/json`."""
        wanted = [key if value is None else f"{key}={value}" for key, value in labels.items()]
        with _refusals("list containers"):
            return list(self._client.api.containers(all=not running, filters={"label": wanted}))

    def inspect(self, container: str) -> dict[str, Any] | None:
        """A container's description; None when there is no such container."""
        try:
            with _refusals(f"inspect container {container!r}"):
                return dict(self._client.api.inspect_container(container))
        except _NotFoundError:
            return None

    def find(self, session: str, role: str) -> str | None:
        """The id of a session's container by role; None when it is not there."""
        found = self.containers({SESSION_LABEL: session, ROLE_LABEL: role})
        running = [item for item in found if item["State"] == "running"]
        chosen = running or found
        return str(chosen[0]["Id"]) if chosen else None

    def start(self, image: str, name: str, **settings: Any) -> str:
        """Create and start a container, pulling its image when it is not there; returns the id."""
        self.ensure_image(image)
        with _refusals(f"start container {name!r}"):
            container = self._client.containers.create(image, name=name, detach=True, **settings)
            try:
                container.start()
            except docker.errors.DockerException:
                container.remove(force=True)
                raise
            return str(container.id)

    def start_again(self, container: str, needed: str) -> None:
        """Start a container that has ended, as long as another one, which it needs, runs."""
        other, description = self.inspect(needed), self.inspect(container)
        if other is None or description is None or not other["State"]["Running"]:
            return
        if description["State"]["Status"] == "exited":
            with _refusals(f"start container {container!r}"):
                self._client.api.start(container)

    def output(self, image: str, command: Sequence[str], **settings: Any) -> bytes:
        """Run a container to its end and return what it wrote to stdout; it leaves nothing behind."""
        self.ensure_image(image)
        with _refusals(f"run {' '.join(command)!r} in {image!r}"):
            return bytes(self._client.containers.run(image, list(command), remove=True, **settings))

    def finish(self, image: str, command: Sequence[str], **settings: Any) -> tuple[int, str]:
        """Run a container to its end; its exit status, and what it wrote. It leaves nothing behind."""
        with _refusals(f"run {' '.join(command)!r} in {image!r}"):
            container = self._client.containers.create(image, list(command), **settings)
            try:
                container.start()
                status = int(container.wait()["StatusCode"])
                return status, bytes(container.logs()).decode(errors="replace").strip()
            finally:
                container.remove(force=True)

    def propagates(self, image: str, path: str) -> bool:
        """Whether mounts that one container makes below a path of the engine's machine are seen by others.

        A throwaway container asks for that: an engine that cannot do it refuses to start it.

        Args:
            image: Any image whose program does not need a network.
        """
        bind = docker.types.Mount("/mnt", path, type="bind", propagation="rshared")
        with _refusals(f"start a container of {image!r}"):
            container = self._client.containers.create(
                image, mounts=[bind], network_mode="none", cap_drop=["ALL"], read_only=True, labels={LABEL: "1"}
            )
            try:
                container.start()
            except docker.errors.APIError:
                return False
            finally:
                container.remove(force=True)
        return True

    def dns_servers(self, image: str) -> tuple[str, ...]:
        """The DNS servers that the engine gives to containers, as a throwaway container sees them.

        Args:
            image: Any image with `cat` in it.
        """
        try:
            text = self.output(
                image, ["/etc/resolv.conf"], entrypoint="cat", network_mode="bridge", labels={LABEL: "1"}
            )
        except EngineRefusedError:
            return ()  # the daemon can do without: only names outside the cluster are lost
        words = (line.split() for line in text.decode(errors="replace").splitlines())
        return tuple(parts[1] for parts in words if len(parts) > 1 and parts[0] == "nameserver")

    def remove(self, container: str) -> bool:
        """Remove a container whatever its state; False when it was not there."""
        try:
            with _refusals(f"remove container {container!r}"):
                self._client.api.remove_container(container, force=True, v=True)
        except _NotFoundError:
            return False
        return True

    def stop(self, container: str, timeout: int) -> bool:
        """Stop a container, killing it after `timeout` seconds; False when it was not there."""
        try:
            with _refusals(f"stop container {container!r}"):
                self._client.api.stop(container, timeout=timeout)
        except _NotFoundError:
            return False
        return True

    def logs(self, container: str, tail: int = 20) -> str:
        """The last lines that a container wrote."""
        with contextlib.suppress(docker.errors.DockerException, requests.exceptions.RequestException):
            return bytes(self._client.api.logs(container, tail=tail)).decode(errors="replace")
        return ""

    # ---- networks and volumes -----------------------------------------------------------------------------------

    def networks(self, labels: Mapping[str, str | None]) -> list[dict[str, Any]]:
        """Networks that carry all the labels."""
        wanted = [key if value is None else f"{key}={value}" for key, value in labels.items()]
        with _refusals("list networks"):
            return list(self._client.api.networks(filters={"label": wanted}))

    def create_network(self, name: str, labels: Mapping[str, str]) -> str:
        """Create a bridge network; returns its id."""
        with _refusals(f"create network {name!r}"):
            return str(self._client.api.create_network(name, driver="bridge", labels=dict(labels))["Id"])

    def remove_network(self, name: str) -> bool:
        """Remove a network; False when it was not there."""
        try:
            with _refusals(f"remove network {name!r}"):
                self._client.api.remove_network(name)
        except _NotFoundError:
            return False
        return True

    def connect(self, network: str, container: str) -> None:
        """Attach a container to a network; being attached already is fine."""
        description = self.inspect(container)
        if description and network in (description.get("NetworkSettings", {}).get("Networks") or {}):
            return
        with _refusals(f"connect container {container!r} to network {network!r}"):
            self._client.api.connect_container_to_network(container, network)

    def create_volume(self, name: str, labels: Mapping[str, str]) -> str:
        """Create a named volume (or find it); returns its mountpoint on the engine's host."""
        with _refusals(f"create volume {name!r}"):
            return str(self._client.api.create_volume(name, labels=dict(labels))["Mountpoint"])

    def volume(self, name: str) -> dict[str, Any] | None:
        """A volume's description; None when there is no such volume."""
        try:
            with _refusals(f"inspect volume {name!r}"):
                return dict(self._client.api.inspect_volume(name))
        except _NotFoundError:
            return None

    def volumes(self, labels: Mapping[str, str | None]) -> list[dict[str, Any]]:
        """Volumes that carry all the labels."""
        wanted = [key if value is None else f"{key}={value}" for key, value in labels.items()]
        with _refusals("list volumes"):
            return list(self._client.api.volumes(filters={"label": wanted}).get("Volumes") or [])

    def remove_volume(self, name: str) -> bool:
        """Remove a volume; False when it was not there."""
        try:
            with _refusals(f"remove volume {name!r}"):
                self._client.api.remove_volume(name, force=True)
        except _NotFoundError:
            return False
        return True

    # ---- images and events --------------------------------------------------------------------------------------

    def has_image(self, image: str) -> bool:
        """Whether the engine holds the image."""
        try:
            with _refusals(f"inspect image {image!r}"):
                self._client.images.get(image)
        except _NotFoundError:
            return False
        return True

    def exposed_ports(self, image: str) -> tuple[str, ...]:
        """Ports that an image exposes, as in "8080/tcp"; the image is pulled when it is not there."""
        self.ensure_image(image)
        with _refusals(f"inspect image {image!r}"):
            return tuple(sorted((self._client.images.get(image).attrs.get("Config") or {}).get("ExposedPorts") or {}))

    def ensure_image(self, image: str) -> None:
        """Pull an image that the engine does not hold.

        Raises:
            ImageMissingError: It is not there and cannot be pulled.
        """
        if self.has_image(image):
            return
        try:
            self._client.images.pull(image)
        except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
            raise ImageMissingError(image, _reason(error)) from error

    @contextlib.contextmanager
    def events(self, filters: Mapping[str, Any]) -> Iterator[Iterator[dict[str, Any]]]:
        """The engine's events from now on; leaving the context ends the iteration in whatever thread it runs."""
        with _refusals("report events"):
            stream = self._client.api.events(decode=True, filters=dict(filters))
        try:
            yield _quietly(stream)
        finally:
            with contextlib.suppress(Exception):
                stream.close()


def docker_program() -> str:
    """Path of the `docker` program.

    Raises:
        DockerMissingError: It is not on the PATH.
    """
    path = shutil.which("docker")
    if path is None:
        raise DockerMissingError
    return path


class _NotFoundError(EngineRefusedError):
    """The thing asked for is not there."""


def _quietly(stream: Any) -> Iterator[dict[str, Any]]:
    """Events until the stream ends, for whatever reason."""
    with contextlib.suppress(requests.exceptions.RequestException, OSError, ValueError, AttributeError):
        yield from stream


@contextlib.contextmanager
def _refusals(action: str) -> Iterator[None]:
    try:
        yield
    except docker.errors.NotFound as error:
        raise _NotFoundError(action, _reason(error)) from error
    except docker.errors.DockerException as error:
        raise EngineRefusedError(action, _reason(error)) from error
    except requests.exceptions.RequestException as error:
        raise EngineUnavailableError("its socket", _reason(error)) from error


def _reason(error: Exception) -> str:
    explanation = getattr(error, "explanation", None)
    text = str(explanation or error)
    if "Permission denied" in text or "PermissionError" in text:
        return "permission denied"
    if "FileNotFoundError" in text or "No such file" in text:
        return "the socket does not exist"
    if "ConnectionRefusedError" in text or "Connection refused" in text:
        return "connection refused"
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__
