"""TLS to replicas: the router accepts only the certificate that a server was given."""

from __future__ import annotations

import functools
import ssl

from cryptography import x509


@functools.lru_cache(maxsize=256)
def create_context(certificate: str | None) -> ssl.SSLContext:
    """Create the TLS context for a server that shows one of these certificates, PEM.

    It does not compare names: those in the certificate are for clients, and the router uses another name.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # trust the server's own certificate, and no authority
    if certificate:
        context.load_verify_locations(cadata=certificate)
    return context


def find_name(certificate: str) -> str | None:
    """Find a name in a certificate, for a client that always compares names. Return None if it has none."""
    parsed = x509.load_pem_x509_certificate(certificate.encode())
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    hosts = names.get_values_for_type(x509.DNSName)
    return next((name.replace("*", "replica", 1) for name in hosts), None) or next(
        (str(address) for address in names.get_values_for_type(x509.IPAddress)), None
    )
