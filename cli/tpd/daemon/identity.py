"""The daemon's key: made here, never written anywhere, certified by the manager."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from tpd_core.errors import UserError


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key and the request to certify it.

    Attributes:
        key: PEM, PKCS#8.
        request: Certificate request, PEM; the manager takes only the public key from it.
        public: SubjectPublicKeyInfo, DER.
    """

    key: bytes
    request: bytes
    public: bytes

    def __repr__(self) -> str:
        return "Identity(...)"  # the key must not get into a log


def make_identity() -> Identity:
    """A fresh P-256 key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tpd-daemon")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
    return Identity(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        request.public_bytes(Encoding.PEM),
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    )


class Keyring:
    """The key offered for the next session and the one in use."""

    def __init__(self) -> None:
        self.offered = make_identity()
        self._used: Identity | None = None

    def take(self, certificate: bytes) -> Identity:
        """The key that a certificate belongs to; the next offer is then a fresh one.

        Args:
            certificate: PEM, with or without its chain.

        Raises:
            UserError: It is no certificate, or of another key.
        """
        try:
            public = x509.load_pem_x509_certificate(certificate).public_key()
        except ValueError as error:
            raise UserError(f"the session's certificate cannot be read: {error}") from error
        der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if self._used is not None and der == self._used.public:
            return self._used
        if der != self.offered.public:
            raise UserError(
                "the session's certificate does not belong to this daemon's key",
                hint="the daemon was restarted meanwhile: start the session anew",
            )
        self._used, self.offered = self.offered, make_identity()
        return self._used
