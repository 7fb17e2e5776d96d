"""The kubelet's probes against everybody else's requests."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpd_cluster.agent.probes import MAX_HEAD, Probe, ProbeMatcher, Verdict, filtered_ports, parse_probes
from tpd_core.errors import ConfigError

PROBES = (
    Probe("app", "http", 8080, "/healthz"),
    Probe("app", "http", 8080, "ready?full=1 x"),
    Probe("app", "http", 8080, "/custom", user_agent="checker/1"),
    Probe("side", "http", 9090, "/other"),
    Probe("app", "http", 8443, "/tls", scheme="HTTPS"),
    Probe("app", "tcp", 5432),
    Probe("app", "grpc", 50051),
)
MATCHER = ProbeMatcher(PROBES, 8080)
KUBELET = b"User-Agent: kube-probe/1.35\r\n"


def request(line: bytes, *headers: bytes) -> bytes:
    return line + b"\r\n" + b"".join(headers) + b"\r\n"


@pytest.mark.parametrize(
    "data",
    [
        request(b"GET /healthz HTTP/1.1", b"Host: 10.0.0.1:8080\r\n", KUBELET, b"Accept: */*\r\n"),
        request(b"GET /healthz HTTP/1.1", b"user-agent:kube-probe/1.27\r\n"),
        request(b"GET /ready?full=1%20x HTTP/1.1", KUBELET),
        request(b"GET /custom HTTP/1.1", b"User-Agent: checker/1\r\n"),
        request(b"GET /healthz HTTP/1.1", KUBELET) + b"more",
    ],
)
def test_probes(data: bytes) -> None:
    assert MATCHER.match(data) is Verdict.PROBE


@pytest.mark.parametrize(
    "data",
    [
        request(b"GET /healthz HTTP/1.1", b"User-Agent: curl/8.1\r\n", KUBELET),
        request(b"GET /healthz HTTP/1.1", b"Host: x\r\n"),
        request(b"GET /healthz HTTP/1.0", KUBELET),
        request(b"POST /healthz HTTP/1.1", KUBELET),
        request(b"GET /healthz/more HTTP/1.1", KUBELET),
        request(b"GET /other HTTP/1.1", KUBELET),
        request(b"GET /tls HTTP/1.1", KUBELET),
        request(b"GET /custom HTTP/1.1", KUBELET),
        b"\x16\x03\x01\x02\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"X: " + b"y" * MAX_HEAD,
        b"GET /healthz HTTP/1.1\r\n" + b"X: " + b"y" * MAX_HEAD + b"\r\n" + KUBELET,
    ],
)
def test_others(data: bytes) -> None:
    assert MATCHER.match(data) is Verdict.OTHER


def test_other_traffic_is_told_by_its_first_bytes() -> None:
    assert MATCHER.match(b"") is Verdict.MORE
    assert MATCHER.match(b"GET /") is Verdict.MORE
    assert MATCHER.match(b"GET /o") is Verdict.OTHER
    assert MATCHER.match(b"GET /healthz HTTP/1.1\r") is Verdict.MORE


_pieces = st.sampled_from(
    [b"GET ", b"/healthz", b"/custom", b" HTTP/1.1", b"\r\n", b"\r", b"User-Agent: ", b"kube-probe/1", b"Host: a", b":"]
)
_data = st.lists(st.one_of(_pieces, st.binary(max_size=3)), max_size=14).map(b"".join)


@given(_data)
def test_byte_by_byte_says_the_same_as_whole(data: bytes) -> None:
    verdicts = [MATCHER.match(data[:size]) for size in range(len(data) + 1)]
    decided = [verdict for verdict in verdicts if verdict is not Verdict.MORE]
    assert verdicts == [Verdict.MORE] * (len(verdicts) - len(decided)) + decided
    assert len(set(decided)) <= 1


def test_only_ports_with_readable_probes_are_looked_at() -> None:
    assert MATCHER
    assert ProbeMatcher(PROBES, 9090)
    for port in (8443, 5432, 50051, 1):
        assert not ProbeMatcher(PROBES, port)
    assert filtered_ports(PROBES) == {8443, 5432, 50051}


def test_parsing_what_the_manager_writes() -> None:
    entries = [
        {"container": "a", "kind": "http", "port": 80, "path": "", "scheme": "http", "headers": [["user-agent", "x"]]},
        {"container": "b", "kind": "tcp", "port": 5432},
    ]
    assert parse_probes(json.dumps(entries)) == (
        Probe("a", "http", 80, "/", "HTTP", "x"),
        Probe("b", "tcp", 5432),
    )
    assert parse_probes("") == ()
    for text in ("{}x", "[1]", '[{"kind": "tcp"}]', '{"a": 1}', '[{"container": "a", "kind": "tcp", "port": "x"}]'):
        with pytest.raises(ConfigError, match="TPD_PROBES"):
            parse_probes(text)
