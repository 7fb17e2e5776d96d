"""`docker run`, split into anchor, daemon and app."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpd.compose.dockerrun import RunCommand, RunPlan, RunRequest, names_in_env_file, parse_run, plan_run
from tpd.compose.model import Bind, Images, Volumes
from tpd_core.errors import UserError

LABELS = ["--label=dev.tpd=1", "--label=dev.tpd.role={}", "--label=dev.tpd.run=s1", "--label=dev.tpd.session=s1"]


def command(line: str, prefix: str = "docker run") -> RunCommand:
    return parse_run(prefix.split(), line.split())


def planned(line: str, prefix: str = "docker run", **options: Any) -> RunPlan:
    return plan_run(command(line, prefix), RunRequest("s1", Images("anchor", "daemon"), **options))


def anchor_words(line: str, **options: Any) -> list[str]:
    """What the anchor gets besides what every anchor gets."""
    argv = list(planned(line, **options).anchor_argv)
    start = ["docker", "run", "--detach", "--name=tpd-s1-anchor", "--cap-drop=ALL", "--read-only"]
    start += [label.format("anchor") for label in LABELS] + ["--dns=198.18.0.53"]
    assert argv[: len(start)] == start
    assert argv[-1] == "anchor"
    return argv[len(start) : -1]


def app_words(line: str, **options: Any) -> list[str]:
    """What the app gets besides the anchor's network."""
    argv = list(planned(line, **options).app_argv)
    assert argv[:3] == ["docker", "run", "--network=container:tpd-s1-anchor"]
    return argv[3:]


@pytest.mark.parametrize(
    ("line", "anchor", "app"),
    [
        ("image", "", "image"),
        ("-it --rm image sh -c --rm -p", "", "--interactive --tty --rm image sh -c --rm -p"),
        ("-dp8080:80 -P image", "--publish=8080:80 --publish-all", "--detach image"),
        ("-p 80:80/udp --name app image", "--publish=80:80/udp", "--name=app image"),
        ("--net n --name app image", "--net=n --network-alias=app", "--name=app image"),
        ("--network bridge --name app image", "--network=bridge", "--name=app image"),
        (
            "--network name=n,alias=x --network name=m --name app image",
            "--network=name=n,alias=x,alias=app --network=name=m,alias=app",
            "--name=app image",
        ),
        (
            "--network n --network-alias x --ip 10.0.0.9 --ip6=::9 image",
            "--network=n --network-alias=x --ip=10.0.0.9 --ip6=::9",
            "image",
        ),
        (
            "-h host --domainname d --add-host a:1.2.3.4 image",
            "--hostname=host --domainname=d --add-host=a:1.2.3.4",
            "image",
        ),
        ("--dns 9.9.9.9 --dns-search c --dns-option ndots:3 image", "--dns-search=c --dns-option=ndots:3", "image"),
        (
            "--mac-address 02:00:00:00:00:01 --link db:d --expose 9 image",
            "--mac-address=02:00:00:00:00:01 --link=db:d --expose=9",
            "image",
        ),
        ("--sysctl net.a=1 --sysctl kernel.b=2 image", "--sysctl=net.a=1", "--sysctl=kernel.b=2 image"),
        ("-e A=1 -v /h:/c --entrypoint sh image -c x", "", "--env=A=1 --volume=/h:/c --entrypoint=sh image -c x"),
        ("--future=x image", "", "--future=x image"),
        ("--restart always --gpus all -u 0 -w /w image", "", "--restart=always --gpus=all --user=0 --workdir=/w image"),
        ("-- image -p", "", "image -p"),
    ],
)
def test_what_describes_the_network_goes_to_the_anchor(line: str, anchor: str, app: str) -> None:
    assert anchor_words(line) == anchor.split()
    assert app_words(line) == app.split()


def test_publish_all_needs_the_images_ports() -> None:
    assert command("-P image").publish_all
    assert not command("-P=false image").publish_all
    assert anchor_words("-P image", image_ports=("80/tcp", "53/udp")) == [
        "--publish-all",
        "--expose=80/tcp",
        "--expose=53/udp",
    ]
    assert anchor_words("image", image_ports=("80/tcp",)) == []


def test_the_daemon() -> None:
    argv = planned("image").daemon_argv
    start = ("docker", "run", "--detach", "--name=tpd-s1-daemon", "--cap-drop=ALL", "--read-only")
    assert argv == (
        *start,
        *(label.format("daemon") for label in LABELS),
        "--network=container:tpd-s1-anchor",
        "--restart=on-failure",
        "--tmpfs=/run",
        "--cap-add=NET_ADMIN",
        "--env=TPD_DNS_ADDRESS=198.18.0.53",
        "--env=TPD_LOG=info",
        "daemon",
    )
    mounting = planned("image", volumes=Volumes("/v,1", apparmor=True)).daemon_argv
    assert set(mounting) - set(argv) == {
        "--cap-add=SYS_ADMIN",
        "--device=/dev/fuse",
        "--env=TPD_VOLUME_ROOT=/tpd/volumes",
        '--mount=type=bind,"source=/v,1",target=/tpd/volumes,bind-propagation=rshared',
        "--security-opt=apparmor=unconfined",
    }


def test_without_propagation_the_daemon_keeps_its_mounts() -> None:
    bind = Bind("w/v", "/v")
    plan = planned("-v /x:/over image", volumes=Volumes(None), binds=(bind, Bind("w/o", "/over")))
    assert set(plan.daemon_argv) - set(planned("image").daemon_argv) == {
        "--cap-add=SYS_ADMIN",
        "--device=/dev/fuse",
        "--env=TPD_VOLUME_ROOT=/tpd/volumes",
        "--tmpfs=/tpd/volumes",
    }
    assert not [word for word in plan.app_argv if word.startswith("--mount")]
    assert plan.binds == (bind,)


def test_the_engine_is_the_users() -> None:
    plan = planned("--dns 9.9.9.9 image", prefix="docker -c far container run")
    for argv in (plan.anchor_argv, plan.daemon_argv, plan.app_argv):
        assert argv[:5] == ("docker", "-c", "far", "container", "run")
    assert plan.dns_upstreams == ("9.9.9.9",)


def test_the_environment_is_never_on_the_command_line() -> None:
    environment = {
        "PASSWORD": "s3cret $x",
        "CERT": "a\nb",
        "ODD": "x\r",
        "MINE": "theirs",
        "FILED": "theirs",
        "a b": "1",
    }
    plan = planned(
        "-e MINE=1 --env-file user.env image",
        environment=environment,
        env_file="/t/env",
        user_names=frozenset({"FILED"}),
    )
    assert plan.env_file_text == "PASSWORD=s3cret $x\n"
    assert plan.environment == {"CERT": "a\nb", "ODD": "x\r"}
    assert plan.app_argv[3:] == (
        *("--env-file=/t/env", "--env=CERT", "--env=ODD"),
        *("--env=MINE=1", "--env-file=user.env", "image"),
    )
    assert "s3cret" not in " ".join((*plan.app_argv, *plan.anchor_argv, *plan.daemon_argv))
    assert len(plan.notes) == 1
    assert "'a b'" in plan.notes[0]


def test_long_values_do_not_fit_a_line_of_the_file() -> None:
    plan = planned("image", environment={"LONG": "x" * 70_000})
    assert plan.env_file_text == ""
    assert plan.environment == {"LONG": "x" * 70_000}


@pytest.mark.parametrize(
    "mount",
    [
        "-v /h:/data",
        "-v /h:/data:ro",
        "-v /data",
        "--tmpfs /data:size=1m",
        "--mount type=bind,src=/h,dst=/data",
        "--mount=type=tmpfs,destination=/data,readonly",
    ],
)
def test_the_users_mounts_win(mount: str) -> None:
    binds = (Bind("w/data", "/data"), Bind("w/cfg", "/cfg", read_only=True))
    plan = planned(f"{mount} image", binds=binds, volumes=Volumes("/v"))
    assert plan.app_argv[3] == "--mount=type=bind,source=/v/w/cfg,target=/cfg,bind-propagation=rslave,readonly"
    assert not any("/v/w/data" in word for word in plan.app_argv)
    assert "/data" in plan.notes[0]


def test_both_phases_start_the_same_anchor_and_daemon() -> None:
    empty = planned("-p 80:80 image", volumes=Volumes("/v"))
    full = planned("-p 80:80 image", volumes=Volumes("/v"), environment={"A": "1"}, binds=(Bind("w/v", "/v"),))
    assert (empty.anchor_argv, empty.daemon_argv) == (full.anchor_argv, full.daemon_argv)


@pytest.mark.parametrize("network", ["host", "none", "container:x", "name=host"])
def test_networks_that_cannot_hold_an_anchor_are_refused(network: str) -> None:
    with pytest.raises(UserError, match=f"--network {network}"):
        planned(f"--network {network} image")


@pytest.mark.parametrize("line", ["", "-it", "-p", "--name"])
def test_incomplete_commands_are_refused(line: str) -> None:
    with pytest.raises(UserError):
        command(line)


@pytest.mark.parametrize("line", ["--future x image", "-z image"])
def test_an_unknown_option_could_hide_the_image(line: str) -> None:
    with pytest.raises(UserError, match="does not know this option") as caught:
        command(line)
    assert "one word" in caught.value.hint


def test_the_names_in_an_environment_file() -> None:
    assert names_in_env_file("# A=1\nB=2\n  C = 3\n\nD\nB=4\n") == {"B", "C ", "D"}


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8)))
def test_every_value_goes_one_way_and_arrives_whole(environment: dict[str, str]) -> None:
    plan = planned("image", environment=environment)
    lines = plan.env_file_text.removesuffix("\n").split("\n") if plan.env_file_text else []
    arrived = dict(line.split("=", 1) for line in lines) | dict(plan.environment)
    assert arrived.items() <= environment.items()
    assert len(plan.notes) == len(environment) - len(arrived)
