"""Which ranges become local."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpd.daemon.capture import find_overlap, plan_routes
from tpd.daemon.daemon import Settings
from tpd.daemon.identity import Keyring
from tpd.daemon.interfaces import OwnAddress
from tpd_core.errors import ConfigError, UserError

OWN = [OwnAddress("eth0", ipaddress.IPv4Interface("172.20.0.5/16"))]


def test_ranges_that_touch_become_one_and_ipv6_is_left_out() -> None:
    routes = plan_routes(["10.244.0.0/24", "10.244.1.0/24", "fd00::/64", "10.96.0.0/16"], [])
    assert [str(route) for route in routes] == ["10.96.0.0/16", "10.244.0.0/23"]


@given(st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1))
def test_exactly_the_daemons_own_targets_are_left_out(number: int, other: int) -> None:
    network = ipaddress.IPv4Network("10.96.0.0/16")
    hole, probe = network[number], network[other]
    routes = plan_routes([str(network)], [str(hole), "192.0.2.1", "fd00::1"])
    assert any(probe in route for route in routes) is (probe != hole)
    assert sum(route.num_addresses for route in routes) == network.num_addresses - 1


def test_an_overlap_names_both_sides() -> None:
    error = find_overlap(["10.96.0.0/16", "172.16.0.0/12"], OWN)
    assert isinstance(error, ConfigError)
    assert "172.16.0.0/12 overlaps the container network 172.20.0.0/16 (eth0)" in error.message
    assert "subnet" in error.hint
    assert find_overlap(["10.96.0.0/16", "fd00::/64"], OWN) is None


def test_settings_name_the_wrong_value() -> None:
    assert Settings.read({}) == Settings()
    assert Settings.read({"TPD_DNS_ADDRESS": "198.18.0.9", "TPD_VOLUME_ROOT": "/v"}).volume_root == "/v"
    with pytest.raises(ConfigError, match=r"TPD_DNS_ADDRESS='resolver'"):
        Settings.read({"TPD_DNS_ADDRESS": "resolver"})


def test_a_key_is_offered_until_it_is_used() -> None:
    keyring = Keyring()
    assert keyring.offered is keyring.offered
    assert "PRIVATE" not in repr(keyring.offered)
    with pytest.raises(UserError, match="cannot be read"):
        keyring.take(b"nonsense")
