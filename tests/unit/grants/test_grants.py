"""A grant says yes to exactly one session in one pod for a while."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from tpd_core import grants
from tpd_core.proto import link_pb2

KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = KEY.public_key()
NOW = 1_800_000_000.0
SESSION_KEY = b"k" * 32


def grant(**changes: object) -> link_pb2.Grant:
    fields: dict[str, object] = {
        "serial": b"s" * 16,
        "session": "ada-laptop-1",
        "user": "ada",
        "session_key": SESSION_KEY,
        "namespace": "shop",
        "pod": "orders-1",
        "pod_uid": "uid-1",
        "container": "app",
        "attachment": "att-1",
        "mode": link_pb2.MODE_INTERCEPT,
        "ports": [link_pb2.Port(name="http", protocol="TCP", container_port=8080, local_port=8080)],
        "not_before": int(NOW),
        "not_after": int(NOW) + grants.LIFETIME,
    }
    return link_pb2.Grant(**{**fields, **changes})  # type: ignore[arg-type]


def check(
    signed: link_pb2.SignedGrant, *, pod_uid: str = "uid-1", session_key: bytes = SESSION_KEY, now: float = NOW
) -> link_pb2.Grant:
    return grants.verify(signed, PUBLIC, pod_uid=pod_uid, session_key=session_key, now=now)


def test_a_good_grant_comes_back_whole() -> None:
    assert check(grants.sign(grant(), KEY)) == grant()


@given(st.data())
def test_any_changed_byte_is_forged(data: st.DataObject) -> None:
    signed = grants.sign(grant(), KEY)
    position = data.draw(st.integers(0, len(signed.grant) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = bytearray(signed.grant)
    changed[position] ^= flip
    with pytest.raises(grants.GrantForged):
        check(link_pb2.SignedGrant(grant=bytes(changed), signature=signed.signature))


@given(st.binary(max_size=80))
def test_any_other_signature_is_forged(signature: bytes) -> None:
    with pytest.raises(grants.GrantForged):
        check(link_pb2.SignedGrant(grant=grant().SerializeToString(), signature=signature))


def test_another_key_is_forged() -> None:
    with pytest.raises(grants.GrantForged):
        check(grants.sign(grant(), ec.generate_private_key(ec.SECP256R1())))


def test_a_signature_made_for_something_else_is_forged() -> None:
    data = grant().SerializeToString()
    with pytest.raises(grants.GrantForged):
        check(link_pb2.SignedGrant(grant=data, signature=KEY.sign(data, ec.ECDSA(SHA256()))))


def test_signed_rubbish_is_forged() -> None:
    data = b"\xff\xff"
    signature = KEY.sign(b"tpd grant v1\0" + data, ec.ECDSA(SHA256()))
    with pytest.raises(grants.GrantForged, match="not a grant"):
        check(link_pb2.SignedGrant(grant=data, signature=signature))


def test_the_other_pod_is_named() -> None:
    with pytest.raises(grants.GrantMisused, match="orders-1"):
        check(grants.sign(grant(), KEY), pod_uid="uid-2")


def test_another_session_is_refused() -> None:
    with pytest.raises(grants.GrantMisused, match="ada-laptop-1"):
        check(grants.sign(grant(), KEY), session_key=b"x" * 32)


@pytest.mark.parametrize(
    ("now", "good"),
    [
        (NOW - grants.LEEWAY - 1, False),
        (NOW - grants.LEEWAY, True),
        (NOW + grants.LIFETIME - 1, True),
        (NOW + grants.LIFETIME, False),
    ],
)
def test_time_limits(now: float, good: bool) -> None:
    signed = grants.sign(grant(), KEY)
    if good:
        assert check(signed, now=now) == grant()
    else:
        with pytest.raises(grants.GrantExpired):
            check(signed, now=now)


def test_session_key_is_the_key_not_the_certificate() -> None:
    key = ec.generate_private_key(ec.SECP256R1())

    def certificate(name: str) -> bytes:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), start, start)
        return builder.sign(key, SHA256()).public_bytes(Encoding.DER)

    assert grants.session_key_of(certificate("a")) == grants.session_key_of(certificate("b"))
    assert grants.session_key_of(certificate("a")) == grants.key_digest(key.public_key())
    with pytest.raises(ValueError, match=r".+"):
        grants.session_key_of(b"no certificate")
