"""The agent's key and certificates. Imported late: it pulls in the cryptography package."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tpd_core.grants import session_key_of

MANAGER_NAME: Final = "manager.tpd"
_TEMPORARY: Final = datetime.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Identity:
    """A fresh key, never written anywhere.

    Attributes:
        key: PEM.
        request: PEM of a certificate request for it.
        temporary: PEM of a self-signed certificate, for the manager's look at the key.
    """

    key: bytes = field(repr=False)
    request: bytes = field(repr=False)
    temporary: bytes = field(repr=False)


def make_identity(pod_uid: str) -> Identity:
    """A new P-256 key and what enrolment needs."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, pod_uid)])
    now = datetime.datetime.now(datetime.UTC)
    temporary = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _TEMPORARY)
        .not_valid_after(now + _TEMPORARY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{pod_uid}.agent.tpd")]), critical=False)
        .sign(key, SHA256())
    )
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, SHA256())
    return Identity(
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        request=request.public_bytes(Encoding.PEM),
        temporary=temporary.public_bytes(Encoding.PEM),
    )


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at a link's other end.

    Attributes:
        session_key: See `tpd_core.grants.session_key_of`.
        is_manager: It is the manager, not a session.
    """

    session_key: bytes
    is_manager: bool

    @classmethod
    def from_certificate(cls, der: bytes) -> Peer:
        """Out of a certificate that TLS has verified.

        Raises:
            ValueError: It cannot be parsed.
        """
        certificate = x509.load_der_x509_certificate(der)
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            dns = names.get_values_for_type(x509.DNSName)
        except x509.ExtensionNotFound:
            dns = []
        return cls(session_key_of(der), MANAGER_NAME in dns)


def ca_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of the manager's CA certificate, which signs grants.

    Raises:
        ValueError: No certificate, or a key of another type.
    """
    key = x509.load_pem_x509_certificate(pem).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("the manager's CA certificate holds no elliptic curve key")
    return key
