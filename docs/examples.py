"""Examples of the JSON that commands write, made by the code that writes it."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from typer.testing import CliRunner

from tpd.cli.main import app
from tpd.cli.report import Format, Reporter
from tpd.cli.workloads import _row as workload_row
from tpd.kube.targets import Target, TargetPort
from tpd.run.look import RunView, SeatView
from tpd.run.seat import Attached
from tpd.run.state import AttachmentRecord, RunRecord, SeatRecord
from tpd.run.tell import event_of
from tpd_core.errors import ClusterError
from tpd_core.proto import control_pb2, link_pb2

_TIME = 1735689600.0
_POD = "orders-75d45586fd-6gzrr"


def examples() -> Iterator[tuple[str, str, str]]:
    """Title, explanation and JSON text of each."""
    yield (
        "Output of tpd run, tpd intercept and tpd connect",
        "One object a line, on stderr. What the command behind `--` writes to stderr stands between them; stdout is "
        "all its own. `time` is in Unix seconds. "
        "`environment` lists names; values are never written.",
        "\n".join(_events()),
    )
    yield (
        "Output of tpd status",
        "One object, on stdout. `seats` are the daemons of a run, one for each network namespace.",
        _status(),
    )
    yield "Output of tpd list", "One object, on stdout.", _text({"workloads": [_workload()]})
    yield (
        "Output of tpd version",
        "One object, on stdout. `manager` is left out with `--client`; where it is null, `problem` says why.",
        json.dumps({"client": "0.1.0", "manager": "0.1.0"}),
    )
    yield (
        "Output of tpd config view",
        "One object, on stdout. What cannot be found out is null, and `problems` says why.",
        _config(),
    )


def _events() -> list[str]:
    stream = io.StringIO()
    report = Reporter(Format.JSON, stream=stream)
    report.event("step", name="engaging orders", seconds=0.412)
    report.note("a message worth knowing")
    report.warn("a message about something that is not as it should be")
    report.event("intercepting", **event_of(_attached()))
    report.event("connected", name="default", anchor="tpd-default-anchor")
    report.event("ended", exit_code=0)
    report.error(ClusterError("there is no workload 'order' in namespace 'shop'", hint="Did you mean orders?"))
    return [json.dumps(json.loads(line) | {"time": _TIME}) for line in stream.getvalue().splitlines()]


def _attached() -> Attached:
    port = TargetPort("http", 8080, ("orders:80",))
    target = Target("Deployment", "orders", "shop", "orders", ((port, 8080),))
    record = AttachmentRecord("shop", "orders-ada-laptop-1a2b3c", "uid", str(target), "orders", [(8080, 8080)])
    reply = control_pb2.AttachReply(attachment=_status_of(), environment={"DB_HOST": "", "DB_PASSWORD": ""})
    return Attached(target, record, reply, transport=control_pb2.TRANSPORT_ENDPOINT)


def _status_of() -> control_pb2.AttachmentStatus:
    return control_pb2.AttachmentStatus(
        namespace="shop",
        name="orders-ada-laptop-1a2b3c",
        workload="deployment/orders",
        container="orders",
        engaged=True,
        ports=[link_pb2.Port(name="http", container_port=8080, local_port=8080)],
        pods=[control_pb2.PodStatus(pod=_POD, ip="10.244.0.36", linked=True, engaged=True, connections=3, probes=12)],
        volumes=[control_pb2.VolumeStatus(mount_path="/data", source="orders/data", mounted=True)],
    )


def _status() -> str:
    seat = SeatRecord(
        "ada-laptop-1a2b3c", "ada-laptop-1a2b3c", "tpd-anchor", "tpd-daemon", ["orders"], "ada-laptop-1a2b3c"
    )
    record = RunRecord(
        id="ada-laptop-1a2b3c",
        kind="run",
        pid=4242,
        started=_TIME,
        command=["docker", "compose", "up", "-d"],
        context="dev",
        kubeconfig=None,
        manager_namespace="tpd",
        namespace="shop",
        engine="unix:///var/run/docker.sock",
        mount=True,
        detached=True,
        project="shop",
        volume="shop_tpd-volumes",
        seats=[seat],
    )
    state = control_pb2.State(
        connected=True,
        transport=control_pb2.TRANSPORT_ENDPOINT,
        manager_version="0.1.0",
        attachments=[_status_of()],
    )
    view = RunView(record, kept=True, seats=[SeatView(seat, state)])
    return _text({"runs": [view.as_json()]})


def _workload() -> dict[str, Any]:
    container = {"name": "orders", "ports": [{"name": "http", "containerPort": 8080}]}
    workload = {
        "kind": "Deployment",
        "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }
    attachment = {
        "metadata": {"name": "orders-ada-laptop-1a2b3c", "namespace": "shop"},
        "spec": {
            "workload": {"kind": "Deployment", "name": "orders"},
            "user": "ada",
            "session": "ada-laptop-1a2b3c",
            "ports": [{"containerPort": 8080, "localPort": 8080}],
        },
        "status": {"phase": "Ready"},
    }
    return workload_row(workload, [attachment])


def _config() -> str:
    kubeconfig: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "current-context": "dev"}
    kubeconfig |= {"contexts": [{"name": "dev", "context": {"cluster": "dev", "user": "ada", "namespace": "shop"}}]}
    kubeconfig |= {"clusters": [{"name": "dev", "cluster": {"server": "https://cluster.example:6443"}}]}
    kubeconfig |= {"users": [{"name": "ada", "user": {"token": "none"}}]}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "config"
        path.write_text(json.dumps(kubeconfig), encoding="utf-8")
        environment = {
            "KUBECONFIG": str(path),
            "DOCKER_HOST": "unix:///var/run/docker.sock",
            "XDG_STATE_HOME": "/home/ada/.local/state",
        }
        with mock.patch.dict(os.environ, environment, clear=True):
            shown = CliRunner().invoke(app, ["config", "view", "--format", "json"])
    content = json.loads(shown.stdout)
    return _text(content | {"kubeconfig": "/home/ada/.kube/config"})


def _text(content: Any) -> str:
    return json.dumps(content, indent=1)
