"""A manager's CA for tests: certificates for manager, sessions and agents, and signed grants."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tpd_core import grants
from tpd_core.proto.link_pb2 import Grant, Mount, Port, SignedGrant

HOUR = datetime.timedelta(hours=1)
POD_UID = "11111111-2222-3333-4444-555555555555"


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM certificate and key."""

    certificate: bytes
    key: bytes


class Pki:
    """A CA with a P-256 key."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tpd test CA")])
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    key_cert_sign=True,
                    crl_sign=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, SHA256())
        )
        self.pem = certificate.public_bytes(Encoding.PEM)

    def manager(self) -> Credentials:
        return self._credentials("manager", ["manager.tpd", "enroll.tpd"], server=True, client=True)

    def session(self, name: str) -> Credentials:
        return self._credentials(name, [], server=False, client=True)

    def server_only(self, name: str) -> Credentials:
        """What agents have: no client's certificate."""
        return self._credentials(name, [f"{name}.agent.tpd"], server=True, client=False)

    def agent(self, request_pem: bytes, pod_uid: str) -> bytes:
        """Sign an agent's request; PEM."""
        request = x509.load_pem_x509_csr(request_pem)
        key = request.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return self._leaf(key, pod_uid, [f"{pod_uid}.agent.tpd"], server=True, client=False)

    def certify(self, request_pem: bytes, session: str) -> bytes:
        """Sign a daemon's request; PEM."""
        key = x509.load_pem_x509_csr(request_pem).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return self._leaf(key, session, [], server=False, client=True)

    def grant(
        self,
        credentials: Credentials,
        *,
        ports: tuple[int, ...] = (8080,),
        attachment: str = "att-1",
        pod_uid: str = POD_UID,
        user: str = "ann",
        session: str = "ann-1",
        lifetime: float = 900.0,
        mounts: tuple[Mount, ...] = (),
        protocol: str = "TCP",
    ) -> SignedGrant:
        """A grant for a session's key, signed."""
        certificate = x509.load_pem_x509_certificate(credentials.certificate)
        now = time.time()
        grant = Grant(
            serial=bytes(16),
            session=session,
            user=user,
            session_key=grants.session_key_of(certificate.public_bytes(Encoding.DER)),
            namespace="shop",
            pod="orders-0",
            pod_uid=pod_uid,
            container="app",
            attachment=attachment,
            ports=[Port(protocol=protocol, container_port=port, local_port=port) for port in ports],
            mounts=mounts,
            not_before=int(now),
            not_after=int(now + lifetime),
        )
        return grants.sign(grant, self._key)

    def _credentials(self, name: str, dns: list[str], *, server: bool, client: bool) -> Credentials:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Credentials(self._leaf(key.public_key(), name, dns, server=server, client=client), pem)

    def _leaf(self, key: ec.EllipticCurvePublicKey, name: str, dns: list[str], *, server: bool, client: bool) -> bytes:
        usages = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * client
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        if dns:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(entry) for entry in dns]), critical=False
            )
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - HOUR)
            .not_valid_after(now + HOUR)
        )
