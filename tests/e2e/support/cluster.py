"""The lab's cluster as the tests use it: kubectl, a namespace per test, the test workload, requests from inside."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from tests.e2e.support.process import Followed, run, until

ECHO = Path(__file__).with_name("echo.py")
STEADY = Path(__file__).with_name("steady.py")
IMAGE = "tpd-shop-app:1"

ASK = """
import json, sys, urllib.error, urllib.request
method, url, body = sys.argv[1:]
request = urllib.request.Request(url, method=method, data=body.encode() or None)
try:
    print(urllib.request.urlopen(request, timeout=15).read().decode())
except urllib.error.HTTPError as answer:
    print(answer.read().decode())
"""


@dataclass(frozen=True)
class Cluster:
    """The cluster that a kubeconfig reaches."""

    kubectl_path: str
    kubeconfig: str

    def argv(self, *args: str) -> list[str]:
        return [self.kubectl_path, "--kubeconfig", self.kubeconfig, *args]

    def kubectl(self, *args: str, input: str | None = None, check: bool = True, timeout: float = 120) -> str:
        return run(self.argv(*args), input=input, check=check, timeout=timeout).stdout

    def get(self, *args: str) -> Any:
        return json.loads(self.kubectl("get", *args, "-o", "json"))

    def apply(self, *documents: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(documents))


@dataclass(frozen=True)
class Namespace:
    """One test's own namespace, with a caller pod."""

    cluster: Cluster
    name: str

    def kubectl(self, *args: str, input: str | None = None, check: bool = True, timeout: float = 120) -> str:
        return self.cluster.kubectl("-n", self.name, *args, input=input, check=check, timeout=timeout)

    def get(self, *args: str) -> Any:
        return self.cluster.get("-n", self.name, *args)

    def deploy(
        self,
        name: str,
        *,
        replicas: int = 1,
        ports: dict[str, int] | None = None,
        volume: bool = False,
        extra_env: dict[str, str] | None = None,
    ) -> None:
        """Run the test workload with environment and volumes of every kind, and wait until it is ready."""
        ports = ports or {"http": 8080}
        self.cluster.apply(*workload(self.name, name, replicas, ports, volume, extra_env or {}))
        self.kubectl("rollout", "status", f"deployment/{name}", "--timeout=120s", timeout=150)
        self.await_origin(name, "cluster")  # kube-proxy may be behind

    def start_caller(self) -> None:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "caller", "namespace": self.name},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [
                    {
                        "name": "caller",
                        "image": IMAGE,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["sleep", "infinity"],
                    }
                ],
            },
        }
        self.cluster.apply(pod)
        self.kubectl("wait", "pod/caller", "--for=condition=Ready", "--timeout=60s", timeout=90)

    def ask(self, url: str, *, method: str = "GET", body: str = "") -> Any:
        """The JSON answer to a request that the caller pod makes."""
        out = self.kubectl("exec", "caller", "--", "python3", "-c", ASK, method, url, body)
        return json.loads(out)

    def try_origin(self, service: str) -> str:
        """Who answers at a service, or an empty string where nobody does."""
        out = self.kubectl("exec", "caller", "--", "python3", "-c", ASK, "GET", f"http://{service}/", "", check=False)
        return str(json.loads(out)["origin"]) if out else ""

    def look(self, service: str, what: str, argument: str) -> Any:
        """An answer of the test workload's behind `service`, see echo.py."""
        return self.ask(f"http://{service}/{what}?{quote(argument, safe='')}")

    def origin(self, service: str) -> str:
        """Who answers at a service: what the ORIGIN of that container says."""
        return str(self.ask(f"http://{service}/")["origin"])

    def await_origin(self, service: str, origin: str, timeout: float = 30) -> None:
        until(
            lambda: self.try_origin(service),
            lambda got: got == origin,
            timeout=timeout,
            what=f"{service} answered by {origin}",
        )

    def address(self, pod: str) -> str:
        return str(self.get("pod", pod)["status"]["podIP"])

    def pods(self, app: str) -> list[dict[str, Any]]:
        return list(self.get("pods", "-l", f"app={app}")["items"])

    def restarts(self) -> int:
        """Restarts of every container in the namespace, since ever."""
        items = self.get("pods")["items"]
        return sum(status["restartCount"] for pod in items for status in pod["status"].get("containerStatuses", []))

    def steady(self, url: str, rate: float = 50) -> Steady:
        return Steady(self, url, rate)


class Steady:
    """A steady stream of requests from the caller pod; `result` after it ended."""

    def __init__(self, namespace: Namespace, url: str, rate: float) -> None:
        script = STEADY.read_text()
        self._process = Followed(
            namespace.cluster.argv(
                "-n", namespace.name, "exec", "-i", "caller", "--", "python3", "-c", script, url, str(rate)
            ),
            stdin=subprocess.PIPE,
        )
        self._process.expect("^started$", 30)

    def end(self) -> dict[str, Any]:
        """Stop asking; who answered, and every failure."""
        assert self._process.process.stdin is not None
        self._process.process.stdin.close()
        found = self._process.expect(r"^\{.*\}$", 30)
        self._process.wait(30)
        return dict(json.loads(found.group(0)))

    def __enter__(self) -> Steady:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.__exit__()


def workload(
    namespace: str, name: str, replicas: int, ports: dict[str, int], volume: bool, extra_env: dict[str, str]
) -> list[dict[str, Any]]:
    """Manifests of the test workload: ConfigMaps, a Secret, a PVC when asked for, Deployment and Service."""
    meta = {"namespace": namespace, "labels": {"app": name}}
    main_port = next(iter(ports.values()))
    env: list[dict[str, Any]] = [
        {"name": "ORIGIN", "value": "cluster"},
        {"name": "PORT", "value": str(main_port)},
        {"name": "GREETING", "value": "hello $$HOME and 'quotes'"},
        {"name": "FROM_SECRET", "valueFrom": {"secretKeyRef": {"name": f"{name}-secret", "key": "password"}}},
        {"name": "POD_ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        *({"name": key, "value": value} for key, value in extra_env.items()),
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "script", "mountPath": "/srv/echo"},
        {"name": "config", "mountPath": "/etc/app"},
        {"name": "config", "mountPath": "/etc/app.conf", "subPath": "app.conf"},
        {"name": "secret", "mountPath": "/etc/secret", "readOnly": True},
    ]
    volumes: list[dict[str, Any]] = [
        {"name": "script", "configMap": {"name": f"{name}-script"}},
        {"name": "config", "configMap": {"name": f"{name}-config"}},
        {"name": "secret", "secret": {"secretName": f"{name}-secret"}},
    ]
    documents: list[dict[str, Any]] = []
    if volume:
        documents.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": f"{name}-data", **meta},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}},
            }
        )
        mounts.append({"name": "data", "mountPath": "/data"})
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": f"{name}-data"}})
    probe = {
        "httpGet": {"port": main_port, "path": "/healthz"},
        "periodSeconds": 1,
        "timeoutSeconds": 5,
        "failureThreshold": 3,
    }
    container = {
        "name": "app",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "/srv/echo/echo.py"],
        "env": env,
        "envFrom": [{"configMapRef": {"name": f"{name}-environment"}}],
        "ports": [{"name": key, "containerPort": value} for key, value in ports.items()],
        "readinessProbe": probe,
        "livenessProbe": probe,
        "volumeMounts": mounts,
    }
    pod = {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 2}
    documents += [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{name}-script", **meta},
            "data": {"echo.py": ECHO.read_text()},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{name}-config", **meta},
            "data": {"app.conf": "colour=blue\n", "other.conf": "x\n"},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{name}-environment", **meta},
            "data": {"FROM_MAP": "mapped"},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"{name}-secret", **meta},
            "stringData": {"password": "s3cret$and`more`"},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, **meta},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, **meta},
            "spec": {
                "selector": {"app": name},
                "ports": [
                    {"name": key, "port": 80 if value == main_port else value, "targetPort": key}
                    for key, value in ports.items()
                ],
            },
        },
    ]
    return documents
