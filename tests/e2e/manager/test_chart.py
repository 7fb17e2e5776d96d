"""What the chart makes of its values, by the real helm."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.spec import REPOSITORY, Layout
from tpd_cluster.manager.settings import Settings

CHART = REPOSITORY / "cluster" / "chart"
KUBERNETES = "1.35.0"


def helm(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    program = str(Layout.default().helm)
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=check, timeout=60)


def render(tmp_path: Path, **values: Any) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Objects by kind, namespace and name."""
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(values))
    out = helm("template", "tpd", str(CHART), "-n", "tpd", "--kube-version", KUBERNETES, "-f", str(file)).stdout
    objects = [item for item in yaml.safe_load_all(out) if item]
    found = {(item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]): item for item in objects}
    assert len(found) == len(objects)
    return found


def test_lint_is_clean() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", "--kube-version", KUBERNETES, str(CHART)).stdout


def test_no_right_is_a_wildcard(tmp_path: Path) -> None:
    for item in render(tmp_path).values():
        for rule in item.get("rules", ()):
            for field in ("apiGroups", "resources", "verbs"):
                assert not any("*" in word for word in rule[field]), item["metadata"]["name"]


def test_the_injector_is_bound_where_the_values_say(tmp_path: Path) -> None:
    everywhere = render(tmp_path)
    assert ("ClusterRoleBinding", "", "tpd-injector") in everywhere
    bound = render(tmp_path, agent={"namespaces": ["a", "b"]})
    assert ("ClusterRoleBinding", "", "tpd-injector") not in bound
    assert {name[1] for name in bound if name[0] == "RoleBinding" and name[2] == "tpd-injector"} == {"a", "b"}
    assert environment(bound)["TPD_AGENT_NAMESPACES"] == "a,b"


def test_images_have_registry_tag_digest_and_secrets(tmp_path: Path) -> None:
    digest = "sha256:" + "0" * 64
    made = render(
        tmp_path,
        registry="registry.example.com/tools/",
        manager={"image": {"digest": digest, "pullPolicy": "Always", "pullSecrets": ["mirror"]}},
        agent={"image": {"tag": "9", "repository": "other-agent"}},
    )
    spec = made["StatefulSet", "tpd", "tpd-manager"]["spec"]["template"]["spec"]
    assert spec["containers"][0]["image"] == f"registry.example.com/tools/tpd-manager@{digest}"
    assert spec["containers"][0]["imagePullPolicy"] == "Always"
    assert spec["imagePullSecrets"] == [{"name": "mirror"}]
    assert environment(made)["TPD_AGENT_IMAGE"] == "registry.example.com/tools/other-agent:9"


def environment(made: dict[tuple[str, str, str], dict[str, Any]]) -> dict[str, str]:
    spec = made["StatefulSet", "tpd", "tpd-manager"]["spec"]["template"]["spec"]
    return {entry["name"]: entry["value"] for entry in spec["containers"][0]["env"] if "value" in entry}


def test_the_link_account_reaches_every_replica_and_nothing_else(tmp_path: Path) -> None:
    (rule,) = render(tmp_path, manager={"replicas": 3})["Role", "tpd", "tpd-link"]["rules"]
    assert rule == {
        "apiGroups": [""],
        "resources": ["pods/portforward"],
        "resourceNames": ["tpd-manager-0", "tpd-manager-1", "tpd-manager-2"],
        "verbs": ["get", "create"],
    }


def test_clients_are_bound_when_named(tmp_path: Path) -> None:
    assert ("ClusterRoleBinding", "", "tpd-client") not in render(tmp_path)
    subject = {"kind": "Group", "name": "developers", "apiGroup": "rbac.authorization.k8s.io"}
    made = render(tmp_path, client={"subjects": [subject]})
    assert made["ClusterRoleBinding", "", "tpd-client"]["subjects"] == [subject]
    assert made["RoleBinding", "tpd", "tpd-client"]["subjects"] == [subject]


def test_the_endpoint_is_a_service_of_its_own(tmp_path: Path) -> None:
    assert ("Service", "tpd", "tpd-endpoint") not in render(tmp_path)
    node_port = render(tmp_path, endpoint={"type": "NodePort", "nodePort": 30443})
    assert node_port["Service", "tpd", "tpd-endpoint"]["spec"]["ports"][0]["nodePort"] == 30443
    balancer = render(tmp_path, endpoint={"type": "LoadBalancer", "port": 443, "host": "tpd.example.com"})
    assert balancer["Service", "tpd", "tpd-endpoint"]["spec"]["ports"][0]["port"] == 443
    assert environment(balancer)["TPD_ENDPOINT_HOST"] == "tpd.example.com"


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("endpoint.type=Ingress", "endpoint"),
        ("registry=no-slash", "registry"),
        ("agent.image.digest=latest", "digest"),
        ("manager.replicas=0", "replicas"),
        ("managr.replicas=2", "managr"),
    ],
)
def test_wrong_values_are_named(value: str, word: str) -> None:
    done = helm("template", "tpd", str(CHART), "--kube-version", KUBERNETES, "--set", value, check=False)
    assert done.returncode != 0
    assert word in done.stderr


def test_every_setting_of_the_chart_is_one_of_the_managers(tmp_path: Path) -> None:
    told = environment(render(tmp_path)) | {"TPD_NAMESPACE": "n", "TPD_POD": "p", "TPD_POD_IP": "1"}
    known = {f"TPD_{name.upper()}" for name in Settings.__dataclass_fields__}
    assert told.keys() <= known
    Settings.load(told)
