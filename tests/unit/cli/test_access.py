"""Refusals of the API server, in words that say who could help."""

from __future__ import annotations

import pytest

from tpd.kube.access import RightsError, rights
from tpd.kube.agents import label_selector
from tpd.kube.attachments import attachment_body, target_of
from tpd.kube.session import session_name
from tpd.kube.targets import Target, TargetPort
from tpd_core.kube.errors import error_from


def test_a_403_names_user_verb_and_resource() -> None:
    words = (
        'attachments.tpd.dev is forbidden: User "jane" cannot create resource "attachments" in API group "tpd.dev"'
        ' in the namespace "shop"'
    )
    with pytest.raises(RightsError) as caught, rights("to attach to 'orders'"):
        raise error_from("POST", "/x", 403, {"message": words, "reason": "Forbidden"})
    assert "'jane' may not create attachments" in caught.value.message
    assert "to attach to 'orders'" in caught.value.message
    assert "client.subjects" in caught.value.hint
    assert caught.value.category.exit_code == 4


def test_a_403_in_other_words_is_quoted() -> None:
    with pytest.raises(RightsError, match="quota exceeded"), rights("to attach"):
        raise error_from("POST", "/x", 403, {"message": "quota exceeded"})


def test_a_401_says_to_log_in() -> None:
    with pytest.raises(RightsError) as caught, rights("to learn the user's name"):
        raise error_from("POST", "/x", 401, {"message": "Unauthorized"})
    assert "Log in again" in caught.value.hint


def test_an_attachment_is_read_back_as_it_was_meant() -> None:
    target = Target("Deployment", "orders", "shop", "app", ((TargetPort("http", 80), 8080),))
    body = attachment_body("me-laptop-abc", "uid", "me", target, mount=True)
    assert target_of(body | {"metadata": body["metadata"] | {"namespace": "shop"}}) == target
    assert body["metadata"]["ownerReferences"][0]["uid"] == "uid"


def test_names_of_objects_are_names() -> None:
    import re

    pattern = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
    name = session_name()
    assert pattern.fullmatch(name)
    assert session_name() != name
    long = Target("Deployment", "a" * 39 + "-" + "b" * 20, "shop", "app", ())
    made = attachment_body(name, "uid", "me", long, mount=False)["metadata"]["name"]
    assert pattern.fullmatch(made)
    assert len(made) <= 253


def test_selectors_as_the_api_takes_them() -> None:
    selector = {
        "matchLabels": {"app": "x"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]},
            {"key": "old", "operator": "DoesNotExist"},
            {"key": "new", "operator": "Exists"},
        ],
    }
    assert label_selector(selector) == "app=x,tier in (a,b),!old,new"
