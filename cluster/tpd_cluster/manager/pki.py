"""The manager's certificate authority.

Three kinds of certificate come from it, each good for one thing: the manager's (server, and client towards agents), a
session's (client only), an agent's (server only). Subjects and names are set here; of a request only the public key
is used.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tpd_core.errors import ClusterError
from tpd_core.grants import key_digest

MANAGER_NAME: Final = "manager.tpd"
ENROLL_NAME: Final = "enroll.tpd"
AGENT_SUFFIX: Final = ".agent.tpd"

SESSION_LIFETIME: Final = datetime.timedelta(hours=24)
AGENT_LIFETIME: Final = datetime.timedelta(days=365)  # an agent lives at most as long as its pod
MANAGER_LIFETIME: Final = datetime.timedelta(days=365)  # made anew at every start
CA_LIFETIME: Final = datetime.timedelta(days=3650)
_BACKDATE = datetime.timedelta(minutes=5)  # for clocks that are behind

_CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
_SERVER = ExtendedKeyUsageOID.SERVER_AUTH


class BadRequest(ClusterError):
    """A certificate request that cannot be used."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and when it ends."""

    pem: bytes
    not_after: datetime.datetime


@dataclass(frozen=True, slots=True)
class Authority:
    """The CA: its key signs certificates and grants.

    Attributes:
        certificate: The CA's own.
        key: P-256.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, now: datetime.datetime) -> Authority:
        """A fresh one."""
        key = ec.generate_private_key(ec.SECP256R1())
        serial = x509.random_serial_number()
        name = _name("tpd", f"tpd CA {serial % 0xFFFFFFFF:08x}")
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(now + CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(builder.sign(key, SHA256()), key)

    @classmethod
    def load(cls, certificate_pem: bytes, key_pem: bytes) -> Authority:
        """From a Secret's contents.

        Raises:
            ClusterError: They are not a certificate and its P-256 key.
        """
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            key = load_pem_private_key(key_pem, None)
        except ValueError as error:
            raise ClusterError(
                f"The Secret tpd-ca holds no usable CA: {error}", hint="Empty its data: the manager makes a new CA."
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ClusterError(
                "The Secret tpd-ca holds a certificate and a key that do not belong together",
                hint="Empty its data: the manager makes a new CA.",
            )
        return cls(certificate, key)

    @property
    def pem(self) -> bytes:
        """The CA certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The CA's private key."""
        return key_to_pem(self.key)

    def issue_manager(self, key: CertificatePublicKeyTypes, now: datetime.datetime) -> Issued:
        """For the router's own names, and for the manager as an agents' client."""
        names: list[x509.GeneralName] = [x509.DNSName(MANAGER_NAME), x509.DNSName(ENROLL_NAME)]
        return self._issue(key, _name("tpd manager", MANAGER_NAME), names, [_SERVER, _CLIENT], now, MANAGER_LIFETIME)

    def issue_session(self, key: CertificatePublicKeyTypes, session: str, now: datetime.datetime) -> Issued:
        """For one daemon; it cannot pose as a server."""
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"tpd:session:{session}")]
        return self._issue(key, _name("tpd session", session), names, [_CLIENT], now, SESSION_LIFETIME)

    def issue_agent(self, key: CertificatePublicKeyTypes, pod_uid: str, now: datetime.datetime) -> Issued:
        """For the agent of one pod; it cannot pose as a session."""
        name = pod_uid + AGENT_SUFFIX
        return self._issue(key, _name("tpd agent", pod_uid), [x509.DNSName(name)], [_SERVER], now, AGENT_LIFETIME)

    def _issue(
        self,
        key: CertificatePublicKeyTypes,
        subject: x509.Name,
        names: list[x509.GeneralName],
        usages: list[x509.ObjectIdentifier],
        now: datetime.datetime,
        lifetime: datetime.timedelta,
    ) -> Issued:
        not_after = min(now + lifetime, self.certificate.not_valid_after_utc)
        ca_key_id = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_key_id), critical=False)
        )
        return Issued(builder.sign(self.key, SHA256()).public_bytes(Encoding.PEM), not_after)


def public_key_of(request_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a certificate request whose sender has proved to hold the private one.

    Raises:
        BadRequest: Not a request, not a P-256 key, or not signed by it.
    """
    try:
        request = x509.load_pem_x509_csr(request_pem)
        key = request.public_key()
        request_is_good = request.is_signature_valid
    except (ValueError, InvalidSignature) as error:
        raise BadRequest(f"The certificate request cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadRequest("The certificate request's key is not an ECDSA key on P-256")
    if not request_is_good:
        raise BadRequest("The certificate request is not signed by its own key")
    return key


def new_key() -> ec.EllipticCurvePrivateKey:
    """A P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8, unencrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def session_of(certificate_der: bytes) -> str | None:
    """The session's name in a session certificate; None for any other certificate (the CA has checked it)."""
    certificate = x509.load_der_x509_certificate(certificate_der)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        if uri.startswith("tpd:session:"):
            return uri.removeprefix("tpd:session:")
    return None


def key_of_certificate(certificate_pem: bytes) -> bytes:
    """`grants.session_key_of` for a certificate in PEM form."""
    return key_digest(x509.load_pem_x509_certificate(certificate_pem).public_key())


def _name(organisation: str, common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64]),  # the longest that X.509 allows
        ]
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
