"""A compose project of one test, and tpd run on it as a user would."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.support.cluster import ECHO, IMAGE
from tests.e2e.support.process import Followed, run

TPD = str(Path(sys.executable).with_name("tpd"))


@dataclass
class Laptop:
    """One user on this machine: an engine, a kubeconfig, a state directory."""

    environment: dict[str, str]
    tpd_path: str = TPD
    user: str | None = None

    def tpd_argv(self, *args: str) -> list[str]:
        return [self.tpd_path, *args]

    def tpd(
        self,
        *args: str,
        check: bool = True,
        timeout: float = 120,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Any:
        return run(
            self.tpd_argv(*args),
            check=check,
            timeout=timeout,
            cwd=cwd,
            env={**self.environment, **(env or {})},
            user=self.user,
        )

    def follow(self, *args: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Followed:
        return Followed(self.tpd_argv(*args), cwd=cwd, env={**self.environment, **(env or {})}, user=self.user)

    def docker(self, *args: str, check: bool = True, cwd: Path | None = None, timeout: float = 120) -> str:
        return str(
            run(["docker", *args], check=check, cwd=cwd, env=self.environment, timeout=timeout, user=self.user).stdout
        )

    def inspect(self, name: str) -> Any:
        return json.loads(self.docker("inspect", name))[0]


@dataclass
class Project:
    """A compose project in a directory of its own."""

    laptop: Laptop
    directory: Path
    name: str
    services: dict[str, Any] = field(default_factory=dict)
    top: dict[str, Any] = field(default_factory=dict)

    def echo(self, service: str, **extra: Any) -> None:
        """Add the test workload's local twin; its script is mounted by a relative path."""
        (self.directory / "echo.py").write_text(ECHO.read_text())
        environment = {"ORIGIN": "laptop", **extra.pop("environment", {})}
        self.services[service] = {
            "image": IMAGE,
            "entrypoint": ["python3", "/srv/echo.py"],
            "environment": environment,
            "volumes": ["./echo.py:/srv/echo.py:ro", *extra.pop("volumes", [])],
            "stop_grace_period": "3s",
            **extra,
        }
        self.write()

    def write(self) -> None:
        (self.directory / "docker-compose.yaml").write_text(
            yaml.safe_dump({"name": self.name, "services": self.services, **self.top}, sort_keys=False)
        )

    def run(self, *args: str) -> Followed:
        """`tpd run ARGS` in the project's directory, followed."""
        return self.laptop.follow("run", *args, cwd=self.directory)

    def compose(self, *args: str, check: bool = True) -> str:
        return self.laptop.docker("compose", *args, cwd=self.directory, check=check)

    def container(self, service: str) -> str:
        label = [
            "--filter",
            f"label=com.docker.compose.project={self.name}",
            "--filter",
            f"label=com.docker.compose.service={service}",
        ]
        ids = self.laptop.docker("ps", "-q", "--no-trunc", *label).split()
        assert len(ids) == 1, f"{service}: {ids}"
        return ids[0]

    def exec(self, service: str, code: str) -> str:
        """Run Python code in a service's container and return what it prints."""
        return self.laptop.docker("exec", self.container(service), "python3", "-c", code).strip()

    def left_behind(self) -> dict[str, list[str]]:
        """What carries tpd's label and belongs to this project: nothing, after a run and `docker compose down`."""
        ours = ["--filter", "label=dev.tpd", "--filter", f"label=com.docker.compose.project={self.name}"]
        return {
            "containers": self.laptop.docker("ps", "-aq", *ours).split(),
            "volumes": self.laptop.docker("volume", "ls", "-q", *ours).split(),
            "networks": self.laptop.docker("network", "ls", "-q", *ours).split(),
        }

    def remove(self) -> None:
        label = f"label=com.docker.compose.project={self.name}"
        if ids := self.laptop.docker("ps", "-aq", "--filter", label, check=False).split():
            self.laptop.docker("rm", "-f", "-v", *ids, check=False)
        for kind in ("network", "volume"):
            if ids := self.laptop.docker(kind, "ls", "-q", "--filter", label, check=False).split():
                self.laptop.docker(kind, "rm", *ids, check=False)


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without settings that would lead tpd or docker elsewhere."""
    drop = ("KUBE", "DOCKER", "COMPOSE", "TPD", "XDG")
    return {key: value for key, value in os.environ.items() if not key.startswith(drop)} | extra
