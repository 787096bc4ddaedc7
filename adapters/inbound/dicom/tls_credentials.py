"""
Certificate, key and CA as settings give them, a file or the PEM text itself, and what OpenSSL needs them as.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import attrs

from domain.errors import NotPossible

_PEM = "-----BEGIN"


@attrs.frozen(kw_only=True)
class Credentials:
    """
    Where certificate, key and CA are: each a file, or the PEM text itself.

    Attributes:
        certificate: ours, followed by those between it and its root.
        key: of the certificate, not encrypted.
        authority: who signs the certificates of callers; empty where none is asked for.

    """

    certificate: str
    key: str = attrs.field(repr=False)
    authority: str = ""


def not_after(pem: str) -> datetime:
    """
    Return when the first certificate of a PEM text ends (RFC 5280 4.1.2.5), aware UTC.

    Raises:
        ValueError, IndexError: there is none.

    """
    start = pem.index("-----BEGIN CERTIFICATE-----")
    end = "-----END CERTIFICATE-----"
    der = ssl.PEM_cert_to_DER_cert(pem[start : pem.index(end, start) + len(end)])
    fields = _elements(_elements(_elements(der)[0][1])[0][1])  # of the certificate's part that is signed
    # version, which may lack, serial number, signature algorithm, issuer, validity
    validity = fields[4 if fields[0][0] == _EXPLICIT_VERSION else 3][1]
    kind, text = _elements(validity)[1]
    if kind == _UTC_TIME:
        year = int(text[:2])
        text = (b"19" if year >= 50 else b"20") + text  # noqa: PLR2004  # RFC 5280 4.1.2.5.1
    return datetime.strptime(text.decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


_EXPLICIT_VERSION = 0xA0
_UTC_TIME = 0x17
_LONG_LENGTH = 0x80


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """Return the elements that follow each other in DER, each as tag and content."""
    found = []
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & _LONG_LENGTH:
            more = length & ~_LONG_LENGTH
            length = int.from_bytes(der[at : at + more], "big")
            at += more
        found.append((tag, der[at : at + length]))
        at += length
    return found


def _is_text(given: str) -> bool:
    return given.lstrip().startswith(_PEM)


def pem_text(given: str, option: str) -> str:
    """Return the PEM text that a setting gives or names."""
    if _is_text(given):
        # a variable whose line breaks were escaped on their way
        return given.replace("\\n", "\n")
    try:
        return Path(given).read_text("utf-8")
    except OSError as error:
        raise NotPossible(f"{option} cannot be read: {given}: {error.strerror}") from error
    except ValueError as error:
        raise NotPossible(f"{option} cannot be used: {given} is no PEM file") from error


@contextlib.contextmanager
def as_file(given: str) -> Iterator[str]:
    """Give the path of what OpenSSL reads from files only; a key given as text touches no disk where that can be."""
    if not _is_text(given):
        yield given
        return
    content = given.lstrip().replace("\\n", "\n").encode()
    if sys.platform == "linux":
        descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile() as file:  # for its owner alone
            file.write(content)
            file.flush()
            yield file.name


def pair_words(error: ssl.SSLError, key: str) -> str:
    """Say why OpenSSL takes a certificate and key not as a pair."""
    if "ENCRYPTED" in key:
        return "the key is encrypted; give it without a password"
    words = {
        "KEY_VALUES_MISMATCH": "the key is not that of the certificate",
        "KEY_TYPE_MISMATCH": "the key is not that of the certificate",
        "EE_KEY_TOO_SMALL": "the key is too short; 2,048 bits or more are needed for RSA",
        "CA_MD_TOO_WEAK": "the certificate is signed with too weak a digest",
    }
    return words.get(error.reason or "", "they hold no certificate and key in PEM")
