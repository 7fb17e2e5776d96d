"""Services left to the cluster by `--remote`."""

from __future__ import annotations

from typing import Any

import pytest

from tpd.compose.model import Images, Plan, Request, Target
from tpd.compose.transform import transform
from tpd_core.errors import UserError

STARTED = {"condition": "service_started"}


def shop() -> dict[str, Any]:
    services: dict[str, Any] = {
        "app": {
            "depends_on": {"db": STARTED, "cache": STARTED},
            "links": ["db:database"],
            "volumes_from": ["tools:ro"],
        },
        "side": {"network_mode": "service:app", "depends_on": {"app": STARTED}},
        "web": {"depends_on": {"app": STARTED, "db": STARTED}},
        "db": {},
        "cache": {"profiles": ["full"]},
        "exporter": {"network_mode": "service:db", "depends_on": {"db": STARTED}},
        "debug": {"pid": "service:exporter"},
        "tools": {},
    }
    return {"name": "shop", "services": services}


def left_to_cluster(*remote: str, target: str = "app") -> Plan:
    return transform(shop(), Request((Target(target),), "s", Images("a", "d"), remote=remote))


def kept(plan: Plan) -> set[str]:
    return {name for name in plan.document["services"] if not name.startswith("tpd-")}


def test_a_service_goes_with_every_reference_to_it() -> None:
    plan = left_to_cluster("cache", "tools")
    assert plan.remote_names == ("cache", "tools")
    assert kept(plan) == {"app", "side", "web", "db", "exporter", "debug"}
    app = plan.document["services"]["app"]
    assert app["depends_on"].keys() == {"db", "tpd-anchor", "tpd-gate"}
    assert "volumes_from" not in app
    assert plan.notes == ("Service 'app' does without the volumes of tools, left to the cluster.",)
    assert "cache" not in plan.local_names


def test_links_to_it_are_dropped_too() -> None:
    plan = left_to_cluster("db")
    assert "links" not in plan.document["services"]["tpd-anchor"]
    assert plan.document["services"]["web"]["depends_on"] == {"app": STARTED}


def test_what_lives_in_its_namespaces_goes_with_it() -> None:
    plan = left_to_cluster("db")
    assert plan.remote_names == ("db", "debug", "exporter")
    assert len(plan.notes) == 2
    assert "'debug' is left out too" in plan.notes[0]


def test_all_leaves_only_the_intercepted_namespace() -> None:
    plan = left_to_cluster("all")
    assert kept(plan) == {"app", "side"}
    assert plan.remote_names == ("cache", "db", "debug", "exporter", "tools", "web")
    assert kept(left_to_cluster("all", target="side")) == {"app", "side"}


@pytest.mark.parametrize(
    ("name", "target", "named"),
    [
        ("nope", "app", "no service 'nope'"),
        ("app", "app", "'app' is the one that runs here"),
        ("app", "side", "'app' is the one that runs here"),
        ("exporter", "debug", "'debug' lives in a namespace"),
    ],
)
def test_what_cannot_be_left_out(name: str, target: str, named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        left_to_cluster(name, target=target)
    assert caught.value.hint
