"""What the user's command line says, and the command lines that are run instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpd.compose.argv import ComposeCommand, child_environment, parse_child
from tpd.compose.dockerrun import RunCommand
from tpd.compose.locate import project_directory
from tpd.compose.model import Images, Plan, Request, Target
from tpd.compose.transform import transform
from tpd_core.errors import UserError


def compose(line: str) -> ComposeCommand:
    command = parse_child(line.split())
    assert isinstance(command, ComposeCommand)
    return command


def plan(*, remote: tuple[str, ...] = (), **app: Any) -> Plan:
    services: dict[str, Any] = {"app": {"image": "app", **app}, "web": {"image": "web"}, "db": {"image": "db"}}
    config = {"name": "shop", "services": services}
    return transform(config, Request((Target("app"),), "s", Images("a", "d"), remote=remote))


@pytest.mark.parametrize(
    ("line", "config"),
    [
        ("docker compose up", "docker compose --profile=* config --format=json"),
        (
            "docker -c far compose -f a.yaml --file=b.yaml -pshop --profile x --ansi never up -d app",
            "docker -c far compose --file=a.yaml --file=b.yaml --project-name=shop --profile=* config --format=json",
        ),
        (
            "/usr/bin/docker --log-level debug compose --project-directory=/p --env-file e --compatibility up",
            "/usr/bin/docker --log-level debug compose --project-directory=/p --env-file=e --compatibility"
            " --profile=* config --format=json",
        ),
        ("docker-compose -f - up", "docker-compose --file=- --profile=* config --format=json"),
    ],
)
def test_the_whole_project_is_read_as_the_user_names_it(line: str, config: str) -> None:
    assert compose(line).config_argv() == config.split()


def test_enabled_services_are_read_with_the_users_profiles() -> None:
    command = compose("docker compose --profile a --profile=b -f x up")
    words = ["--file=x", "--profile=a", "--profile=b", "config", "--services"]
    assert command.services_argv() == ["docker", "compose", *words]


@pytest.mark.parametrize(
    ("line", "child"),
    [
        (
            "docker compose -f a -p other --project-directory /q --profile x --progress plain up --build app",
            "docker compose --file=F --project-name=shop --project-directory=/p --profile=x --progress=plain"
            " up --build app",
        ),
        (
            "docker -H tcp://h compose --env-file e run --rm -e A=1 app sh -c --up",
            "docker -H tcp://h compose --file=F --project-name=shop --project-directory=/p --env-file=e"
            " run --rm -e A=1 app sh -c --up",
        ),
        (
            "docker compose logs -f app",
            "docker compose --file=F --project-name=shop --project-directory=/p logs -f app",
        ),
        (
            "docker compose port --protocol tcp app 80",
            "docker compose --file=F --project-name=shop --project-directory=/p port --protocol=tcp tpd-anchor 80",
        ),
        (
            "docker compose port web 80",
            "docker compose --file=F --project-name=shop --project-directory=/p port web 80",
        ),
    ],
)
def test_the_child_is_the_users_command_on_our_file(line: str, child: str) -> None:
    assert compose(line).child_argv("F", plan(), "/p") == child.split()


@pytest.mark.parametrize("sub", ["up", "up -d --force-recreate", "restart -t 3", "create"])
def test_commands_for_all_services_name_the_users_ones(sub: str) -> None:
    command = compose(f"docker compose {sub}")
    assert command.wants_services
    argv = command.child_argv("F", plan(remote=("db",)), "/p", services=("app", "db", "web"))
    assert argv[-len(sub.split()) - 2 :] == [*sub.split(), "app", "web"]


@pytest.mark.parametrize("sub", ["up app", "restart app", "down", "ps", "run app", "watch"])
def test_other_commands_are_left_as_they_are(sub: str) -> None:
    command = compose(f"docker compose {sub}")
    assert not command.wants_services
    assert command.child_argv("F", plan(), "/p", services=("app", "web"))[-len(sub.split()) :] == sub.split()


def test_helpers_around_the_child() -> None:
    two = transform(
        {"name": "shop", "services": {"a": {}, "b": {}}},
        Request((Target("a"), Target("b")), "s", Images("a", "d")),
    )
    command = compose("docker compose --profile x --ansi never -f mine up")
    ours = ["docker", "compose", "--file=F", "--project-name=shop", "--project-directory=/p"]
    assert command.prepare_argv("F", two, "/p") == [
        *ours, "up", "--detach", "tpd-anchor-a", "tpd-daemon-a", "tpd-anchor-b", "tpd-daemon-b",
    ]  # fmt: skip
    assert command.remove_argv("F", plan(), "/p") == [
        *ours, "rm", "--stop", "--force", "tpd-anchor", "tpd-daemon", "tpd-gate",
    ]  # fmt: skip
    assert command.stop_argv("F", plan(), "/p", ["app"]) == [*ours, "stop", "app"]
    keeping = compose("docker compose up --no-recreate")
    assert keeping.stop_argv("F", plan(), "/p", ["app"]) == [*ours, "rm", "--stop", "--force", "app"]
    assert child_environment("F", plan()) == {"COMPOSE_FILE": "F", "COMPOSE_PROJECT_NAME": "shop"}


@pytest.mark.parametrize(
    ("sub", "detached", "starts", "aborts"),
    [
        ("up", False, True, False),
        ("up -d", True, True, False),
        ("up --detach=false", False, True, False),
        ("up -Vd web", True, True, False),
        ("up --wait", True, True, False),
        ("up --scale d=2", False, True, False),
        ("up --abort-on-container-exit", False, True, True),
        ("up --exit-code-from app", False, True, True),
        ("run app up -d", False, True, False),
        ("run -d app", True, True, False),
        ("watch", False, True, False),
        ("start", True, True, False),
        ("ps -a", True, False, False),
        ("down", True, False, False),
    ],
)
def test_what_kind_of_run_it_is(sub: str, detached: bool, starts: bool, aborts: bool) -> None:
    command = compose(f"docker compose {sub}")
    assert (command.detached, command.starts, command.abort_on_exit) == (detached, starts, aborts)


@pytest.mark.parametrize(
    ("sub", "services"),
    [
        ("up -t 10 app --timeout=3 web", ("app", "web")),
        ("up --attach web --no-attach db app", ("app",)),
        ("up -- -odd", ("-odd",)),
        ("run -v /a:/b -p 80:80 --rm app web", ("app",)),
        ("run -eA=1 -uroot app", ("app",)),
        ("scale app=2 web=3", ("app", "web")),
        ("up", ()),
    ],
)
def test_services_are_told_from_options(sub: str, services: tuple[str, ...]) -> None:
    assert compose(f"docker compose {sub}").services == services


@pytest.mark.parametrize(
    "sub", ["up --scale app=2", "up --scale web=2 --scale=app=3", "scale app=2", "create --scale app=9"]
)
def test_scaling_an_intercepted_service_is_refused(sub: str) -> None:
    with pytest.raises(UserError, match="'app' is to run") as caught:
        compose(f"docker compose {sub}").check(plan())
    assert "share one network namespace" in caught.value.message


@pytest.mark.parametrize(
    "sub", ["up --scale app=1", "up --scale app=0 --scale web=7", "scale web=2", "run -p 80:80 web"]
)
def test_what_does_not_touch_the_intercept_is_allowed(sub: str) -> None:
    compose(f"docker compose {sub}").check(plan(), ("app", "web"))


@pytest.mark.parametrize(
    ("sub", "named"),
    [
        ("up app db", "'db' is left to the cluster"),
        ("up --exit-code-from db", "'db' is left to the cluster"),
        ("up --attach=db", "'db' is left to the cluster"),
        ("scale db=2", "'db' is left to the cluster"),
        ("run --rm db", "'db' is left to the cluster"),
        ("restart tpd-anchor", "'tpd-anchor' is tpd's own"),
        ("run -p 80:80 app", "--publish 80:80"),
        ("up --scale app", "'app' does not have the form"),
        ("up --always-recreate-deps", "--always-recreate-deps"),
    ],
)
def test_what_cannot_be_is_refused(sub: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        compose(f"docker compose {sub}").check(plan(remote=("db",)))


def test_an_intercepted_service_must_be_in_an_active_profile() -> None:
    with pytest.raises(UserError, match="'app' would not start") as caught:
        compose("docker compose up").check(plan(profiles=["dev"]), ("web",))
    assert "--profile dev" in caught.value.hint
    compose("docker compose up app").check(plan(profiles=["dev"]), ())


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "no command"),
        ("make up", "'make' is a host command"),
        ("sh -c docker-compose", "'sh' is a host command"),
        ("podman run x", "'podman' is a host command"),
        ("docker", "`docker`"),
        ("docker exec x", "`docker exec`"),
        ("docker container ls", "`docker container`"),
        ("docker compose", "names no sub-command"),
        ("docker compose -p", "-p lacks its value"),
        ("docker run", "names no image"),
    ],
)
def test_other_children_are_refused(line: str, named: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_child(line.split())
    assert named in caught.value.message


@pytest.mark.parametrize("line", ["docker run x", "docker container run -it x sh", "docker --context far run x"])
def test_docker_run_is_told_apart(line: str) -> None:
    command = parse_child(line.split())
    assert isinstance(command, RunCommand)
    assert command.image == "x"


@given(
    st.lists(st.sampled_from(["docker", "compose", "run", "up", "-f", "-d", "--", "-", "--x=y", "--scale", "a=2", "é"]))
)
def test_any_words_are_a_command_or_the_users_error(words: list[str]) -> None:
    try:
        command = parse_child(words)
    except UserError:
        return
    if isinstance(command, ComposeCommand):
        argv = command.child_argv("F", plan(), "/p")
        assert argv[len(argv) - len(command.arguments) :] == list(command.arguments) or command.subcommand == "port"


def test_compatibility_mode_changes_container_names() -> None:
    assert compose("docker compose up").separator({}) == "-"
    assert compose("docker compose --compatibility up").separator({}) == "_"
    assert compose("docker compose up").separator({"COMPOSE_COMPATIBILITY": "true"}) == "_"
    assert compose("docker compose --compatibility=false up").separator({"COMPOSE_COMPATIBILITY": "1"}) == "-"


def test_the_project_directory_is_found_as_compose_finds_it(tmp_path: Path) -> None:
    def found(line: str, cwd: Path, **environ: str) -> Path:
        return project_directory(compose(line), cwd, environ)

    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert found("docker compose up", below) == below
    (tmp_path / "docker-compose.yml").touch()
    assert found("docker compose up", below) == tmp_path
    assert found("docker compose -f x/y.yaml -f z up", below) == below / "x"
    assert found("docker compose -f - -f x/y.yaml up", below) == below / "x"
    assert found("docker compose -f - up", below) == below
    assert found("docker compose --project-directory sub -f x/y up", below) == below / "sub"
    assert found("docker compose up", below, COMPOSE_FILE="/m/n.yaml:o") == Path("/m")
    (below / ".env").write_text("# words\nexport COMPOSE_FILE='q/r.yaml+s'\nCOMPOSE_PATH_SEPARATOR=+\n")
    assert found("docker compose up", below) == below / "q"
    assert found("docker compose up", below, COMPOSE_FILE="/m/n.yaml", COMPOSE_PATH_SEPARATOR=":") == Path("/m")
    assert found("docker compose --env-file other up", below) == tmp_path
