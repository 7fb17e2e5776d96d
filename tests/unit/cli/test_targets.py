"""Which container and which ports a spec means."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpd.compose.spec import parse_intercept
from tpd.kube.targets import Target, container_ports, resolve_target, services_for
from tpd_core.errors import UserError


def container(name: str, *ports: tuple[int, str]) -> dict[str, Any]:
    return {"name": name, "ports": [{"containerPort": number, "name": word} for number, word in ports]}


def deployment(*containers: dict[str, Any]) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": "orders"}}, "spec": {"containers": list(containers)}}
    return {
        "kind": "Deployment",
        "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {"template": template},
    }


def service(name: str, *ports: dict[str, Any], app: str = "orders") -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"selector": {"app": app}, "ports": list(ports)}}


def resolve(text: str, workload: dict[str, Any], *services: dict[str, Any], within: str | None = None) -> Target:
    return resolve_target(parse_intercept(text), workload, services, within)


def numbers(target: Target) -> list[tuple[int, int]]:
    return [(port.number, local) for port, local in target.ports]


def test_the_only_port_is_taken_with_the_same_number() -> None:
    target = resolve("orders", deployment(container("app", (8080, "http"))))
    assert (target.kind, target.name, target.namespace, target.container) == ("Deployment", "orders", "shop", "app")
    assert numbers(target) == [(8080, 8080)]


def test_a_lone_local_port_means_the_only_remote_one() -> None:
    assert numbers(resolve("orders:3000", deployment(container("app", (8080, ""))))) == [(8080, 3000)]


def test_a_lone_local_port_prefers_the_same_number() -> None:
    assert numbers(resolve("orders:9090", deployment(container("app", (8080, ""), (9090, ""))))) == [(9090, 9090)]


@pytest.mark.parametrize("word", ["8080", "http", "80", "web"])
def test_a_port_goes_by_any_of_its_names(word: str) -> None:
    workload = deployment(container("app", (8080, "http"), (9090, "metrics")))
    leading = service("orders", {"port": 80, "name": "web", "targetPort": "http"})
    assert numbers(resolve(f"orders:3000:{word}", workload, leading)) == [(8080, 3000)]


def test_of_several_ports_the_one_behind_a_service_is_meant() -> None:
    workload = deployment(container("app", (8080, "http"), (9090, "metrics")))
    assert numbers(resolve("orders", workload, service("orders", {"port": 80, "targetPort": 8080}))) == [(8080, 8080)]


def test_several_ports_are_listed() -> None:
    workload = deployment(container("app", (8080, "http"), (9090, "metrics")))
    with pytest.raises(UserError) as caught:
        resolve("orders", workload)
    assert "8080 (http)" in caught.value.message
    assert "9090 (metrics)" in caught.value.message
    assert "--intercept orders:8080:http" in caught.value.hint


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(UserError) as caught:
        resolve("orders:3000:grpc", deployment(container("app", (8080, "http"))))
    assert "'grpc'" in caught.value.message
    assert "8080 (http)" in caught.value.hint


def test_a_number_that_nobody_declares_is_believed() -> None:
    target = resolve("orders:3000:5005", deployment(container("app", (8080, "http")), container("sidecar", (9000, ""))))
    assert (target.container, numbers(target)) == ("app", [(5005, 3000)])


def test_a_port_finds_its_container() -> None:
    workload = deployment(container("app", (8080, "http")), container("sidecar", (9000, "admin")))
    assert resolve("orders:9000:admin", workload).container == "sidecar"


def test_a_named_container_is_looked_at_alone() -> None:
    workload = deployment(container("app", (8080, "http")), container("sidecar", (9000, "admin")))
    assert numbers(resolve("orders", workload, within="sidecar")) == [(9000, 9000)]
    with pytest.raises(UserError, match="no container 'nope'"):
        resolve("orders", workload, within="nope")


def test_ports_of_two_containers_are_refused() -> None:
    from tpd.compose.spec import merge_specs

    workload = deployment(container("app", (8080, "")), container("sidecar", (9000, "")))
    (spec,) = merge_specs([parse_intercept("orders:1:8080"), parse_intercept("orders:2:9000")])
    with pytest.raises(UserError, match="different containers"):
        resolve_target(spec, workload, [])


def test_without_any_port_the_form_is_shown() -> None:
    with pytest.raises(UserError) as caught:
        resolve("orders", deployment({"name": "app"}))
    assert "orders:LOCAL:REMOTE" in caught.value.hint


def test_a_service_of_undeclared_ports_tells_the_port() -> None:
    leading = service("orders", {"port": 80, "targetPort": 8000})
    assert numbers(resolve("orders", deployment({"name": "app"}), leading)) == [(8000, 8000)]


def test_udp_ports_do_not_count() -> None:
    udp = {"name": "app", "ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 8080}]}
    assert numbers(resolve("orders", deployment(udp))) == [(8080, 8080)]


def test_only_services_that_select_the_pods_count() -> None:
    mine, other = service("orders", {"port": 80}), service("web", {"port": 80}, app="web")
    headless = {"metadata": {"name": "x"}, "spec": {"ports": [{"port": 1}]}}
    assert services_for(deployment(container("app")), [mine, other, headless]) == [mine]


@given(st.lists(st.integers(1, 65535), unique=True, max_size=5), st.lists(st.integers(1, 65535), max_size=5))
def test_every_declared_and_every_reached_port_is_known_once(declared: list[int], reached: list[int]) -> None:
    app = container("app", *((number, "") for number in declared))
    ports = container_ports(app, [app], [service("s", *({"port": number} for number in reached))])
    assert [port.number for port in ports] == sorted({*declared, *reached})
