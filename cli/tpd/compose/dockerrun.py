"""`docker run`: the same as for a compose service, in three argument lists."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tpd.compose.model import DNS_ADDRESS, VOLUME_ROOT, Bind, Images, Volumes, labels
from tpd.compose.mounts import place
from tpd.compose.options import Option, Scan, Table
from tpd_core.errors import UserError

# docker CLI 28.2, `docker run --help`, and the older or hidden names that it still takes.
_RUN = Table(
    "add-host= annotation= attach,a= blkio-weight= blkio-weight-device= cap-add= cap-drop= cgroup-parent= cgroupns="
    " cidfile= cpu-count= cpu-percent= cpu-period= cpu-quota= cpu-rt-period= cpu-rt-runtime= cpu-shares,c= cpus="
    " cpuset-cpus= cpuset-mems= detach,d detach-keys= device= device-cgroup-rule= device-read-bps= device-read-iops="
    " device-write-bps= device-write-iops= disable-content-trust dns= dns-opt= dns-option= dns-search= domainname="
    " entrypoint= env,e= env-file= expose= gpus= group-add= health-cmd= health-interval= health-retries="
    " health-start-interval= health-start-period= health-timeout= help hostname,h= init interactive,i io-maxbandwidth="
    " io-maxiops= ip= ip6= ipc= isolation= kernel-memory= label,l= label-file= link= link-local-ip= log-driver="
    " log-opt= mac-address= memory,m= memory-reservation= memory-swap= memory-swappiness= mount= name= net= net-alias="
    " network= network-alias= no-healthcheck oom-kill-disable oom-score-adj= pid= pids-limit= platform= privileged"
    " publish,p= publish-all,P pull= quiet,q read-only restart= rm runtime= security-opt= shm-size= sig-proxy"
    " stop-signal= stop-timeout= storage-opt= sysctl= tmpfs= tty,t ulimit= use-api-socket user,u= userns= uts="
    " volume,v= volume-driver= volumes-from= workdir,w="
)
_NETWORK = ("net", "network")
_DNS = ("dns",)
# What describes the network endpoint: the engine refuses it on a container that joins another's namespace.
_MOVED = (
    *("add-host", "dns-opt", "dns-option", "dns-search", "domainname", "expose", "hostname", "ip", "ip6", "link"),
    *("link-local-ip", "mac-address", "net", "net-alias", "network", "network-alias", "publish", "publish-all"),
)
# docker reads an environment file line by line, in lines of at most 64 KiB (Go's bufio.Scanner), and drops a trailing
# carriage return.
_LINE_LIMIT = 60 * 1024
_NAME = re.compile(r"[^\s=#\0][^\s=\0]*")


@dataclass(frozen=True, slots=True)
class RunCommand:
    """A `docker run` command line: the words up to `run`, the options, and image and command as given."""

    prefix: tuple[str, ...]
    options: Scan
    image: str
    command: tuple[str, ...]

    @property
    def name(self) -> str | None:
        """The user's `--name`."""
        return self.options.last("name")

    @property
    def detached(self) -> bool:
        """The command ends while the container stays."""
        return self.options.on("detach")

    @property
    def publish_all(self) -> bool:
        """The ports that the image exposes are published: `plan_run` has to be told which."""
        return self.options.on("publish-all")

    @property
    def env_files(self) -> tuple[str, ...]:
        """The user's `--env-file`."""
        return self.options.values("env-file")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Everything that a `docker run` depends on.

    Args:
        session: Name of the session; the containers are named after it.
        images: The product's images.
        environment: The workload's environment; empty in phase 1.
        binds: The workload's volumes; empty in phase 1.
        volumes: None when no volumes are wanted.
        image_ports: Ports that the user's image exposes (`8080/tcp`), needed for `--publish-all`.
        user_names: Names that the user's own environment files set (see `names_in_env_file`).
        env_file: Where the caller will write `RunPlan.env_file_text`.
        dns_address: Where the anchor's resolver forwards to.
        log_level: The daemon's.
    """

    session: str
    images: Images
    environment: Mapping[str, str] = field(default_factory=dict)
    binds: tuple[Bind, ...] = ()
    volumes: Volumes | None = None
    image_ports: tuple[str, ...] = ()
    user_names: frozenset[str] = frozenset()
    env_file: str = ""
    dns_address: str = DNS_ADDRESS
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Three commands, to be run in this order.

    Args:
        anchor: Name of the anchor's container.
        daemon: Name of the daemon's container.
        anchor_argv: Starts the anchor, detached.
        daemon_argv: Starts the daemon, detached.
        app_argv: The user's command, in the anchor's namespace.
        env_file_text: To be written to `RunRequest.env_file` (mode 0600) if it is not empty.
        environment: To be added to the environment of `app_argv`: values that an environment file cannot hold.
        dns_upstreams: The user's `--dns`; empty: the engine's resolvers are the daemon's upstreams.
        notes: Sentences that the user should read.
        binds: The volumes of the workload that leave the user's own mounts as they are.
    """

    anchor: str
    daemon: str
    anchor_argv: tuple[str, ...]
    daemon_argv: tuple[str, ...]
    app_argv: tuple[str, ...]
    env_file_text: str
    environment: Mapping[str, str]
    dns_upstreams: tuple[str, ...]
    notes: tuple[str, ...]
    binds: tuple[Bind, ...] = ()


def parse_run(prefix: Sequence[str], words: Sequence[str]) -> RunCommand:
    """Read what stands behind `docker run`.

    Raises:
        UserError: It is incomplete, or has an option that tpd cannot tell from an image.
    """
    scan = _RUN.scan(words, interspersed=False, unknown=_unknown)
    if not scan.names:
        raise UserError("`docker run` names no image.", hint="docker run [OPTIONS] IMAGE [COMMAND]")
    image, *command = scan.names
    return RunCommand(tuple(prefix), scan, image, tuple(command))


def plan_run(command: RunCommand, request: RunRequest) -> RunPlan:
    """Split a `docker run` into anchor, daemon and app.

    Raises:
        UserError: Its network cannot hold an anchor.
        ClusterError: A volume of the workload cannot be mounted.
    """
    anchor, daemon = f"tpd-{request.session}-anchor", f"tpd-{request.session}-daemon"
    networks = [value for value in command.options.values(*_NETWORK) if value]
    for network in networks:
        _refuse_network(network)
    app: list[Option] = []
    moved: list[Option] = []
    for option in command.options.options:
        if option.name in _MOVED or (option.name == "sysctl" and (option.value or "").startswith("net.")):
            moved.append(option)
        elif option.name not in _DNS:
            app.append(option)
    own_names = {(value.partition("=")[0]) for value in command.options.values("env")} | request.user_names
    added = {name: value for name, value in request.environment.items() if name not in own_names}
    in_file, in_environment, unusable = _divide(added)
    binds, notes = place(request.binds, _mounts(command.options), "The container") if request.volumes else ((), ())
    notes += tuple(f"The workload's variable {name!r} cannot be passed on by docker." for name in unusable)
    # First come our environment and then the user's: docker lets the later one win.
    ours = [f"--network=container:{anchor}"]
    ours += [f"--env-file={request.env_file}"] if in_file else []
    ours += [f"--env={name}" for name in sorted(in_environment)]
    if request.volumes is not None and request.volumes.mountpoint is not None:
        ours += [f"--mount={_mount(request.volumes.mountpoint, bind)}" for bind in binds]
    words = [word for option in app for word in option.words()]
    return RunPlan(
        anchor=anchor,
        daemon=daemon,
        anchor_argv=(
            *_ours(command, request, anchor, "anchor"),
            *_anchor_options(moved, command, request),
            request.images.anchor,
        ),
        daemon_argv=(
            *_ours(command, request, daemon, "daemon"),
            *_daemon_options(anchor, request),
            request.images.daemon,
        ),
        app_argv=(*command.prefix, *ours, *words, command.image, *command.command),
        env_file_text="".join(f"{name}={value}\n" for name, value in sorted(in_file.items())),
        environment=in_environment,
        dns_upstreams=tuple(command.options.values(*_DNS)),
        notes=notes,
        binds=binds,
    )


def names_in_env_file(text: str) -> frozenset[str]:
    """The names that a docker environment file sets."""
    lines = (line.lstrip() for line in text.split("\n"))
    return frozenset(line.partition("=")[0] for line in lines if line and not line.startswith("#"))


def _ours(command: RunCommand, request: RunRequest, name: str, role: str) -> list[str]:
    words = [*command.prefix, "--detach", f"--name={name}", "--cap-drop=ALL", "--read-only"]
    if request.images.pull_policy is not None:
        words.append(f"--pull={request.images.pull_policy}")
    return words + [f"--label={key}={value}" for key, value in labels(role, request.session, request.session).items()]


def _anchor_options(moved: Sequence[Option], command: RunCommand, request: RunRequest) -> list[str]:
    words = [f"--dns={request.dns_address}"]
    named = False
    for option in moved:
        if option.name in _NETWORK and option.value and "=" in option.value:
            # An alias belongs to its network where the network has options of its own.
            alias = f",alias={command.name}" if command.name else ""
            words.append(f"--network={option.value}{alias}")
        else:
            named = named or (option.name in _NETWORK and option.value not in ("", "bridge", "default"))
            words += option.words()
    if named and command.name:
        words.append(f"--network-alias={command.name}")
    if command.publish_all:
        words += [f"--expose={port}" for port in request.image_ports]
    return words


def _daemon_options(anchor: str, request: RunRequest) -> list[str]:
    words = [
        f"--network=container:{anchor}",
        "--restart=on-failure",
        "--tmpfs=/run",
        "--cap-add=NET_ADMIN",
        f"--env=TPD_DNS_ADDRESS={request.dns_address}",
        f"--env=TPD_LOG={request.log_level}",
    ]
    if request.volumes is not None:
        words += ["--cap-add=SYS_ADMIN", "--device=/dev/fuse", f"--env=TPD_VOLUME_ROOT={VOLUME_ROOT}"]
        if request.volumes.mountpoint is None:
            words.append(f"--tmpfs={VOLUME_ROOT}")
        else:
            source, target = f"source={request.volumes.mountpoint}", f"target={VOLUME_ROOT}"
            words.append(f"--mount={_csv(['type=bind', source, target, 'bind-propagation=rshared'])}")
        if request.volumes.apparmor:
            words.append("--security-opt=apparmor=unconfined")
    return words


def _divide(environment: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """What an environment file can hold, what only the command's own environment can, and what nothing can."""
    in_file, in_environment, unusable = {}, {}, []
    for name, value in environment.items():
        if not _NAME.fullmatch(name) or "\0" in value:
            unusable.append(name)
        elif "\n" in value or value.endswith("\r") or len(name) + len(value.encode()) > _LINE_LIMIT:
            in_environment[name] = value
        else:
            in_file[name] = value
    return in_file, in_environment, sorted(unusable)


def _mounts(options: Scan) -> dict[str, bool]:
    taken: dict[str, bool] = {}
    for volume in options.values("volume"):
        parts = volume.split(":")
        if len(parts) == 1:
            taken[parts[0]] = False
        else:
            taken[parts[1]] = "ro" in parts[2].split(",") if len(parts) > 2 else False
    for tmpfs in options.values("tmpfs"):
        taken[tmpfs.partition(":")[0]] = False
    for mount in options.values("mount"):
        fields = dict(part.partition("=")[::2] for part in next(csv.reader([mount])))
        target = fields.get("target") or fields.get("destination") or fields.get("dst")
        if target:
            read_only = {fields.get(key) for key in ("readonly", "ro") if key in fields}
            taken[target] = bool(read_only & {"", "1", "true"})
    return {target: read_only for target, read_only in taken.items() if target.startswith("/")}


def _mount(mountpoint: str, bind: Bind) -> str:
    source = f"source={mountpoint}/{bind.source}"
    fields = ["type=bind", source, f"target={bind.target}", "bind-propagation=rslave"]
    return _csv([*fields, "readonly"] if bind.read_only else fields)


def _csv(fields: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(fields)
    return text.getvalue()


def _refuse_network(network: str) -> None:
    fields = dict(part.partition("=")[::2] for part in network.split(",")) if "=" in network else {"name": network}
    name = fields.get("name", "")
    reasons = {
        "host": "an intercept would take over the host's own network, which tpd never changes",
        "none": "without any network nothing can be connected to the cluster",
    }
    reason = reasons.get(name)
    if name.startswith("container:"):
        reason = "the container would live in another container's network"
    if reason:
        raise UserError(
            f"docker run --network {network}: {reason}.",
            hint="Leave --network out, or name a network of yours; publish ports by --publish.",
        )


def _unknown(option: str) -> UserError:
    example = f"{option}=VALUE" if option.startswith("--") else "--NAME=VALUE"
    return UserError(
        f"docker run {option}: tpd does not know this option, so it cannot tell whether a value follows.",
        hint=f"Write it in one word, as {example} (or =true for a switch).",
    )
