"""
Why a TLS handshake failed, in words that say what to change, from what OpenSSL says.
"""

from __future__ import annotations

import ssl


class HandshakeFailed(OSError):
    """
    A handshake that failed for a reason somebody can mend.

    Args:
        cause: one of a few words, for counting.
        explanation: what is wrong and what to change.

    """

    def __init__(self, cause: str, explanation: str) -> None:
        super().__init__(explanation)
        self.cause = cause
        self.explanation = explanation


# cause, explanation by OpenSSL's reason
_REASONS = {
    "NO_SHARED_CIPHER": (
        "no_shared_cipher",
        "no cipher suite in common: the device must offer an ECDHE suite with AES-GCM (BCP 195) that fits our key",
    ),
    "NO_SUITABLE_SIGNATURE_ALGORITHM": (
        "no_shared_cipher",
        "no signature algorithm in common: the device must accept SHA-256 signatures by a key such as ours",
    ),
    "UNSUPPORTED_PROTOCOL": ("old_version", "the device offers TLS 1.1 or older: enable TLS 1.2 or 1.3 there"),
    "VERSION_TOO_LOW": ("old_version", "the device offers TLS 1.1 or older: enable TLS 1.2 or 1.3 there"),
    "WRONG_VERSION_NUMBER": ("not_tls", "the device speaks no TLS: enable it there, or let it use the plain --port"),
    "HTTP_REQUEST": ("not_tls", "a web client called the DICOM port"),
    "HTTPS_PROXY_REQUEST": ("not_tls", "a web client called the DICOM port"),
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": (
        "no_client_certificate",
        "the device shows no certificate: give it one that --tls-ca signed, or use --tls on",
    ),
    "TLSV1_ALERT_UNKNOWN_CA": (
        "our_certificate_unknown",
        "the device does not know who signed our certificate: give it that CA, or add what is between to ours",
    ),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": ("our_certificate_expired", "the device finds our certificate expired"),
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": (
        "our_certificate_refused",
        "the device refuses our certificate: does it name the host that the device calls?",
    ),
    "SSLV3_ALERT_BAD_CERTIFICATE": (
        "our_certificate_refused",
        "the device refuses our certificate: does it name the host that the device calls?",
    ),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": ("no_shared_cipher", "the device finds nothing in common with what we offer"),
    "TLSV1_ALERT_PROTOCOL_VERSION": ("old_version", "the device refuses TLS 1.2 and 1.3"),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": ("no_client_certificate", "the device asks for another certificate"),
}
# by OpenSSL's X509_V_ERR_ numbers
_VERIFICATIONS = {
    9: ("client_certificate_not_yet_valid", "the device's certificate is not valid yet: is its clock, or ours, wrong?"),
    10: ("client_certificate_expired", "the device's certificate has expired: replace it there"),
    **dict.fromkeys(
        (2, 18, 19, 20, 21, 27),
        (
            "client_certificate_unknown_ca",
            "the device's certificate is not signed by --tls-ca: add its CA there, or replace the certificate",
        ),
    ),
    23: ("client_certificate_revoked", "the device's certificate is revoked"),
    26: ("client_certificate_unfit", "the device's certificate is not made for TLS clients (extended key usage)"),
}


def handshake_failure(error: OSError, *, has_begun: bool) -> HandshakeFailed | None:
    """Put a failed handshake into words; None if the peer left or stayed silent before it began one."""
    if isinstance(error, ssl.SSLCertVerificationError):
        cause, explanation = _VERIFICATIONS.get(
            error.verify_code, ("client_certificate_refused", f"the device's certificate: {error.verify_message}")
        )
        return HandshakeFailed(cause, explanation)
    has_left = isinstance(error, ConnectionError | TimeoutError | ssl.SSLEOFError | ssl.SSLZeroReturnError)
    if has_left:
        if not has_begun:
            return None
        return HandshakeFailed(
            "left", "the device began TLS and left, or fell silent: does it know the CA of our certificate?"
        )
    if isinstance(error, ssl.SSLError):
        known = _REASONS.get(error.reason or "")
        return HandshakeFailed(*(known or ("other", f"TLS failed: {(error.reason or 'unknown').lower()}")))
    return None
