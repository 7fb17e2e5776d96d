"""One compose project, run plainly and run with a service that stands in for a workload.

No cluster is needed: what the transformation does to the project can be seen with an anchor that only waits and a
daemon that only listens, which is what the gate waits for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.e2e.support.process import Followed, run
from tests.lab.spec import BASE_IMAGE
from tpd.compose.argv import ComposeCommand, parse_child
from tpd.compose.locate import project_directory
from tpd.compose.model import Images, Plan, Request, Target
from tpd.compose.spec import map_services, parse_intercept
from tpd.compose.transform import render, transform

IMAGES = Images("cmp-anchor:1", "cmp-daemon:1", "never")

ANCHOR = f"""
FROM {BASE_IMAGE}
ENTRYPOINT ["bash", "-c", "trap 'exit 0' TERM; sleep infinity & wait"]
"""

DAEMON = f"""
FROM {BASE_IMAGE}
COPY daemon.pl /daemon.pl
ENTRYPOINT ["perl", "/daemon.pl"]
"""

# Port 9 of the namespace's loopback plays the part of the daemon's gate socket.
DAEMON_SCRIPT = r"""
use IO::Socket::INET;
if (@ARGV) {
    until (IO::Socket::INET->new("127.0.0.1:9")) { select undef, undef, undef, 0.05 }
    exit 0;
}
$SIG{TERM} = sub { exit 0 };
my $socket = IO::Socket::INET->new(LocalAddr => "127.0.0.1:9", Listen => 9, ReuseAddr => 1) or die $!;
while (1) { $socket->accept }
"""

# Answers every connection with its arguments, and says what happens to it.
SERVER = r"""
use IO::Socket::INET;
$| = 1;
$SIG{TERM} = sub { print "bye\n"; exit 3 };
my $port = shift;
my $socket = IO::Socket::INET->new(LocalAddr => "0.0.0.0:$port", Listen => 9, ReuseAddr => 1) or die $!;
print "serving @ARGV\n";
while (1) { my $client = $socket->accept or next; print $client "HTTP/1.0 200 OK\r\n\r\n@ARGV\n"; close $client }
"""


def build_images(directory: Path) -> None:
    """Make the stand-ins for the product's anchor and daemon."""
    (directory / "daemon.pl").write_text(DAEMON_SCRIPT)
    for image, text in ((IMAGES.anchor, ANCHOR), (IMAGES.daemon, DAEMON)):
        (directory / "Dockerfile").write_text(text)
        run(["docker", "build", "--quiet", "--tag", image, str(directory)])


@dataclass
class Project:
    """A compose project in a directory, and the two ways to run it."""

    directory: Path
    name: str
    intercept: tuple[str, ...] = ()
    targets: Mapping[str, Target] = field(default_factory=dict)
    remote: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)

    def write(self, document: dict[str, Any], name: str = "compose.yaml") -> None:
        """A compose file; the server is there for services to run."""
        (self.directory / name).parent.mkdir(parents=True, exist_ok=True)
        (self.directory / name).write_text(json.dumps(document))
        (self.directory / "server.pl").write_text(SERVER)

    def with_intercept(self, *specs: str, **targets: Target) -> Project:
        """The same project, with services that stand in for workloads."""
        return replace(self, intercept=specs, targets=targets)

    def compose(
        self, *words: str, check: bool = True, timeout: float = 60, input: str | None = None
    ) -> CompletedProcess[str]:
        """`docker compose WORDS`, to the end."""
        return self._run(self.child(*words), check=check, timeout=timeout, input=input)

    def follow(self, *words: str) -> Followed:
        """`docker compose WORDS`, in the foreground."""
        return Followed(self.child(*words), cwd=self.directory, env=self._environment)

    def child(self, *words: str) -> list[str]:
        """The words to run: with an intercept, all that comes before them is done here."""
        argv = ["docker", "compose", *words]
        if not self.intercept:
            return argv
        command = parse_child(argv)
        assert isinstance(command, ComposeCommand)
        directory = str(project_directory(command, self.directory, self._environment))
        enabled = self._run(command.services_argv()).stdout.split() if command.wants_services else []
        empty, full = self.plans(command)
        command.check(empty, enabled)
        file = self.directory / "transformed.json"
        file.write_text(render(empty.document))
        if command.starts:
            strangers = [name for name in empty.members if self.inspect(name) and not self.in_anchor(name)]
            if strangers:
                self._run(command.stop_argv(str(file), empty, directory, strangers))
            self._run(command.prepare_argv(str(file), empty, directory))
        file.write_text(render(full.document))
        return command.child_argv(str(file), full, directory, services=enabled)

    def plans(self, command: ComposeCommand) -> tuple[Plan, Plan]:
        """The transformed project, before and after the workload is known."""
        config = json.loads(self._run(command.config_argv()).stdout)
        mapped = map_services([parse_intercept(spec) for spec in self.intercept], list(config["services"]))
        request = Request(
            tuple(Target(service) for _, service in mapped),
            session=self.name,
            images=IMAGES,
            remote=self.remote,
            gate=not command.abort_on_exit,
            separator=command.separator(self._environment),
        )
        full = replace(request, targets=tuple(self.targets.get(service, Target(service)) for _, service in mapped))
        return transform(config, request), transform(config, full)

    def shell(self, service: str, script: str, *, check: bool = True) -> str:
        """What a shell script prints in a service's container."""
        return run(["docker", "exec", self.container(service), "bash", "-c", script], check=check).stdout.strip()

    def container(self, service: str) -> str:
        """Id of the service's container, running or not; empty if there is none."""
        labels = {"project": self.name, "service": service, "oneoff": "False"}
        filters = [word for key, value in labels.items() for word in ("-f", f"label=com.docker.compose.{key}={value}")]
        return run(["docker", "ps", "-aq", "--no-trunc", *filters]).stdout.strip()

    def inspect(self, service: str) -> dict[str, Any]:
        """The engine's account of the service's container; empty if there is none."""
        container = self.container(service)
        return json.loads(run(["docker", "inspect", container]).stdout)[0] if container else {}

    def in_anchor(self, service: str) -> bool:
        """The service's container has joined a running anchor."""
        mode = self.inspect(service)["HostConfig"]["NetworkMode"]
        anchors = run(["docker", "ps", "-q", "--no-trunc", "-f", "label=dev.tpd.role=anchor"]).stdout.split()
        return mode.removeprefix("container:") in anchors

    def ids(self) -> dict[str, str]:
        """Container id by service, of running containers."""
        shape = '{{.Label "com.docker.compose.service"}} {{.ID}}'
        filters = ["-f", f"label=com.docker.compose.project={self.name}", "--no-trunc"]
        lines = run(["docker", "ps", *filters, "--format", shape]).stdout.splitlines()
        return dict(sorted(line.split() for line in lines))

    def remove(self) -> None:
        """Nothing of the project stays."""
        for what, end in (("container", ["rm", "-fv"]), ("network", ["rm"]), ("volume", ["rm"])):
            filters = ["-f", f"label=com.docker.compose.project={self.name}"]
            every = ["-a"] if what == "container" else []
            found = run(["docker", what, "ls", "-q", *every, *filters]).stdout.split()
            if found:
                run(["docker", what, *end, *found])

    @property
    def _environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}
        return {**clean, **self.environ}

    def _run(
        self, argv: Sequence[str], *, check: bool = True, timeout: float = 60, input: str | None = None
    ) -> CompletedProcess[str]:
        return run(argv, check=check, timeout=timeout, cwd=self.directory, env=self._environment, input=input)


def same(project: Project, observe: Callable[[Project], Any], *specs: str, **targets: Target) -> Any:
    """Observe the project run plainly, then with the intercept: both must show the same, which is returned."""
    project.remove()
    plain = observe(project)
    project.remove()
    transformed = observe(project.with_intercept(*specs, **targets))
    assert transformed == plain, f"plain:       {plain}\ntransformed: {transformed}"
    return plain
