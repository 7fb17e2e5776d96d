"""How a container reaches the API server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tpd.kube.config import Login
from tpd.run.reach import find_reach
from tpd_core.proto import control_pb2


def login(server: str, **settings: Any) -> Login:
    values: dict[str, Any] = {
        "context": "lab",
        "namespace": "default",
        "ssl": None,
        "ca": b"PEM",
        "tls_server_name": None,
        "proxy": None,
        "verify": True,
    }
    return Login(server, **{**values, **settings}, _loader=None, _settings=SimpleNamespace(api_key={}))


NODE = {
    "Ports": [{"IP": "127.0.0.1", "PublicPort": 36443, "PrivatePort": 6443, "Type": "tcp"}],
    "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.9"}, "kind": {"IPAddress": "172.18.0.2"}}},
}


def test_a_container_s_address_is_reached_over_its_network() -> None:
    reach = find_reach(login("https://172.18.0.2:6443"), [NODE])
    assert (reach.url, reach.network, reach.tls_server_name) == ("https://172.18.0.2:6443", "kind", "")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_published_loopback_port_is_reached_where_it_leads(host: str) -> None:
    reach = find_reach(login(f"https://{host}:36443/path"), [NODE])
    assert (reach.url, reach.network) == ("https://172.18.0.2:6443/path", "kind")
    assert reach.tls_server_name == host


def test_a_loopback_server_of_nobody_is_left_to_the_laptop() -> None:
    reach = find_reach(login("https://127.0.0.1:9999"), [NODE])
    assert reach.url == ""
    assert reach.transports(()) == [control_pb2.TRANSPORT_ENDPOINT, control_pb2.TRANSPORT_RELAY]


def test_any_other_server_is_reached_directly() -> None:
    for server in ("https://203.0.113.7:6443", "https://api.example.com"):
        reach = find_reach(login(server), [NODE])
        assert (reach.url, reach.network) == (server, None)
        assert reach.transports(()) == []


def test_a_proxy_is_the_laptop_s_own() -> None:
    assert find_reach(login("https://api.example.com", proxy="http://proxy:3128"), []).url == ""


def test_a_server_without_any_check_is_left_to_the_laptop() -> None:
    assert find_reach(login("https://api.example.com", verify=False, ca=b""), []).url == ""


def test_the_user_s_choice_of_transports_stands() -> None:
    wanted = (control_pb2.TRANSPORT_RELAY,)
    assert find_reach(login("https://api.example.com"), []).transports(wanted) == list(wanted)
