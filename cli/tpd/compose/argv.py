"""The user's command behind `tpd run ... --`: what it asks for, and what is run instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from tpd.compose.dockerrun import RunCommand, parse_run
from tpd.compose.model import Plan, listed
from tpd.compose.options import Scan, Table
from tpd_core.errors import UserError

_DOCKER = Table(
    "config= context,c= debug,D host,H= log-level,l= tls tlscacert= tlscert= tlskey= tlsverify help version,v"
)
_COMPOSE = Table(
    "all-resources ansi= compatibility dry-run env-file= file,f= help,h insecure-registry= no-ansi parallel= profile="
    " progress= project-directory= project-name,p= verbose version,v workdir="
)
# Options of the commands whose service names matter here; of the others only the words themselves are passed on.
_COMMANDS = {
    "up": Table(
        "abort-on-container-exit abort-on-container-failure always-recreate-deps attach= attach-dependencies build"
        " detach,d dry-run exit-code-from= force-recreate menu no-attach= no-build no-color no-deps no-log-prefix"
        " no-recreate no-start pull= quiet-build quiet-pull remove-orphans renew-anon-volumes,V scale= timeout,t="
        " timestamps wait wait-timeout= watch,w yes,y help,h"
    ),
    "create": Table(
        "build dry-run force-recreate no-build no-recreate pull= quiet-pull remove-orphans scale= yes,y help,h"
    ),
    "run": Table(
        "build cap-add= cap-drop= detach,d dry-run entrypoint= env,e= env-from-file= interactive,i label,l= name="
        " no-TTY,T no-deps publish,p= pull= quiet,q quiet-build quiet-pull remove-orphans rm service-ports,P tty,t"
        " use-aliases user,u= volume,v= workdir,w= help,h"
    ),
    "exec": Table("detach,d dry-run env,e= index= interactive,i no-TTY,T privileged tty,t user,u= workdir,w= help,h"),
    "start": Table("dry-run wait wait-timeout= help,h"),
    "restart": Table("dry-run no-deps timeout,t= help,h"),
    "scale": Table("dry-run no-deps help,h"),
    "watch": Table("dry-run no-up prune quiet help,h"),
    "port": Table("dry-run index= protocol= help,h"),
}
_STARTING = ("up", "run", "create", "start", "restart", "scale", "watch")
_NOT_INTERSPERSED = ("run", "exec")
_REPLACED = ("file", "project-name", "project-directory", "workdir")


@dataclass(frozen=True, slots=True)
class ComposeCommand:
    """A `docker compose` command line.

    Args:
        prefix: The words up to and with `compose`.
        options: Compose's own options, before the sub-command.
        subcommand: `up`, `run`, ...
        arguments: The words behind the sub-command, as given.
        scan: The same, told apart.
    """

    prefix: tuple[str, ...]
    options: Scan
    subcommand: str
    arguments: tuple[str, ...]
    scan: Scan

    @property
    def files(self) -> tuple[str, ...]:
        """The user's `-f`; `-` is standard input."""
        return self.options.values("file")

    @property
    def project_directory(self) -> str | None:
        """The user's `--project-directory`."""
        return self.options.last("project-directory", "workdir")

    @property
    def env_files(self) -> tuple[str, ...]:
        """The user's `--env-file`."""
        return self.options.values("env-file")

    @property
    def services(self) -> tuple[str, ...]:
        """Services named behind the sub-command; empty: all."""
        if self.subcommand in _NOT_INTERSPERSED or self.subcommand == "port":
            return self.scan.names[:1]
        if self.subcommand == "scale":
            return tuple(name.partition("=")[0] for name in self.scan.names)
        return self.scan.names if self.subcommand in _COMMANDS else ()

    @property
    def starts(self) -> bool:
        """Containers are started or made: a session is needed."""
        return self.subcommand in _STARTING

    @property
    def detached(self) -> bool:
        """The command ends while the containers stay."""
        match self.subcommand:
            case "up":
                return self.scan.on("detach", "wait", "no-start")
            case "run":
                return self.scan.on("detach")
            case "watch":
                return False
            case _:
                return True

    @property
    def abort_on_exit(self) -> bool:
        """Any container that ends, ends the run: no one-shot gate then."""
        return self.subcommand == "up" and (
            self.scan.on("abort-on-container-exit") or self.scan.last("exit-code-from") is not None
        )

    @property
    def scale(self) -> dict[str, int]:
        """How many containers are asked for, by service.

        Raises:
            UserError: A number is none.
        """
        if self.subcommand in ("up", "create"):
            wishes: Sequence[str] = self.scan.values("scale")
        else:
            wishes = self.scan.names if self.subcommand == "scale" else ()
        numbers = {}
        for wish in wishes:
            service, equals, number = wish.partition("=")
            if not (equals and number.isascii() and number.isdigit()):
                raise UserError(f"{self.subcommand}: {wish!r} does not have the form SERVICE=NUMBER.")
            numbers[service] = int(number)
        return numbers

    @property
    def wants_services(self) -> bool:
        """The command means every enabled service of the user's: `services_argv` prints which those are.

        `child_argv` then names them one by one, because anchors and daemons must be left alone by
        `--force-recreate`, by `restart`, and by the end of an attached `up`.
        """
        return self.subcommand in ("up", "create", "restart") and not self.services

    def separator(self, environ: Mapping[str, str]) -> str:
        """What stands between the parts of a container's name."""
        flag = [option for option in self.options.options if option.name == "compatibility"]
        by_environment = environ.get("COMPOSE_COMPATIBILITY", "").lower() in ("1", "t", "true", "y", "yes", "on")
        return "_" if (flag[-1].on if flag else by_environment) else "-"

    def config_argv(self) -> list[str]:
        """Prints the whole project as JSON, services of inactive profiles too."""
        return [*self._reading(), "--profile=*", "config", "--format=json"]

    def services_argv(self) -> list[str]:
        """Prints the names of the services that the user's profiles enable, one a line."""
        profiles = [word for option in self.options.options if option.name == "profile" for word in option.words()]
        return [*self._reading(), *profiles, "config", "--services"]

    def prepare_argv(self, file: str, plan: Plan, directory: str) -> list[str]:
        """Starts anchors and daemons, and nothing else."""
        names = [name for namespace in plan.namespaces for name in (namespace.anchor, namespace.daemon)]
        return [*self._on(file, plan, directory), "up", "--detach", *names]

    def stop_argv(self, file: str, plan: Plan, directory: str, services: Sequence[str]) -> list[str]:
        """Ends containers that were made without tpd, so that the anchor can have their ports and addresses.

        They are only stopped, since compose carries their anonymous volumes over when it makes them anew; where the
        user forbids that (`--no-recreate`, `start`, `restart`), they have to be removed.
        """
        keeps = self.subcommand in ("start", "restart") or self.scan.on("no-recreate")
        how = ["rm", "--stop", "--force"] if keeps else ["stop"]
        return [*self._on(file, plan, directory), *how, *services]

    def child_argv(self, file: str, plan: Plan, directory: str, *, services: Sequence[str] = ()) -> list[str]:
        """The user's command on the transformed file.

        Args:
            file: The transformed file.
            plan: What is in it.
            directory: The user's project directory.
            services: The names that `services_argv` printed, if `wants_services`.
        """
        kept = [word for option in self.options.options if option.name not in _REPLACED for word in option.words()]
        arguments = list(self.arguments)
        if self.wants_services:
            arguments += [name for name in services if name not in plan.remote_names]
        if self.subcommand == "port":
            arguments = self._port_arguments(plan)
        return [*self._on(file, plan, directory, kept), self.subcommand, *arguments]

    def remove_argv(self, file: str, plan: Plan, directory: str) -> list[str]:
        """Removes anchors, daemons and gates, and nothing else."""
        names = [name for namespace in plan.namespaces for name in namespace.ours]
        return [*self._on(file, plan, directory), "rm", "--stop", "--force", *names]

    def check(self, plan: Plan, services: Sequence[str] = ()) -> None:
        """Refuse what an intercepted or left-out service cannot do.

        Args:
            plan: What is transformed.
            services: The names that `services_argv` printed, if `wants_services`.

        Raises:
            UserError: The command asks for it.
        """
        if self.subcommand == "up" and self.scan.on("always-recreate-deps"):
            raise UserError(
                "up --always-recreate-deps would recreate the anchor too, the container that holds the intercepted"
                " service's network, and the daemon in it.",
                hint="Use --force-recreate, which recreates your services only.",
            )
        if self.wants_services and services:
            for target in plan.targets:
                if target not in services:
                    raise _disabled(target, plan)
        once = {namespace.owner for namespace in plan.namespaces} | set(plan.targets)
        for service, number in self.scale.items():
            if service in once and number > 1:
                raise scaled(service, number, f"--scale {service}={number}")
        named = [*self.services, *self.scale]
        if self.subcommand == "up":
            named += self.scan.values("attach", "exit-code-from")
        for service in named:
            if service in plan.remote_names:
                raise UserError(
                    f"{self.subcommand}: service {service!r} is left to the cluster by --remote.",
                    hint=f"Leave it out of one of the two. Left to the cluster: {listed(plan.remote_names)}.",
                )
            if service in {name for namespace in plan.namespaces for name in namespace.ours}:
                raise UserError(
                    f"{self.subcommand}: {service!r} is tpd's own service.", hint="Name your services only."
                )
        if self.subcommand == "run" and self.services and self.services[0] in plan.members:
            published = self.scan.values("publish")
            if published:
                raise UserError(
                    f"run --publish {published[0]}: service {self.services[0]!r} shares the network namespace of its"
                    " anchor, which publishes the service's own ports from the start.",
                    hint=f"Add the port to `ports:` of {self.services[0]!r} in the compose file.",
                )

    def _reading(self) -> list[str]:
        kept = [
            word
            for option in self.options.options
            if option.name in ("env-file", "compatibility", *_REPLACED)
            for word in option.words()
        ]
        return [*self.prefix, *kept]

    def _on(self, file: str, plan: Plan, directory: str, kept: Sequence[str] | None = None) -> list[str]:
        if kept is None:
            kept = [
                word
                for option in self.options.options
                if option.name in ("env-file", "compatibility")
                for word in option.words()
            ]
        ours = [f"--file={file}", f"--project-name={plan.project}", f"--project-directory={directory}"]
        return [*self.prefix, *ours, *kept]

    def _port_arguments(self, plan: Plan) -> list[str]:
        anchors = {namespace.owner: namespace.anchor for namespace in plan.namespaces}
        words = [word for option in self.scan.options for word in option.words()]
        names = [anchors.get(name, name) if place == 0 else name for place, name in enumerate(self.scan.names)]
        return [*words, *names]


def _disabled(service: str, plan: Plan) -> UserError:
    profiles = plan.document["services"][service].get("profiles") or []
    return UserError(
        f"Service {service!r} would not start: of its profiles ({listed(profiles)}) none is active.",
        hint=f"docker compose --profile {profiles[0] if profiles else 'NAME'} ...",
    )


def scaled(service: str, number: int, where: str) -> UserError:
    """Why an intercepted service runs once."""
    return UserError(
        f"Service {service!r} is to run {number} times ({where}), but an intercepted service runs once: its containers"
        " would share one network namespace, and the second could not listen on the first one's ports.",
        hint=f"Run one container of {service!r}; the other services may be scaled.",
    )


def child_environment(file: str, plan: Plan) -> dict[str, str]:
    """What makes any `docker compose` in the same project use the transformed file."""
    return {"COMPOSE_FILE": file, "COMPOSE_PROJECT_NAME": plan.project}


def parse_child(argv: Sequence[str]) -> ComposeCommand | RunCommand:
    """Read the command behind `--`.

    Raises:
        UserError: It is not `docker compose`, `docker-compose` or `docker run`, or not complete.
    """
    if not argv:
        raise UserError("There is no command behind `--`.", hint=_instead("docker compose up"))
    program = PurePath(argv[0]).name.removesuffix(".exe")
    if program == "docker-compose":
        return _compose((argv[0],), argv[1:])
    if program != "docker":
        raise UserError(
            f"{argv[0]!r} is a host command, and a host command as child is refused: tpd puts containers in the place"
            " of a workload and changes nothing on the host's network.",
            hint=_instead("docker compose up") + " Or, without a compose file: `-- docker run IMAGE COMMAND`.",
        )
    scan = _DOCKER.scan(argv[1:], interspersed=False)
    prefix = tuple(argv[: len(argv) - len(scan.names)])
    match scan.names:
        case ("compose", *rest):
            return _compose((*prefix, "compose"), rest)
        case ("run", *rest):
            return parse_run((*prefix, "run"), rest)
        case ("container", "run", *rest):
            return parse_run((*prefix, "container", "run"), rest)
        case _:
            command = " ".join(("docker", *scan.names[:1]))
            raise UserError(
                f"`{command}` is not a command that tpd can run: it takes `docker compose ...` and `docker run ...`.",
                hint=_instead("docker compose up"),
            )


def _compose(prefix: tuple[str, ...], words: Sequence[str]) -> ComposeCommand:
    options = _COMPOSE.scan(words, interspersed=False)
    if not options.names:
        raise UserError(f"`{' '.join(prefix)}` names no sub-command.", hint=_instead("docker compose up"))
    subcommand, *arguments = options.names
    table = _COMMANDS.get(subcommand, Table(""))
    return ComposeCommand(
        prefix=prefix,
        options=options,
        subcommand=subcommand,
        arguments=tuple(arguments),
        scan=table.scan(arguments, interspersed=subcommand not in _NOT_INTERSPERSED),
    )


def _instead(command: str) -> str:
    return f"Run the service in a container: `tpd run --intercept WORKLOAD -- {command}`."
