"""
TLS for DICOM (PS3.15 B.12, BCP 195): version 1.2 or 1.3 with forward secrecy and authenticated encryption only.

Certificate, key and CA are read anew by `reload`; connections that are open keep what they began with, and what
cannot be used is told and changes nothing.
No session is resumed: associations are few and long, and so each one shows its certificate anew.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum

from adapters.inbound.dicom.seam import Telemetry
from adapters.inbound.dicom.tls_credentials import Credentials, as_file, not_after, pair_words, pem_text
from adapters.inbound.dicom.tls_failures import handshake_failure
from domain.errors import NotPossible

# RFC 9325 4.2.1 for TLS 1.2, and the DHE suites that PS3.15 B.10 asked for until 2022; those of 1.3 are all fit.
_CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
    ":ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
    ":DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384"
)
_WARN_BEFORE = timedelta(days=30)


class TlsMode(StrEnum):
    """Whether the TLS port is open, and whom it lets in."""

    OFF = "off"
    ON = "on"  # whoever calls
    MUTUAL = "mutual"  # who shows a certificate of our CA


class TlsPort:
    """
    Turns accepted sockets into TLS ones.

    Args:
        mode: ON or MUTUAL.
        credentials: read now, and again by `reload`.
        telemetry: where reloads and the end of a certificate are told.
        now: the wall clock, aware UTC.

    Raises:
        NotPossible: the credentials cannot be used; the message says which, and why.

    """

    def __init__(
        self, mode: TlsMode, credentials: Credentials, telemetry: Telemetry, now: Callable[[], datetime]
    ) -> None:
        self._mode = mode
        self._credentials = credentials
        self._telemetry = telemetry
        self._now = now
        self._context, self._expires_at = self._load()

    @property
    def expires_at(self) -> datetime:
        """When our certificate ends, aware UTC."""
        return self._expires_at

    def reload(self) -> bool:
        """Read the credentials again, for connections to come; False, changing nothing, if they cannot be used."""
        try:
            self._context, self._expires_at = self._load()
        except NotPossible as error:
            self._telemetry.event(
                "tls.reload_failed", problem=str(error), still_in_use_until=self._expires_at.isoformat()
            )
            return False
        self._telemetry.event("tls.reloaded", expires_at=self._expires_at.isoformat())
        self.warn()
        return True

    def warn(self) -> None:
        """Tell if our certificate ends within thirty days, or has ended."""
        left = self._expires_at - self._now()
        if left <= _WARN_BEFORE:
            self._telemetry.event(
                "tls.certificate_expired" if left <= timedelta() else "tls.certificate_expiring",
                expires_at=self._expires_at.isoformat(),
                days=left.days,
                remedy="replace what --tls-certificate and --tls-key name, then send SIGHUP",
            )

    def wrap(self, accepted: socket.socket) -> socket.socket:
        """
        Do the handshake on an accepted socket that has a time-out, and return the socket for what follows.

        Raises:
            HandshakeFailed: the peer speaks no TLS, or none that fits.
            OSError: it left, or said nothing.

        """
        wrapped = self._context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        try:
            wrapped.do_handshake()
        except BaseException as error:
            wrapped.close()
            if isinstance(error, OSError):
                failure = handshake_failure(error, has_begun=getattr(wrapped, "has_begun", False))
                if failure is not None:
                    raise failure from error
            raise
        return wrapped

    def _load(self) -> tuple[ssl.SSLContext, datetime]:
        given = self._credentials
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS)
        context.options |= (
            ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
        )
        context.num_tickets = 0
        context.sslsocket_class = _ListeningSocket
        context.sni_callback = _note_hello
        pem = pem_text(given.certificate, "--tls-certificate")
        key_pem = pem_text(given.key, "--tls-key")
        with as_file(given.certificate) as certificate, as_file(given.key) as key:
            try:
                # Without a password, OpenSSL would ask for one at the terminal.
                context.load_cert_chain(certificate, key, password="")
            except ssl.SSLError as error:
                raise NotPossible(
                    f"--tls-certificate and --tls-key cannot be used: {pair_words(error, key_pem)}"
                ) from error
        if self._mode is TlsMode.MUTUAL:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(cadata=pem_text(given.authority, "--tls-ca"))
            except ssl.SSLError as error:
                raise NotPossible("--tls-ca cannot be used: it holds no certificate in PEM") from error
        try:
            return context, not_after(pem)
        except (ValueError, IndexError) as error:
            raise NotPossible("--tls-certificate cannot be used: it holds no certificate in PEM") from error


class _ListeningSocket(ssl.SSLSocket):
    """Knows whether its peer has begun to speak TLS."""

    has_begun = False


def _note_hello(peer: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
    if isinstance(peer, _ListeningSocket):
        peer.has_begun = True
