"""Compose's commands do what they did, with exit codes and output, while a service stands in for a workload."""

from __future__ import annotations

import os
import pty
import re
from subprocess import Popen
from typing import Any

import pytest

from tests.e2e.compose.fidelity import Project, same
from tests.e2e.compose.test_identity import FETCH, server
from tests.e2e.support.process import run, until
from tests.lab.spec import BASE_IMAGE

ENDS = {"image": BASE_IMAGE, "command": ["bash", "-c", "echo done; exit 4"]}


def shop(project: Project, **extra: Any) -> Project:
    services = {"app": server("app", ports=["127.0.0.1:0:8080"]), "web": server("web", depends_on=["app"])}
    project.write({"name": project.name, "services": {**services, **extra}})
    return project


def attached(output: str) -> list[str]:
    """What an attached `up` prints of the services: without compose's cursor codes and its progress lines."""
    lines = (re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip() for line in output.splitlines())
    return sorted(line for line in lines if line and not re.match(r"(Container|Network|Volume) ", line))


def test_the_exit_code_is_the_named_services(project: Project) -> None:
    shop(project, ends={**ENDS, "depends_on": {"app": {"condition": "service_healthy"}}})

    def observe(run_as: Project) -> tuple[int, list[str]]:
        done = run_as.compose("up", "--exit-code-from", "ends", check=False)
        return done.returncode, attached(done.stdout)

    code, lines = same(project, observe, "app")
    assert code == 4
    assert "ends-1  | done" in lines
    assert not [line for line in lines if "tpd-" in line]


def test_a_container_that_ends_ends_the_run(project: Project) -> None:
    shop(project, ends={**ENDS, "depends_on": {"app": {"condition": "service_healthy"}}})

    def observe(run_as: Project) -> tuple[int, bool]:
        done = run_as.compose("up", "--abort-on-container-exit", check=False)
        return done.returncode, "Aborting on container exit" in done.stdout + done.stderr

    assert same(project, observe, "app")[1]
    # Anchor and daemon are nobody's to stop but tpd's.
    assert project.ids().keys() == {"tpd-anchor", "tpd-daemon"}


@pytest.mark.parametrize(("healthy", "code"), [(True, 0), (False, 1)])
def test_wait(project: Project, healthy: bool, code: int) -> None:
    check = {"test": "exit 0" if healthy else "exit 1", "interval": "1s", "retries": 1}
    shop(project)
    project.write({"name": project.name, "services": {"app": server("app", healthcheck=check)}})

    def observe(run_as: Project) -> int:
        return run_as.compose("up", "-d", "--wait", check=False).returncode

    assert same(project, observe, "app") == code


def test_up_again_recreates_nothing_and_force_recreates_only_the_users(project: Project) -> None:
    intercepted = shop(project).with_intercept("app")
    intercepted.compose("up", "-d")
    first = project.ids()
    assert first.keys() == {"app", "web", "tpd-anchor", "tpd-daemon"}
    intercepted.compose("up", "-d")
    assert project.ids() == first
    intercepted.compose("up", "-d", "--force-recreate")
    second = project.ids()
    assert {name for name in first if first[name] == second[name]} == {"tpd-anchor", "tpd-daemon"}
    started = {name: project.inspect(name)["State"]["StartedAt"] for name in second}
    intercepted.compose("restart")
    assert project.ids() == second
    again = {name: project.inspect(name)["State"]["StartedAt"] for name in second}
    assert {name for name in second if started[name] == again[name]} == {"tpd-anchor", "tpd-daemon"}
    assert project.shell("web", FETCH.format("app", 8080)) == "app"


def test_a_project_that_runs_without_tpd_is_taken_over(project: Project) -> None:
    shop(project)
    document = {"app": server("app", ports=["127.0.0.1:0:8080"])}
    document["app"]["volumes"].append("/anonymous")
    project.write({"name": project.name, "services": document, "networks": {"default": {}}})
    project.compose("up", "-d", "--wait")
    port = project.compose("port", "app", "8080").stdout.strip().rpartition(":")[2]
    project.shell("app", "echo kept > /anonymous/file")
    # The very port that the running app holds.
    document["app"]["ports"] = [f"127.0.0.1:{port}:8080"]
    project.write({"name": project.name, "services": document})
    intercepted = project.with_intercept("app")
    intercepted.compose("up", "-d", "--wait")
    assert run(["bash", "-c", FETCH.format("127.0.0.1", port)]).stdout == "app\n"
    assert project.shell("app", "cat /anonymous/file") == "kept"
    assert project.in_anchor("app")


def test_run_exec_logs_ps_and_down(project: Project) -> None:
    shop(project)

    def observe(run_as: Project) -> dict[str, Any]:
        run_as.compose("up", "-d", "--wait")
        ours = re.compile("tpd-(anchor|daemon|gate)")
        script = "echo out; echo err >&2; getent hosts web >/dev/null && echo web; exit 7"
        once = run_as.compose("run", "--rm", "-T", "-e", "X=1", "app", "bash", "-c", script, check=False)
        executed = run_as.compose("exec", "-T", "app", "bash", "-c", "echo $0; exit 5", check=False)
        listed = run_as.compose("ps", "--all", "--format", "{{.Service}} {{.Name}} {{.State}}").stdout.splitlines()
        seen = {
            "run": (once.returncode, once.stdout),
            "exec": (executed.returncode, executed.stdout),
            "logs": sorted(run_as.compose("logs", "--no-color", "app", "web").stdout.splitlines()),
            "ps": sorted(line for line in listed if not ours.search(line)),
            "services": {"app", "web"} <= set(run_as.compose("config", "--services").stdout.split()),
            "left by run": run(["docker", "ps", "-aq", "-f", f"name={run_as.name}-app-run"]).stdout,
        }
        run_as.compose("down")
        filters = ["-q", "-f", f"label=com.docker.compose.project={run_as.name}"]
        seen["left"] = [run(["docker", what, "ls", *filters]).stdout for what in ("container", "network", "volume")]
        return seen

    seen = same(project, observe, "app")
    assert seen["run"] == (7, "out\nweb\n")
    assert seen["exec"] == (5, "bash\n")
    assert seen["ps"] == [f"{name} {project.name}-{name}-1 running" for name in ("app", "web")]
    assert seen["left"] == ["", "", ""]


def test_profiles_extends_several_files_and_relative_paths(project: Project) -> None:
    base = {"services": {"base": {**server("base"), "environment": {"FROM": "base"}}}}
    project.write(base, "common/base.json")
    (project.directory / "common" / "server.pl").write_text((project.directory / "server.pl").read_text())
    (project.directory / "data").mkdir()
    (project.directory / "data" / "file").write_text("relative")
    app = {"extends": {"file": "common/base.json", "service": "base"}, "volumes": ["./data:/data"], "profiles": ["dev"]}
    project.write({"name": project.name, "services": {"app": app, "web": server("web")}}, "a.json")
    project.write({"services": {"app": {"environment": {"SECOND": "${VALUE:-none}"}}}}, "b.json")
    (project.directory / ".env").write_text("VALUE=from .env\nCOMPOSE_PROFILES=dev\n")

    def observe(run_as: Project) -> dict[str, str]:
        files = [] if "COMPOSE_FILE" in run_as.environ else ["-f", "a.json", "-f", "b.json"]
        run_as.compose(*files, "up", "-d", "--wait")
        return {
            "environment": run_as.shell("app", "echo $FROM $SECOND"),
            "file": run_as.shell("app", "cat /data/file"),
            "answer": run_as.shell("web", FETCH.format("app", 8080)),
            "directory": run_as.inspect("app")["Config"]["Labels"]["com.docker.compose.project.working_dir"],
        }

    seen = same(project, observe, "app")
    assert seen["environment"] == "base from .env"
    assert seen["file"] == "relative"
    project.environ = {"COMPOSE_FILE": "a.json:b.json"}
    assert same(project, observe, "app") == seen


def test_watch_syncs_and_rebuilds(project: Project) -> None:
    shop(project)
    source = project.directory / "src"
    source.mkdir()
    (source / "page").write_text("one")
    (source / "needs").write_text("one")
    (source / "Dockerfile").write_text(f"FROM {BASE_IMAGE}\nCOPY page needs /\n")
    app = server("app", build={"context": "./src"}, image=f"{project.name}:1", develop={"watch": [
        {"action": "sync", "path": "./src/page", "target": "/page"},
        {"action": "rebuild", "path": "./src/needs"},
    ]})  # fmt: skip
    project.write({"name": project.name, "services": {"app": app, "web": server("web")}})
    intercepted = project.with_intercept("app")
    try:
        intercepted.compose("up", "-d", "--build", "--wait")
        before = project.ids()
        with intercepted.follow("watch", "--no-up") as watch:
            watch.expect("[Ww]atch")
            (source / "page").write_text("two")
            until(lambda: project.shell("app", "cat /page", check=False), lambda text: text == "two", what="sync")
            assert project.ids() == before
            (source / "needs").write_text("two")
            # A rebuild ends the old container before the new one is there.
            until(lambda: project.shell("app", "cat /needs", check=False) if project.container("app") else "",
                  lambda text: text == "two", what="rebuild")  # fmt: skip
        after = project.ids()
        assert {name for name in before if after.get(name) != before[name]} == {"app"}
        assert project.shell("web", FETCH.format("app", 8080)) == "app"
    finally:
        project.remove()
        run(["docker", "rmi", f"{project.name}:1"], check=False)


def test_ctrl_c_stops_the_users_services_only(project: Project) -> None:
    intercepted = shop(project).with_intercept("app")
    argv = intercepted.child("up")
    terminal, side = pty.openpty()
    with Popen(argv, stdin=side, stdout=side, stderr=side, cwd=project.directory, process_group=0) as child:
        os.close(side)
        until(lambda: project.ids().keys(), lambda names: {"app", "web"} <= names, what="app and web run")
        os.killpg(child.pid, 2)
        seen = b""
        while chunk := _read(terminal):
            seen += chunk
    os.close(terminal)
    assert b"Gracefully stopping" in seen
    assert b"tpd-" not in seen.partition(b"Gracefully stopping")[2]
    assert project.ids().keys() == {"tpd-anchor", "tpd-daemon"}


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side is closed
        return b""
