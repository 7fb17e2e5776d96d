"""TLS 1.3 contexts made from PEM bytes; a private key never touches a disk."""

from __future__ import annotations

import os
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


def server_context(cert_pem: bytes, key_pem: bytes, client_ca_pem: bytes | None) -> ssl.SSLContext:
    """Context of the accepting end.

    Args:
        cert_pem: Own certificate, then its chain.
        key_pem: Its private key.
        client_ca_pem: CAs that sign clients; with it a client without a valid certificate is refused.

    Raises:
        ssl.SSLError: Certificate and key do not fit together, or are none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # links are long; a ticket would only be one more record for the client to read
    _load_key(context, cert_pem, key_pem)
    if client_ca_pem is not None:
        context.load_verify_locations(cadata=client_ca_pem.decode("ascii"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca_pem: bytes, cert_pem: bytes | None = None, key_pem: bytes | None = None) -> ssl.SSLContext:
    """Context of the connecting end: the server's certificate and name are always verified.

    Args:
        ca_pem: CAs that sign servers; the system's own are not trusted.
        cert_pem: Own certificate, then its chain; None to stay anonymous.
        key_pem: Its private key.

    Raises:
        ssl.SSLError: Certificate and key do not fit together, or are none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.hostname_checks_common_name = False
    context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    if cert_pem is not None and key_pem is not None:
        _load_key(context, cert_pem, key_pem)
    return context


def _load_key(context: ssl.SSLContext, cert_pem: bytes, key_pem: bytes) -> None:
    with _in_memory(cert_pem) as cert, _in_memory(key_pem) as key:
        context.load_cert_chain(cert, key)


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """A path under which OpenSSL, which reads only files, finds `content`."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("tpd-tls", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:  # tests on a developer's other system; the parts that hold keys run on Linux only
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
