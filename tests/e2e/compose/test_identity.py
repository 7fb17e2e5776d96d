"""What the app and its neighbours see does not change when the app stands in for a workload."""

from __future__ import annotations

from typing import Any

from tests.e2e.compose.fidelity import Project, same
from tests.e2e.support.process import run
from tests.lab.spec import BASE_IMAGE
from tpd.compose.model import Target

FETCH = "exec 3<>/dev/tcp/{}/{} && tail -1 <&3"


def server(*answer: str, port: int = 8080, **extra: Any) -> dict[str, Any]:
    return {
        "image": BASE_IMAGE,
        "command": ["perl", "/server.pl", str(port), *answer],
        "volumes": ["./server.pl:/server.pl:ro"],
        "stop_grace_period": "1s",
        "healthcheck": {"test": f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'", "interval": "1s"},
        **extra,
    }


def rich(name: str) -> dict[str, Any]:
    app = server(
        "app",
        container_name=f"{name}-custom",
        hostname="apphost",
        domainname="example.org",
        extra_hosts=["elsewhere:10.1.2.3"],
        dns_search=["corp.example"],
        dns_opt=["ndots:3"],
        links=["db:database"],
        sysctls={"net.ipv4.ip_unprivileged_port_start": "0", "kernel.msgmax": "65000"},
        environment={"DOLLAR": "a$$b", "FROM_SHELL": None},
        env_file=["app.env"],
        secrets=["token"],
        configs=[{"source": "settings", "target": "/etc/settings"}],
        user="1234",
        read_only=True,
        init=True,
        tmpfs=["/scratch"],
        cap_drop=["ALL"],
        ports=["127.0.0.1:0:8080"],
        expose=["9000"],
        networks={"front": {"aliases": ["shopfront"], "ipv4_address": "10.213.7.77"}, "default": None},
        depends_on={"db": {"condition": "service_healthy"}},
        labels={"mine": "1"},
    )
    return {
        "name": name,
        "services": {
            "app": app,
            "db": server("db", port=5432),
            "web": server(
                "web",
                links=["app:api"],
                networks=["default", "front"],
                depends_on={"app": {"condition": "service_healthy"}},
            ),
            "side": server("side", port=8081, network_mode="service:app"),
        },
        "networks": {"front": {"ipam": {"config": [{"subnet": "10.213.7.0/24"}]}}},
        "secrets": {"token": {"file": "./token"}},
        "configs": {"settings": {"file": "./settings"}},
    }  # fmt: skip


def rich_project(project: Project) -> Project:
    project.write(rich(project.name))
    for name, text in (("token", "s3cret"), ("settings", "a=1"), ("app.env", "FILED='x$y'\n")):
        (project.directory / name).write_text(text)
    project.environ = {"FROM_SHELL": "shell value"}
    return project


def of_the_app(project: Project) -> dict[str, str]:
    scripts = {
        "environment": "env | sort",
        "identity": "id; hostname; hostname -f; cat /proc/sys/kernel/msgmax; grep Cap /proc/self/status",
        "first port": "cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
        "files": "cat /run/secrets/token /etc/settings",
        "resolver": "cat /etc/resolv.conf",
        "hosts": "grep -E 'elsewhere|10.213.*apphost' /etc/hosts | sort",
        "read-only": "touch /x; touch /scratch/x && echo scratch",
        "address": "hostname -I | tr ' ' '\\n' | grep 10.213",
        "neighbours": "for n in db database web; do getent hosts $n >/dev/null && echo $n; done",
        "db": FETCH.format("database", 5432),
        "side": FETCH.format("127.0.0.1", 8081),
    }
    return {what: project.shell("app", script, check=False) for what, script in scripts.items()}


def of_the_others(project: Project) -> list[str]:
    names = ["app", "api", "shopfront", f"{project.name}-custom", "10.213.7.77"]
    answers = [project.shell("web", FETCH.format(name, 8080), check=False) for name in names]
    # Only the port's number is the engine's choice.
    address, _, port = project.compose("port", "app", "8080").stdout.strip().partition(":")
    return [*answers, run(["bash", "-c", FETCH.format(address, port)]).stdout.strip(), address]


def of_the_engine(project: Project) -> dict[str, Any]:
    container = project.inspect("app")
    config, host = container["Config"], container["HostConfig"]
    labels = ("com.docker.compose.project", "com.docker.compose.service", "com.docker.compose.project.working_dir")
    return {
        "name": container["Name"],
        "config": {key: config[key] for key in ("Cmd", "Entrypoint", "Image", "User", "WorkingDir", "Healthcheck")},
        "environment": sorted(config["Env"]),
        "labels": {key: config["Labels"][key] for key in (*labels, "mine")},
        "host": {key: host[key] for key in ("Binds", "CapDrop", "Init", "ReadonlyRootfs", "RestartPolicy", "Tmpfs")},
        "mounts": sorted((mount["Destination"], mount["Source"], mount["RW"]) for mount in container["Mounts"]),
        "others": {name: project.inspect(name)["Config"]["Cmd"] for name in ("db", "web", "side")},
    }


def test_app_neighbours_and_engine_see_what_they_saw(project: Project) -> None:
    def observe(run_as: Project) -> tuple[dict[str, str], list[str], dict[str, Any]]:
        run_as.compose("up", "-d", "--wait")
        return of_the_app(run_as), of_the_others(run_as), of_the_engine(run_as)

    app, others, _ = same(rich_project(project), observe, "app")
    assert "DOLLAR=a$b\nFILED=x$y\nFROM_SHELL=shell value" in app["environment"]
    assert app["identity"].startswith("uid=1234")
    assert app["files"] == "s3creta=1"
    assert app["neighbours"].split() == ["db", "database", "web"]
    assert app["db"] == "db"
    assert app["address"] == "10.213.7.77"
    assert others == ["app"] * 6 + ["127.0.0.1"]


def test_the_workload_adds_environment_and_the_file_wins(project: Project) -> None:
    rich_project(project)
    odd = "p$w $$ ${X} \t\x7f\x85\u2028\ufeff é😀 \\n \"'# {{.}}"
    target = Target("app", {"DOLLAR": "theirs", "ODD": odd, "LINES": "a\n\nb\n", "FILED": "theirs"})
    intercepted = project.with_intercept("app", app=target)
    intercepted.compose("up", "-d")
    seen = project.inspect("app")["Config"]["Env"]
    assert {"DOLLAR=a$b", f"ODD={odd}", "LINES=a\n\nb\n", "FILED=x$y"} <= set(seen)


def test_two_services_stand_in_at_once(project: Project) -> None:
    project.write(
        {
            "name": project.name,
            "services": {
                "one": server("one"),
                "two": server("two", links=["one:first"]),
                "web": server("web", depends_on=["one", "two"]),
            },
        }
    )

    def observe(run_as: Project) -> list[str]:
        run_as.compose("up", "-d", "--wait")
        asked = [("web", "one"), ("web", "two"), ("two", "first"), ("one", "two"), ("one", "127.0.0.1")]
        return [run_as.shell(asker, FETCH.format(name, 8080)) for asker, name in asked]

    assert same(project, observe, "one", "deployment/two") == ["one", "two", "one", "two", "one"]
    assert {"tpd-anchor-one", "tpd-anchor-two", "tpd-daemon-one", "tpd-daemon-two"} <= project.ids().keys()


def test_a_service_left_to_the_cluster_does_not_start(project: Project) -> None:
    project.write(
        {
            "name": project.name,
            "services": {"app": server("app", depends_on=["db"]), "db": server("db"), "web": server("web")},
        }
    )
    project.remote = ("db",)
    intercepted = project.with_intercept("app")
    intercepted.compose("up", "-d")
    assert project.ids().keys() == {"app", "web", "tpd-anchor", "tpd-daemon"}
