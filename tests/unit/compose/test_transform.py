"""Where each part of a compose service goes when the service stands in for a workload."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tpd.compose.model import Bind, Images, Plan, Request, Target, Volumes
from tpd.compose.ours import MOVED
from tpd.compose.transform import render, shared_volume, transform
from tpd_core.errors import ClusterError, UserError

IMAGES = Images("anchor:1", "daemon:1", "never")
VOLUMES = Volumes("/var/lib/docker/volumes/shop_tpd-volumes/_data")


def project(**services: Any) -> dict[str, Any]:
    return {"name": "shop", "services": services, "networks": {"default": {"name": "shop_default", "ipam": {}}}}


def transformed(config: dict[str, Any], *targets: str | Target, **options: Any) -> Plan:
    chosen = tuple(Target(target) if isinstance(target, str) else target for target in targets or ("app",))
    before = copy.deepcopy(config)
    plan = transform(config, Request(chosen, "eve-7", IMAGES, **options))
    assert config == before, "the caller's document is not changed"
    return plan


RICH: dict[str, Any] = {
    "image": "app:1",
    "build": {"context": "/src", "dockerfile": "Dockerfile"},
    "command": ["serve"],
    "entrypoint": None,
    "configs": [{"source": "c", "target": "/etc/c"}],
    "container_name": "the-app",
    "depends_on": {"db": {"condition": "service_healthy", "required": True}},
    "deploy": {"resources": {"limits": {"memory": "64M"}}, "placement": {}},
    "develop": {"watch": [{"path": "/src", "action": "sync", "target": "/app"}]},
    "dns": ["9.9.9.9", "1.1.1.1"],
    "dns_opt": ["ndots:3"],
    "dns_search": ["corp.example"],
    "domainname": "example.org",
    "environment": {"A": "1$$2", "LEFT": None, "OWN": "mine"},
    "expose": ["80"],
    "external_links": ["other:o"],
    "extra_hosts": ["host.docker.internal=host-gateway"],
    "healthcheck": {"test": ["CMD", "true"], "interval": "1s"},
    "hostname": "apphost",
    "init": True,
    "labels": {"mine": "1"},
    "links": ["db:database", "db"],
    "mac_address": "02:42:ac:11:65:43",
    "networks": {"default": None, "front": {"aliases": ["x", "app"], "ipv4_address": "10.9.0.7", "priority": 5}},
    "ports": [{"mode": "ingress", "target": 80, "published": "8080", "protocol": "tcp"}],
    "profiles": ["dev"],
    "restart": "always",
    "scale": 1,
    "secrets": [{"source": "s"}],
    "stop_grace_period": "2s",
    "sysctls": {"net.core.somaxconn": "1024", "kernel.msgmax": "65536"},
    "tmpfs": ["/scratch:size=1m"],
    "user": "1000",
    "volumes": [{"type": "bind", "source": "/src/data", "target": "/data", "bind": {"create_host_path": True}}],
}


def rich() -> dict[str, Any]:
    return project(app=copy.deepcopy(RICH), db={"image": "db", "networks": {"default": None}}) | {
        "networks": {"default": {"name": "shop_default"}, "front": {"name": "shop_front"}}
    }


def test_the_anchor_takes_the_network_identity() -> None:
    anchor = transformed(rich()).document["services"]["tpd-anchor"]
    names = ["app", "the-app"]
    assert anchor == {
        "image": "anchor:1",
        "pull_policy": "never",
        "attach": False,
        "cap_drop": ["ALL"],
        "read_only": True,
        "restart": "no",
        "labels": {"dev.tpd": "1", "dev.tpd.role": "anchor", "dev.tpd.run": "eve-7", "dev.tpd.session": "eve-7"},
        "dns": ["198.18.0.53"],
        "dns_opt": ["ndots:3"],
        "dns_search": ["corp.example"],
        "domainname": "example.org",
        "expose": ["80"],
        "external_links": ["other:o"],
        "extra_hosts": ["host.docker.internal=host-gateway"],
        "hostname": "apphost",
        "links": ["db:database", "db"],
        "mac_address": "02:42:ac:11:65:43",
        "networks": {
            "default": {"aliases": names},
            "front": {"aliases": ["x", "app", "the-app"], "ipv4_address": "10.9.0.7", "priority": 5},
        },
        "ports": [{"mode": "ingress", "target": 80, "published": "8080", "protocol": "tcp"}],
        "profiles": ["dev"],
        "sysctls": {"net.core.somaxconn": "1024"},
    }


def test_the_app_keeps_everything_else() -> None:
    app = transformed(rich()).document["services"]["app"]
    moved = {*MOVED, "dns", "networks", "scale", "sysctls", "depends_on", "deploy"}
    assert {key: app.pop(key) for key in ("network_mode", "sysctls", "depends_on", "deploy")} == {
        "network_mode": "service:tpd-anchor",
        "sysctls": {"kernel.msgmax": "65536"},
        "depends_on": {
            "db": {"condition": "service_healthy", "required": True},
            "tpd-anchor": {"condition": "service_started", "restart": True},
            "tpd-gate": {"condition": "service_completed_successfully"},
        },
        "deploy": {"resources": {"limits": {"memory": "64M"}}, "placement": {}, "replicas": 1},
    }
    assert app == {key: value for key, value in RICH.items() if key not in moved}


def test_the_daemon_has_named_capabilities_and_no_more() -> None:
    services = transformed(rich()).document["services"]
    joined = {
        "image": "daemon:1",
        "pull_policy": "never",
        "attach": False,
        "cap_drop": ["ALL"],
        "network_mode": "service:tpd-anchor",
        "read_only": True,
        "tmpfs": ["/run"],
        "profiles": ["dev"],
    }
    label = {"dev.tpd": "1", "dev.tpd.run": "eve-7", "dev.tpd.session": "eve-7"}
    assert services["tpd-daemon"] == joined | {
        "cap_add": ["NET_ADMIN"],
        "depends_on": {"tpd-anchor": {"condition": "service_started", "restart": True}},
        "environment": {"TPD_DNS_ADDRESS": "198.18.0.53", "TPD_LOG": "info"},
        "labels": label | {"dev.tpd.role": "daemon"},
        "restart": "on-failure",
    }
    assert services["tpd-gate"] == joined | {
        "command": ["gate"],
        "depends_on": {
            "tpd-anchor": {"condition": "service_started", "restart": True},
            "tpd-daemon": {"condition": "service_started"},
        },
        "labels": label | {"dev.tpd.role": "gate"},
        "restart": "no",
    }


def test_volumes_need_more_and_the_engine_is_told_where_they_are() -> None:
    plan = transformed(rich(), volumes=Volumes("/v/$x/_data", apparmor=True))
    daemon = plan.document["services"]["tpd-daemon"]
    assert daemon["cap_add"] == ["NET_ADMIN", "SYS_ADMIN"]
    assert daemon["devices"] == ["/dev/fuse:/dev/fuse:rwm"]
    assert daemon["security_opt"] == ["apparmor:unconfined"]
    assert daemon["environment"]["TPD_VOLUME_ROOT"] == "/tpd/volumes"
    assert daemon["volumes"] == [
        {
            "type": "bind",
            "source": "/v/$$x/_data",
            "target": "/tpd/volumes",
            "bind": {"create_host_path": False, "propagation": "rshared"},
        }
    ]
    assert "security_opt" not in transformed(rich(), volumes=VOLUMES).document["services"]["tpd-daemon"]


def test_without_propagation_the_daemon_keeps_its_mounts() -> None:
    bind, over = Bind("orders/data", "/data"), Bind("orders/etc", "/here/")
    config = rich()
    config["services"]["app"]["volumes"] = [{"type": "bind", "source": "/x", "target": "/here"}]
    plan = transformed(config, Target("app", binds=(bind, over)), volumes=Volumes(None))
    daemon, app = plan.document["services"]["tpd-daemon"], plan.document["services"]["app"]
    assert daemon["tmpfs"] == ["/run", "/tpd/volumes"]
    assert daemon["environment"]["TPD_VOLUME_ROOT"] == "/tpd/volumes"
    assert daemon["cap_add"] == ["NET_ADMIN", "SYS_ADMIN"]
    assert "volumes" not in daemon
    assert app["volumes"] == config["services"]["app"]["volumes"]
    assert "tpd-volumes" not in (plan.document.get("volumes") or {})
    assert plan.binds == {"app": (bind,)}
    assert "yours is mounted there" in plan.notes[0]


def test_the_plan_names_everything() -> None:
    plan = transformed(rich())
    (namespace,) = plan.namespaces
    assert plan.project == "shop"
    assert (namespace.owner, namespace.targets, namespace.members) == ("app", ("app",), ("app",))
    assert namespace.ours == ("tpd-anchor", "tpd-daemon", "tpd-gate")
    assert namespace.session == "eve-7"
    assert namespace.dns_upstreams == ("9.9.9.9", "1.1.1.1")
    assert plan.local_names == ("app", "apphost", "database", "db", "o", "the-app", "x")
    assert plan.notes == plan.remote_names == ()


def test_the_workloads_environment_is_added_escaped_and_the_users_own_wins() -> None:
    target = Target("app", {"OWN": "theirs", "LEFT": "filled", "NEW": "a$b$$c ${D}", "EMPTY": ""})
    app = transformed(rich(), target).document["services"]["app"]
    assert app["environment"] == {
        "A": "1$$2",
        "OWN": "mine",
        "LEFT": "filled",
        "NEW": "a$$b$$$$c $${D}",
        "EMPTY": "",
    }


def test_binds_are_added_and_the_users_own_mounts_win() -> None:
    target = Target(
        "app",
        {},
        (
            Bind("orders/data", "/data"),
            Bind("orders/cfg/app.yaml", "/etc/orders/app.yaml", read_only=True),
            Bind("orders/pvc/a$b", "/var/lib/x/"),
        ),
    )
    plan = transformed(rich(), target, volumes=VOLUMES)
    assert plan.document["services"]["app"]["volumes"] == [
        RICH["volumes"][0],
        {
            "type": "bind",
            "source": f"{VOLUMES.mountpoint}/orders/cfg/app.yaml",
            "target": "/etc/orders/app.yaml",
            "read_only": True,
            "bind": {"create_host_path": False, "propagation": "rslave"},
        },
        {
            "type": "bind",
            "source": f"{VOLUMES.mountpoint}/orders/pvc/a$$b",
            "target": "/var/lib/x",
            "bind": {"create_host_path": False, "propagation": "rslave"},
        },
    ]
    assert len(plan.notes) == 1
    assert "/data" in plan.notes[0]
    assert plan.document["volumes"]["tpd-volumes"]["name"] == "shop_tpd-volumes"


@pytest.mark.parametrize("source", ["/etc", "..", "a/../../b", "../x", "."])
def test_a_volume_cannot_lead_out_of_the_shared_one(source: str) -> None:
    with pytest.raises(ClusterError):
        transformed(rich(), Target("app", {}, (Bind(source, "/x"),)), volumes=VOLUMES)


def test_both_phases_define_tpds_services_the_same() -> None:
    empty = transformed(rich(), volumes=VOLUMES)
    full = transformed(rich(), Target("app", {"X": "1"}, (Bind("w/v", "/v"),)), volumes=VOLUMES)
    for name in empty.namespaces[0].ours:
        assert render(empty.document["services"][name]) == render(full.document["services"][name])
    assert empty.namespaces == full.namespaces


def test_the_same_content_is_rendered_the_same() -> None:
    config = rich()
    turned = json.loads(json.dumps(config), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    target = Target("app", {"B": "1", "C": "2"})
    other = Target("app", {"C": "2", "B": "1"})
    assert render(transformed(config, target).document) == render(transformed(turned, other).document)


@given(st.dictionaries(st.text(), st.text()))
def test_rendered_text_is_json_and_yaml_alike(environment: dict[str, str]) -> None:
    text = render(environment)
    assert json.loads(text) == environment
    assert yaml.safe_load(text) == environment


def test_services_around_the_app_follow_the_anchor() -> None:
    config = project(
        app={"networks": {"default": None}},
        side={"network_mode": "service:app", "depends_on": {"app": {"condition": "service_started"}}},
        behind={"network_mode": "service:side"},
        named={"network_mode": "container:the-app"},
        web={"links": ["app:api", "app", "db"], "depends_on": {"app": {"condition": "service_healthy"}}},
        peer={"ipc": "service:app", "pid": "service:app", "volumes_from": ["app:ro"]},
        db={},
    )
    config["services"]["app"]["container_name"] = "the-app"
    plan = transformed(config)
    services = plan.document["services"]
    for name in ("app", "side", "behind", "named"):
        assert services[name]["network_mode"] == "service:tpd-anchor"
        assert services[name]["depends_on"]["tpd-anchor"] == {"condition": "service_started", "restart": True}
    assert "tpd-gate" not in services["side"]["depends_on"]
    assert services["web"]["links"] == ["tpd-anchor:api", "tpd-anchor:app", "db"]
    assert services["web"]["depends_on"] == {"app": {"condition": "service_healthy"}}
    assert services["peer"] == config["services"]["peer"]
    assert plan.namespaces[0].members == ("app", "behind", "named", "side")


def test_an_app_in_another_services_network_gets_that_services_anchor() -> None:
    config = project(
        vpn={"ports": [{"target": 80, "published": "80"}], "networks": {"default": None}, "dns": "9.9.9.9"},
        app={"network_mode": "service:vpn", "depends_on": {"vpn": {"condition": "service_started"}}},
    )
    plan = transformed(config)
    services = plan.document["services"]
    assert services["tpd-anchor"]["networks"] == {"default": {"aliases": ["vpn", "shop-vpn-1"]}}
    assert services["tpd-anchor"]["ports"] == [{"target": 80, "published": "80"}]
    assert services["vpn"]["network_mode"] == services["app"]["network_mode"] == "service:tpd-anchor"
    assert "tpd-gate" in services["app"]["depends_on"]
    assert "tpd-gate" not in services["vpn"]["depends_on"]
    assert plan.namespaces[0].owner == "vpn"
    assert plan.namespaces[0].dns_upstreams == ("9.9.9.9",)


def test_two_intercepted_services_have_two_namespaces() -> None:
    config = project(app={}, web={"links": ["app"]}, db={})
    plan = transformed(config, "web", "app")
    services = plan.document["services"]
    assert [namespace.owner for namespace in plan.namespaces] == ["app", "web"]
    assert [namespace.session for namespace in plan.namespaces] == ["eve-7-app", "eve-7-web"]
    assert services["app"]["network_mode"] == "service:tpd-anchor-app"
    assert services["tpd-daemon-web"]["network_mode"] == "service:tpd-anchor-web"
    assert services["tpd-anchor-web"]["links"] == ["tpd-anchor-app:app"]
    assert services["tpd-gate-web"]["depends_on"].keys() == {"tpd-anchor-web", "tpd-daemon-web"}
    assert plan.targets == ("app", "web")


def test_two_intercepted_services_of_one_namespace_share_a_daemon() -> None:
    config = project(app={}, side={"network_mode": "service:app"})
    plan = transformed(config, Target("app", {"A": "1"}), Target("side", {"B": "2"}))
    (namespace,) = plan.namespaces
    assert namespace.targets == ("app", "side")
    assert plan.document["services"]["side"]["environment"] == {"B": "2"}
    assert "tpd-gate" in plan.document["services"]["side"]["depends_on"]


def test_without_a_gate_the_app_starts_after_the_daemon() -> None:
    plan = transformed(rich(), gate=False)
    assert "tpd-gate" not in plan.document["services"]
    assert plan.document["services"]["app"]["depends_on"]["tpd-daemon"] == {"condition": "service_started"}
    assert plan.namespaces[0].ours == ("tpd-anchor", "tpd-daemon")


@pytest.mark.parametrize("networks", [None, {}, {"default": None}])
def test_the_implicit_network(networks: Any) -> None:
    plan = transformed(project(app={"networks": networks}))
    assert plan.document["services"]["tpd-anchor"]["networks"] == {"default": {"aliases": ["app", "shop-app-1"]}}
    assert "networks" not in plan.document["services"]["app"]


def test_container_names_in_compatibility_mode() -> None:
    anchor = transformed(project(app={}), separator="_").document["services"]["tpd-anchor"]
    assert anchor["networks"]["default"]["aliases"] == ["app", "shop_app_1"]


def test_the_default_bridge_has_no_aliases() -> None:
    anchor = transformed(project(app={"network_mode": "bridge", "ports": [{"target": 1}]})).document["services"][
        "tpd-anchor"
    ]
    assert anchor["network_mode"] == "bridge"
    assert "networks" not in anchor
    assert anchor["ports"] == [{"target": 1}]


@pytest.mark.parametrize("mode", ["host", "none", "container:elsewhere"])
@pytest.mark.parametrize("through", [False, True])
def test_networks_that_cannot_hold_an_anchor_are_refused(mode: str, through: bool) -> None:
    owner = {"network_mode": mode}
    config = project(app={"network_mode": "service:owner"}, owner=owner) if through else project(app=owner)
    with pytest.raises(UserError) as caught:
        transformed(config)
    assert f"`network_mode: {mode}`" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("scaled", [{"scale": 2}, {"deploy": {"replicas": 3}}, {"scale": 2, "deploy": {"replicas": 2}}])
def test_an_intercepted_service_runs_once(scaled: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="'app' is to run"):
        transformed(project(app=scaled))
    plan = transformed(project(app={}, web=scaled))
    assert plan.document["services"]["web"] == scaled


@pytest.mark.parametrize("stopped", [{"scale": 0}, {"deploy": {"replicas": 0}}])
def test_a_service_that_is_started_by_hand_stays_so(stopped: dict[str, Any]) -> None:
    assert transformed(project(app=stopped)).document["services"]["app"]["deploy"] == {"replicas": 0}


def test_unknown_and_taken_names_are_refused() -> None:
    with pytest.raises(UserError, match="no service 'orders'") as caught:
        transformed(project(app={}, web={}), "orders")
    assert "app, web" in caught.value.hint
    with pytest.raises(UserError, match="'tpd-daemon'"):
        transformed(project(app={}, **{"tpd-daemon": {}}))


def test_the_shared_volume_may_be_the_users() -> None:
    config = project(app={}, peek={"volumes": [{"type": "volume", "source": "tpd-volumes", "target": "/all"}]})
    config["volumes"] = {"tpd-volumes": {"name": "mine", "labels": {"a": "b"}}}
    volume = shared_volume(config)
    assert volume.name == "mine"
    assert not volume.external
    assert volume.labels["com.docker.compose.project"] == "shop"
    assert volume.labels["com.docker.compose.volume"] == "tpd-volumes"
    assert volume.labels["dev.tpd"] == "1"
    declared = transformed(config, volumes=VOLUMES).document["volumes"]["tpd-volumes"]
    assert declared["name"] == "mine"
    assert declared["labels"]["a"] == "b"
    config["volumes"] = {"tpd-volumes": {"name": "theirs", "external": True}}
    assert shared_volume(config).external
    assert transformed(config, volumes=VOLUMES).document["volumes"] == config["volumes"]
    assert shared_volume(project(app={})).name == "shop_tpd-volumes"


names = st.sampled_from(["app", "web", "db", "side"])
keys = {
    "ports": st.just([{"target": 80}]),
    "hostname": st.just("h"),
    "dns": st.just(["1.1.1.1"]),
    "links": st.just([]),
    "mac_address": st.just("02:42:ac:11:65:43"),
    "networks": st.one_of(st.none(), st.dictionaries(st.sampled_from(["default", "n"]), st.none())),
    "sysctls": st.dictionaries(st.sampled_from(["net.a", "kernel.b"]), st.just("1")),
    "environment": st.dictionaries(st.sampled_from("AB"), st.one_of(st.none(), st.text("a$", max_size=3))),
    "dns_search": st.just(["x"]),
    "extra_hosts": st.just(["a=1.2.3.4"]),
    "labels": st.just({"a": "b"}),
    "command": st.just(None),
}


@given(st.dictionaries(names, st.fixed_dictionaries({}, optional=keys), min_size=1), st.data())
def test_whatever_the_project_every_target_joins_an_anchor(services: dict[str, Any], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(sorted(services)), min_size=1, unique=True))
    plan = transformed(project(**services), *chosen)
    document = plan.document["services"]
    for namespace in plan.namespaces:
        owner, before = document[namespace.owner], services[namespace.owner]
        assert owner["network_mode"] == f"service:{namespace.anchor}"
        # The engine accepts none of these on a container in another's namespace.
        assert not {*MOVED, "networks", "dns"} & owner.keys()
        assert not any(key.startswith("net.") for key in owner.get("sysctls", {}))
        assert document[namespace.anchor]["networks"].keys() == (before.get("networks") or {"default": None}).keys()
    untouched = services.keys() - set(chosen)
    assert {name: document[name] for name in untouched} == {name: services[name] for name in untouched}
