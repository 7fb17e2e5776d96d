"""Rules, settings, and what is read from /proc."""

from __future__ import annotations

import pytest

from tpd_cluster.agent.existing import established
from tpd_cluster.agent.redirect import gateways
from tpd_cluster.agent.rules import change_ports, table_body
from tpd_cluster.agent.settings import Settings, User
from tpd_core.errors import ConfigError

ENVIRONMENT = {
    "TPD_POD_NAME": "orders-0",
    "TPD_POD_UID": "uid",
    "TPD_POD_NAMESPACE": "shop",
    "TPD_CONTAINER": "tpd-agent-1",
    "TPD_ENROLL": "10.96.0.7:8443,[fd00::1]:8443",
    "TPD_TICKET": "secret-ticket",
    "TPD_CA": "pem",
}


def test_the_table() -> None:
    body = table_body(15001, None, {"10.0.0.1"}, {5432, 50051})
    assert body.splitlines()[3:] == [
        'iifname "lo" accept',
        "ip saddr { 10.0.0.1 } ip ttl 64 tcp dport { 5432, 50051 } accept",
        "meta nfproto ipv4 tcp dport @ports tproxy ip to 127.0.0.1:15001 accept",
        "}",
    ]
    assert "ip ttl" not in table_body(1, 2, {"10.0.0.1"}, set())
    assert "tproxy ip6 to [::1]:2" in table_body(1, 2, set(), set())
    assert change_ports(add={81, 80}, remove={9}) == (
        "add element inet tpd_agent ports { 80, 81 }\ndelete element inet tpd_agent ports { 9 }"
    )


def test_established_connections_from_elsewhere() -> None:
    lines = [
        "  sl  local_address rem_address   st tx_queue rx_queue",
        "   0: 00000000:1F90 00000000:0000 0A 0 0",
        "   1: 0201630A:1F90 0101630A:D431 01 0 0",
        "   2: 0201630A:1F90 0101630A:D432 06 0 0",
        "   3: 0201630A:1F90 0201630A:D433 01 0 0",
        "   4: 0100007F:1F90 0200007F:D434 01 0 0",
        "   5: 0000000000000000FFFF00000201630A:0050 0000000000000000FFFF00000101630A:D435 01 0 0",
        "   6: 0000000000000000FFFF00000100007F:0050 0000000000000000FFFF00000200007F:D435 01 0 0",
        "   7: 00000000000000000000000001000000:0050 00000000000000000000000001000000:D436 01 0 0",
    ]
    assert list(established(lines)) == [8080, 80]


def test_gateways() -> None:
    text = "Iface\tDestination\tGateway\nlo\t00000000\t00000000\neth0\t00000000\t0100F40A\t0003\n"
    assert gateways(text) == {"10.244.0.1"}


def test_settings() -> None:
    settings = Settings.from_environment(
        ENVIRONMENT | {"TPD_CONTAINERS": '[{"name": "app", "uid": 1000, "gid": null}]', "TPD_NODE_IP": "10.0.0.9"}
    )
    assert settings.enroll == (("10.96.0.7", 8443), ("fd00::1", 8443))
    assert settings.users == {"app": User(1000, None)}
    assert (settings.idle_timeout, settings.node_ip, settings.probes) == (3600.0, "10.0.0.9", ())
    assert "secret-ticket" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TPD_POD_UID", ""),
        ("TPD_ENROLL", "manager:8443"),
        ("TPD_ENROLL", "10.0.0.1"),
        ("TPD_IDLE_TIMEOUT", "soon"),
        ("TPD_IDLE_TIMEOUT", "0"),
        ("TPD_IDLE_TIMEOUT", "nan"),
        ("TPD_NODE_IP", "node"),
        ("TPD_CONTAINERS", "[1]"),
        ("TPD_PROBES", "[1]"),
    ],
)
def test_wrong_settings_are_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Settings.from_environment(ENVIRONMENT | {name: value})
