"""What the manager finds out about the cluster, where it dials, and what the chart tells it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpd_cluster.manager import clusterinfo, dial
from tpd_cluster.manager.settings import Settings
from tpd_core.errors import ConfigError

RESOLV = """\
search tpd.svc.example.internal svc.example.internal example.internal lan
nameserver 10.96.0.10
options ndots:5
"""


def node(name: str, cidr: str, *, ready: str = "True", external: str = "") -> dict[str, Any]:
    addresses = [{"type": "InternalIP", "address": f"10.0.0.{name}"}]
    if external:
        addresses.append({"type": "ExternalIP", "address": external})
    return {
        "spec": {"podCIDRs": [cidr]},
        "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": ready}]},
    }


def test_domain_and_resolver() -> None:
    assert clusterinfo.read_resolv_conf(RESOLV, "tpd") == ("example.internal", "10.96.0.10")
    assert clusterinfo.read_resolv_conf("", "tpd") == ("cluster.local", "")


def test_pod_ranges_are_put_together() -> None:
    nodes = [node("1", "10.244.0.0/24"), node("2", "10.244.1.0/24"), node("3", "fd00::/64"), {"spec": {}}]
    assert clusterinfo.pod_cidrs(nodes) == ["10.244.0.0/23", "fd00::/64"]


def test_node_ports_are_reached_at_ready_nodes() -> None:
    service = {"spec": {"ports": [{"port": 8443, "nodePort": 31234}]}}
    nodes = [node("1", "10.244.0.0/24", ready="False"), node("2", "10.244.1.0/24"), node("3", "", external="192.0.2.3")]
    found = clusterinfo.endpoints("NodePort", "", service, nodes)
    assert [(endpoint.host, endpoint.port) for endpoint in found] == [("10.0.0.2", 31234), ("192.0.2.3", 31234)]
    (fixed,) = clusterinfo.endpoints("NodePort", "tpd.example.com", service, nodes)
    assert (fixed.host, fixed.port) == ("tpd.example.com", 31234)


def test_load_balancers_have_a_status() -> None:
    service: dict[str, Any] = {"spec": {"ports": [{"port": 443, "nodePort": 31234}]}}
    assert clusterinfo.endpoints("LoadBalancer", "", service, []) == []
    service["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.example.com"}]}}
    found = clusterinfo.endpoints("LoadBalancer", "", service, [])
    assert [(endpoint.host, endpoint.port) for endpoint in found] == [("192.0.2.1", 443), ("lb.example.com", 443)]


def test_the_service_range_in_a_refusal() -> None:
    words = (
        'Service "x" is invalid: spec.clusterIPs: Invalid value: ["192.0.2.1"]: failed to allocate IP 192.0.2.1: '
        "the provided IP (192.0.2.1) is not in the valid range. The range of valid IPs is 10.96.0.0/12"
    )
    assert clusterinfo.cidrs_in(words) == ["10.96.0.0/12"]


@given(st.text())
def test_any_words_are_read(words: str) -> None:
    clusterinfo.cidrs_in(words)


@pytest.mark.parametrize(
    ("host", "port", "allowed"),
    [
        ("10.96.0.1", 443, True),
        ("fd00::1", 443, True),
        ("192.0.2.1", 443, True),
        ("127.0.0.1", 8080, False),
        ("::1", 8080, False),
        ("::ffff:127.0.0.1", 8080, False),
        ("169.254.169.254", 80, False),
        ("169.254.20.10", 53, True),
        ("0.0.0.0", 80, False),
        ("224.0.0.1", 80, False),
        ("localhost", 80, False),
        ("10.96.0.1", 0, False),
        ("10.96.0.1", 65536, False),
    ],
)
def test_where_the_manager_dials(host: str, port: int, allowed: bool) -> None:
    assert (dial.refusal(host, port, resolver="169.254.20.10") is None) is allowed


NEEDED = {
    "TPD_NAMESPACE": "tpd",
    "TPD_POD": "tpd-manager-0",
    "TPD_POD_IP": "10.244.0.3",
    "TPD_AGENT_IMAGE": "tpd-agent:1",
}


def test_settings_have_defaults_and_types() -> None:
    settings = Settings.load(NEEDED)
    assert (settings.replicas, settings.require_exec, settings.agent_namespaces) == (2, True, ())
    told = Settings.load(
        {
            **NEEDED,
            "TPD_REPLICAS": "3",
            "TPD_REQUIRE_EXEC": "false",
            "TPD_AGENT_NAMESPACES": "a, b,",
            "TPD_POD_CIDRS": "",
        }
    )
    assert told.pods == ["tpd-manager-0", "tpd-manager-1", "tpd-manager-2"]
    assert (told.require_exec, told.agent_namespaces, told.pod_cidrs) == (False, ("a", "b"), ())


@pytest.mark.parametrize(
    ("name", "value"), [("TPD_REPLICAS", "two"), ("TPD_REQUIRE_EXEC", "yes"), ("TPD_SESSION_GRACE", "-1")]
)
def test_wrong_settings_are_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Settings.load({**NEEDED, name: value})


def test_missing_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="TPD_NAMESPACE"):
        Settings.load({})
