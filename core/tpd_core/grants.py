"""Grants: what the manager allows one session in one pod, signed so that an agent needs nobody else to check it.

A grant is bound to the session certificate's key, so a copy of it is of no use to anyone else, and to the pod's UID,
so it is of no use in another pod. Bytes and signature travel together as `SignedGrant`; the agent parses only bytes
whose signature it has checked.
"""

from __future__ import annotations

import hmac
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.message import DecodeError

from tpd_core.errors import ClusterError
from tpd_core.proto import link_pb2

LIFETIME: Final = 15 * 60
"""How long a grant is good for, in seconds: the time after which a revocation is certain without the manager."""

RENEW_BEFORE: Final = 5 * 60
"""A fresh grant is sent when so many seconds are left."""

LEEWAY: Final = 60
"""How far the clocks of manager and agent may be apart, in seconds."""

_CONTEXT = b"tpd grant v1\0"
_ALGORITHM = ec.ECDSA(SHA256())


class GrantError(ClusterError):
    """A grant that gives no right here."""


class GrantForged(GrantError):
    """The manager did not sign these bytes."""


class GrantExpired(GrantError):
    """The grant is not valid at this time."""


class GrantMisused(GrantError):
    """The grant is for another pod or another session."""


def session_key_of(der_certificate: bytes) -> bytes:
    """What `Grant.session_key` holds for a certificate: SHA-256 of its SubjectPublicKeyInfo in DER.

    Raises:
        ValueError: Not a certificate.
    """
    return key_digest(x509.load_der_x509_certificate(der_certificate).public_key())


def key_digest(key: CertificatePublicKeyTypes) -> bytes:
    """SHA-256 of a public key's SubjectPublicKeyInfo in DER."""
    digest = Hash(SHA256())
    digest.update(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize()


def sign(grant: link_pb2.Grant, key: ec.EllipticCurvePrivateKey) -> link_pb2.SignedGrant:
    """Sign with the manager's CA key."""
    data = grant.SerializeToString(deterministic=True)
    return link_pb2.SignedGrant(grant=data, signature=key.sign(_CONTEXT + data, _ALGORITHM))


def verify(
    signed: link_pb2.SignedGrant,
    ca_public_key: ec.EllipticCurvePublicKey,
    *,
    pod_uid: str,
    session_key: bytes,
    now: float,
) -> link_pb2.Grant:
    """The grant inside, if it gives the peer a right in this pod at this time.

    Args:
        ca_public_key: The manager's.
        pod_uid: The agent's own pod.
        session_key: `session_key_of` the TLS peer's certificate.
        now: Unix seconds.

    Raises:
        GrantForged: The signature does not fit, or the bytes are no grant.
        GrantExpired: Too early or too late.
        GrantMisused: Another pod's, or presented by another session.
    """
    try:
        ca_public_key.verify(signed.signature, _CONTEXT + signed.grant, _ALGORITHM)
    except InvalidSignature:
        raise GrantForged(
            "The grant was not signed by this agent's manager",
            hint="Was the manager installed anew? Then the agents of the old one must end: `tpd uninstall`.",
        ) from None
    try:
        grant = link_pb2.Grant.FromString(signed.grant)
    except DecodeError as error:
        raise GrantForged(f"The signed bytes are not a grant: {error}") from error
    if grant.pod_uid != pod_uid:
        raise GrantMisused(f"The grant is for pod {grant.pod} ({grant.pod_uid}), this is {pod_uid}")
    if not hmac.compare_digest(grant.session_key, session_key):
        raise GrantMisused(
            f"The grant belongs to session {grant.session}, whose key the link's other end does not hold"
        )
    if now < grant.not_before - LEEWAY:
        raise GrantExpired(
            f"The grant of session {grant.session} starts in {grant.not_before - now:.0f} s",
            hint="The clocks of the cluster's nodes differ.",
        )
    if now >= grant.not_after:
        raise GrantExpired(f"The grant of session {grant.session} expired {now - grant.not_after:.0f} s ago")
    return grant
