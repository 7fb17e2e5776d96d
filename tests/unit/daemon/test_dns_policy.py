"""Whom to ask for which name."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpd.daemon.dns.policy import NameConfig, Plan, plan

CONFIG = NameConfig(
    namespace="shop",
    domain="cluster.local",
    ranges=(ipaddress.IPv4Network("10.96.0.0/16"), ipaddress.IPv4Network("10.244.0.0/16")),
    local_names=frozenset({"db", "cache.internal"}),
    remote_names=frozenset({"payments", "legacy.example.com"}),
)
LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=6).map(".".join)


@pytest.mark.parametrize(
    ("name", "candidates", "world", "certain"),
    [
        ("orders", ("orders.shop.svc.cluster.local",), True, True),
        ("Orders.", ("orders.shop.svc.cluster.local",), True, True),
        ("orders.other", ("orders.other.svc.cluster.local", "orders.other.shop.svc.cluster.local"), True, False),
        ("pg-0.pg.shop", ("pg-0.pg.shop.svc.cluster.local",), True, False),
        ("orders.shop.svc", ("orders.shop.svc.cluster.local",), False, True),
        ("pg-0.pg.shop.svc", ("pg-0.pg.shop.svc.cluster.local",), False, True),
        ("orders.shop.svc.cluster.local", ("orders.shop.svc.cluster.local",), False, True),
        ("cluster.local", ("cluster.local",), False, True),
        (
            "notcluster.local",
            ("notcluster.local.svc.cluster.local", "notcluster.local.shop.svc.cluster.local"),
            True,
            False,
        ),
        ("a.b.example.com", (), True, False),
        ("_http._tcp.orders", ("_http._tcp.orders.shop.svc.cluster.local",), True, True),
        ("9.3.244.10.in-addr.arpa", ("9.3.244.10.in-addr.arpa",), False, True),
        ("9.3.2.192.in-addr.arpa", (), True, False),
        ("nonsense.in-addr.arpa", (), True, False),
        ("db", (), True, False),
        ("cache.internal", (), True, False),
        ("payments", ("payments.shop.svc.cluster.local",), False, True),
        ("", (), True, False),
    ],
)
def test_plan(name: str, candidates: tuple[str, ...], world: bool, certain: bool) -> None:
    assert plan(name, CONFIG) == Plan(candidates, world, certain)


def test_a_name_that_is_local_and_remote_is_remote() -> None:
    config = NameConfig("shop", local_names=frozenset({"db"}), remote_names=frozenset({"db"}))
    assert plan("db", config) == Plan(("db.shop.svc.cluster.local",), world=False, certain=True)


@given(NAME)
def test_somebody_is_always_asked_and_case_and_dot_do_not_matter(name: str) -> None:
    decision = plan(name, CONFIG)
    assert decision.candidates or decision.world
    assert plan(name.upper() + ".", CONFIG) == decision


@given(NAME)
def test_the_cluster_is_asked_only_for_its_own_names_and_the_world_never_for_those(name: str) -> None:
    decision = plan(name, CONFIG)
    for candidate in decision.candidates:
        assert candidate.endswith((".cluster.local", ".in-addr.arpa")) or candidate == "cluster.local"
    if name.endswith((".cluster.local", ".svc")):
        assert not decision.world
    if decision.certain and not decision.world:
        assert decision.candidates


@given(st.ip_addresses(v=4))
def test_reverse_names_follow_the_ranges(address: ipaddress.IPv4Address) -> None:
    decision = plan(address.reverse_pointer, CONFIG)
    inside = any(address in network for network in CONFIG.ranges)
    assert decision.world is not inside
    assert bool(decision.candidates) is inside
