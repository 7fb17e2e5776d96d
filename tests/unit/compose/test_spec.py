"""What `--intercept` values mean, and which service stands in for a workload."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpd.compose.spec import InterceptSpec, PortPair, map_services, merge_specs, parse_intercept
from tpd_core.errors import UserError


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("orders", InterceptSpec(None, "orders")),
        ("orders=app", InterceptSpec(None, "orders", "app")),
        ("deployment/orders", InterceptSpec("Deployment", "orders")),
        ("sts/db.main=Data_1", InterceptSpec("StatefulSet", "db.main", "Data_1")),
        ("StatefulSets/db", InterceptSpec("StatefulSet", "db")),
        ("deployments.apps/orders", InterceptSpec("Deployment", "orders")),
        ("orders:8080", InterceptSpec(None, "orders", None, (PortPair(8080),))),
        ("orders:8080:80", InterceptSpec(None, "orders", None, (PortPair(8080, 80),))),
        ("orders=app:8080:http", InterceptSpec(None, "orders", "app", (PortPair(8080, "http"),))),
        ("po/x:1:65535", InterceptSpec("Pod", "x", None, (PortPair(1, 65535),))),
    ],
)
def test_forms(text: str, spec: InterceptSpec) -> None:
    assert parse_intercept(text) == spec


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "names no workload"),
        ("=app", "names no workload"),
        ("/orders", "names no workload"),
        ("deployment/", "names no workload"),
        ("service/orders", "'service' is no kind"),
        ("Orders", "'Orders'"),
        ("orders=", "''"),
        ("orders=a b", "'a b'"),
        ("orders:", "'' is not a port number"),
        ("orders:0", "'0'"),
        ("orders:65536", "'65536'"),
        ("orders:http", "'http' is not a port number"),
        ("orders:80:", "''"),
        ("orders:80:HTTP", "'HTTP'"),
        ("orders:80:0", "'0'"),
        ("orders:80:99999", "'99999'"),
        ("orders:80:a-name-of-sixteen", "'a-name-of-sixteen'"),
        ("orders:1:2:3", "more than two ports"),
        ("orders:٣", "'٣'"),
    ],
)
def test_errors_name_the_part_that_is_wrong(text: str, named: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_intercept(text)
    assert named in caught.value.message
    assert caught.value.hint


@given(st.text(alphabet=st.sampled_from("abAZ019-./=: \n\x00é"), max_size=30))
def test_any_text_is_a_spec_or_the_users_error(text: str) -> None:
    try:
        spec = parse_intercept(text)
    except UserError:
        return
    ports = "".join(f":{pair.local}" + ("" if pair.remote is None else f":{pair.remote}") for pair in spec.ports)
    service = "" if spec.service is None else f"={spec.service}"
    assert parse_intercept(f"{spec.workload}{service}{ports}") == spec


def test_a_workload_given_twice_has_both_ports() -> None:
    specs = [parse_intercept(text) for text in ("orders:8080:http", "web", "orders:9090:grpc")]
    assert merge_specs(specs) == (
        InterceptSpec(None, "orders", None, (PortPair(8080, "http"), PortPair(9090, "grpc"))),
        InterceptSpec(None, "web"),
    )


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (("orders", "orders"), "given twice"),
        (("orders:80", "orders"), "given twice"),
        (("orders:80", "orders:81:80"), "port 80 is given twice"),
        (("orders=a:80", "orders=b:81"), "both 'a' and 'b'"),
    ],
)
def test_contradictions_are_refused(texts: tuple[str, ...], named: str) -> None:
    with pytest.raises(UserError, match=named):
        merge_specs([parse_intercept(text) for text in texts])


def test_services_are_found_by_word_by_name_or_as_the_only_one() -> None:
    def mapped(text: str, *services: str) -> str:
        return map_services([parse_intercept(text)], services)[0][1]

    assert mapped("orders=app", "app", "orders") == "app"
    assert mapped("orders", "app", "orders") == "orders"
    assert mapped("orders", "app") == "app"


@pytest.mark.parametrize(
    ("text", "services"), [("orders", ("web", "app")), ("orders=db", ("web", "app")), ("orders=db", ("app",))]
)
def test_an_unclear_service_is_an_error_that_lists_them(text: str, services: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        map_services([parse_intercept(text)], services)
    assert ", ".join(sorted(services)) in caught.value.hint


def test_a_project_without_services_says_so() -> None:
    with pytest.raises(UserError, match="no services"):
        map_services([parse_intercept("orders")], ())
