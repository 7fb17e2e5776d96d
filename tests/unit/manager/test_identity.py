"""Certificates and tickets: each is good for one thing."""

from __future__ import annotations

import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.manager.samples import NOW
from tpd_cluster.manager import pki, tickets
from tpd_core.aio.tls import client_context, server_context
from tpd_core.errors import ClusterError

TIME = datetime.datetime.now(datetime.UTC)
CA = pki.Authority.create(TIME)
KEY = pki.new_key()


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> tuple[bytes | None, bytes | None]:
    """Both peers' certificates after a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = client.wrap_bio(to_client, to_server, server_side=False, server_hostname=name)
    right = server.wrap_bio(to_server, to_client, server_side=True)
    pending = [left, right]
    for _ in range(10):
        for end in list(pending):
            try:
                end.do_handshake()
                pending.remove(end)
            except ssl.SSLWantReadError:
                continue
    assert not pending
    return left.getpeercert(binary_form=True), right.getpeercert(binary_form=True)


def manager_context(*, clients: bool = True) -> ssl.SSLContext:
    certificate = CA.issue_manager(KEY.public_key(), TIME).pem
    return server_context(certificate, pki.key_to_pem(KEY), CA.pem if clients else None)


def session_context(name: str = "ada-1") -> ssl.SSLContext:
    return client_context(CA.pem, CA.issue_session(KEY.public_key(), name, TIME).pem, pki.key_to_pem(KEY))


@pytest.mark.parametrize("name", ["manager.tpd", "enroll.tpd", "MANAGER.tpd"])
def test_a_session_links_to_the_manager(name: str) -> None:
    _, peer = handshake(manager_context(), session_context(), name)
    assert peer is not None
    assert pki.session_of(peer) == "ada-1"


def test_the_manager_and_a_session_link_to_an_agent() -> None:
    certificate = CA.issue_agent(KEY.public_key(), "uid-1", TIME).pem
    agent = server_context(certificate, pki.key_to_pem(KEY), CA.pem)
    handshake(agent, session_context(), "uid-1.agent.tpd")
    manager = client_context(CA.pem, CA.issue_manager(KEY.public_key(), TIME).pem, pki.key_to_pem(KEY))
    _, peer = handshake(agent, manager, "uid-1.agent.tpd")
    assert peer is not None
    assert pki.session_of(peer) is None
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(agent, session_context(), "uid-2.agent.tpd")


def test_a_session_cannot_serve_even_under_a_servers_name() -> None:
    """Python would fall back to the common name of a certificate without DNS names; the usage forbids it too."""
    issued = CA.issue_session(KEY.public_key(), "manager.tpd", TIME).pem
    impostor = server_context(issued, pki.key_to_pem(KEY), None)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(impostor, client_context(CA.pem), "manager.tpd")


def test_an_agent_cannot_be_a_client() -> None:
    issued = CA.issue_agent(KEY.public_key(), "uid-1", TIME).pem
    with pytest.raises(ssl.SSLError):
        handshake(manager_context(), client_context(CA.pem, issued, pki.key_to_pem(KEY)), "manager.tpd")


def test_another_ca_is_no_good() -> None:
    other = pki.Authority.create(TIME)
    issued = other.issue_session(KEY.public_key(), "ada-1", TIME).pem
    with pytest.raises(ssl.SSLError):
        handshake(manager_context(), client_context(CA.pem, issued, pki.key_to_pem(KEY)), "manager.tpd")


def test_nothing_of_a_request_is_copied_but_its_key() -> None:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "manager.tpd")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("manager.tpd")]), critical=False)
    request = builder.sign(KEY, SHA256()).public_bytes(Encoding.PEM)
    issued = CA.issue_session(pki.public_key_of(request), "ada-1", TIME)
    certificate = x509.load_pem_x509_certificate(issued.pem)
    assert "manager" not in certificate.subject.rfc4514_string()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == []
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["tpd:session:ada-1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert issued.not_after - TIME == pki.SESSION_LIFETIME


def test_requests_that_are_refused() -> None:
    def request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)

    good = request(KEY)
    assert pki.public_key_of(good) == KEY.public_key()
    for bad in (
        b"rubbish",
        request(rsa.generate_private_key(65537, 2048)),
        request(ec.generate_private_key(ec.SECP384R1())),
    ):
        with pytest.raises(pki.BadRequest):
            pki.public_key_of(bad)


def test_the_ca_survives_its_secret() -> None:
    loaded = pki.Authority.load(CA.pem, CA.key_pem)
    assert loaded.pem == CA.pem
    with pytest.raises(ClusterError, match="do not belong together"):
        pki.Authority.load(CA.pem, pki.key_to_pem(KEY))
    with pytest.raises(ClusterError, match="no usable CA"):
        pki.Authority.load(b"x", CA.key_pem)


CLAIM = tickets.Claim("shop", "orders-1", "uid-1", "tpd-agent-00001", int(NOW) + 60)
SECRET = tickets.secret_from(CA.key_pem)


def test_a_ticket_brings_its_claim_back() -> None:
    assert tickets.check(tickets.make(CLAIM, SECRET), SECRET, now=NOW) == CLAIM


def test_a_ticket_ends() -> None:
    ticket = tickets.make(CLAIM, SECRET)
    tickets.check(ticket, SECRET, now=CLAIM.expires - 0.1)
    with pytest.raises(tickets.BadTicket, match="expired"):
        tickets.check(ticket, SECRET, now=CLAIM.expires)


def test_another_managers_ticket_is_refused() -> None:
    with pytest.raises(tickets.BadTicket, match="not made by this manager"):
        tickets.check(tickets.make(CLAIM, b"other"), SECRET, now=NOW)


@given(st.data())
def test_a_changed_ticket_is_refused(data: st.DataObject) -> None:
    ticket = tickets.make(CLAIM, SECRET)
    at = data.draw(st.integers(0, len(ticket) - 1))
    letter = data.draw(st.characters().filter(lambda one: one != ticket[at]))
    with pytest.raises(tickets.BadTicket):
        tickets.check(ticket[:at] + letter + ticket[at + 1 :], SECRET, now=NOW)


@given(st.text(max_size=100))
def test_any_text_is_no_ticket(text: str) -> None:
    with pytest.raises(tickets.BadTicket):
        tickets.check(text, SECRET, now=NOW)
