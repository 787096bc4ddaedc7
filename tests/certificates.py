"""Certificates for tests: an authority that signs what it is asked to."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@attrs.frozen
class Issued:
    """A certificate and its key, as PEM texts and as files."""

    certificate: str
    key: str
    certificate_file: Path
    key_file: Path


@attrs.define(slots=False)
class Authority:
    """
    An authority with a key of its own.

    Attributes:
        folder: where its files go.
        name: its common name, and the name of its file.

    """

    folder: Path
    name: str = "authority"

    @cached_property
    def key(self) -> Key:
        return ec.generate_private_key(ec.SECP256R1())

    @cached_property
    def pem(self) -> str:
        name = _name(self.name)
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        return _pem(_builder(name, name, self.key, -1, 3650).add_extension(constraints, critical=True), self.key)

    @cached_property
    def file(self) -> Path:
        path = self.folder / f"{self.name}.pem"
        path.write_text(self.pem)
        return path

    def issue(self, name: str, *, days: float = 365, since_days: float = -1, key: Key | None = None) -> Issued:
        """Sign a certificate for 127.0.0.1 that ends in so many days."""
        key = key or rsa.generate_private_key(public_exponent=65537, key_size=2048)
        builder = _builder(_name(name), _name(self.name), key, since_days, days)
        addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = _pem(builder.add_extension(addresses, critical=False), self.key)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        issued = Issued(certificate, private, self.folder / f"{name}.crt", self.folder / f"{name}.key")
        issued.certificate_file.write_text(certificate)
        issued.key_file.write_text(private)
        return issued


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Key, since_days: float, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=since_days))
        .not_valid_after(now + timedelta(days=days))
    )


def _pem(builder: x509.CertificateBuilder, signer: Key) -> str:
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
