"""TLS in the receiver: DCMTK and pynetdicom as senders, peers that do not fit, certificates that change."""

import contextlib
import os
import socket
import ssl
import subprocess
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from adapters.inbound.dicom.connection import Limits
from adapters.inbound.dicom.server import Listener
from adapters.inbound.dicom.tls import TlsMode, TlsPort
from adapters.inbound.dicom.tls_credentials import Credentials, not_after
from domain.errors import NotPossible
from tests.certificates import Authority, Issued
from tests.integration.test_receiver_server import (
    CT_FILE,
    FakeTelemetry,
    Running,
    a_dataset,
    an_ae,
    associate,
    read_pdu,
    release,
    running,
)
from tests.unit.inbound import pdus

pytestmark = pytest.mark.usefixtures("no_threads_left")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def ours(authority: Authority) -> Issued:
    return authority.issue("receiver")


@pytest.fixture(scope="module")
def theirs(authority: Authority) -> Issued:
    return authority.issue("modality")


def as_files(issued: Issued, authority: Authority) -> Credentials:
    return Credentials(
        certificate=str(issued.certificate_file), key=str(issued.key_file), authority=str(authority.file)
    )


def a_port(mode: TlsMode, credentials: Credentials, telemetry: FakeTelemetry | None = None) -> TlsPort:
    return TlsPort(mode, credentials, telemetry or FakeTelemetry(), lambda: datetime.now(UTC))


@contextlib.contextmanager
def listening(port: TlsPort) -> Iterator[Running]:
    """Listen with TLS, and plainly beside it."""
    listeners = [Listener(host="127.0.0.1", port=0, wrap=port.wrap), Listener(host="127.0.0.1", port=0)]
    with running(listeners=listeners, limits=Limits(artim_seconds=2)) as receiver:
        yield receiver


def dcmtk(program: str, receiver: Running, *options: str) -> subprocess.CompletedProcess[str]:
    arguments = [program, "-v", *options, "127.0.0.1", str(receiver.port)]
    if Path(program).name == "storescu":
        arguments.append(str(CT_FILE))
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)


def client_context(authority: Authority, issued: Issued | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.file))
    if issued is not None:
        context.load_cert_chain(issued.certificate_file, issued.key_file)
    return context


def refusal(receiver: Running, cause: str) -> str:
    """Wait for the one handshake that failed, and return what the administrator is told."""
    receiver.until(lambda: receiver.ends("tls_failed") == 1)
    assert receiver.server.totals().tls_failures == {cause: 1}
    (event,) = receiver.telemetry.named("connection.tls_refused")
    assert event["cause"] == cause
    assert event["address"] == "127.0.0.1"
    return str(event["explanation"])


@pytest.mark.parametrize("mode", [TlsMode.ON, TlsMode.MUTUAL])
@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
def test_dcmtk_stores_over_tls(  # noqa: PLR0917
    mode: TlsMode,
    profile: str,
    authority: Authority,
    ours: Issued,
    theirs: Issued,
    require_tool: Callable[[str], str],
) -> None:
    with listening(a_port(mode, as_files(ours, authority))) as receiver:
        options = ["+tls", str(theirs.key_file), str(theirs.certificate_file), "+cf", str(authority.file), profile]
        done = dcmtk(require_tool("storescu"), receiver, *options)
        assert done.returncode == 0, done.stderr
        assert dcmtk(require_tool("echoscu"), receiver, *options).returncode == 0
        (reception,) = receiver.use_case.receptions
        assert reception.request.sop_instance_uid == a_dataset().SOPInstanceUID
        receiver.until(lambda: receiver.ends("released") == 2)
        plain = socket.create_connection(receiver.server.addresses[1], timeout=10)
        plain.sendall(pdus.associate_rq())
        assert read_pdu(plain)[0] == 2
        release(plain)


def test_dcmtk_without_a_certificate_may_call_unless_tls_is_mutual(
    authority: Authority, ours: Issued, require_tool: Callable[[str], str]
) -> None:
    for mode, code in ((TlsMode.ON, 0), (TlsMode.MUTUAL, 1)):
        with listening(a_port(mode, as_files(ours, authority))) as receiver:
            done = dcmtk(require_tool("echoscu"), receiver, "+tla", "+cf", str(authority.file))
            assert bool(done.returncode) is bool(code), done.stderr
            if code:
                assert "--tls-ca" in refusal(receiver, "no_client_certificate")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("curve", [True, False])
def test_credentials_may_be_given_as_text(
    version: ssl.TLSVersion, curve: bool, authority: Authority, theirs: Issued
) -> None:
    key = ec.generate_private_key(ec.SECP256R1()) if curve else None
    ours = authority.issue("as-text", key=key)
    escaped = ours.key.replace("\n", "\\n") if curve else ours.key
    credentials = Credentials(certificate=ours.certificate, key=escaped, authority=authority.pem)
    assert ours.key not in repr(credentials)
    with listening(a_port(TlsMode.MUTUAL, credentials)) as receiver:
        context = client_context(authority, theirs)
        context.minimum_version = context.maximum_version = version
        association = an_ae().associate("127.0.0.1", receiver.port, tls_args=(context, "127.0.0.1"))
        assert association.send_c_store(a_dataset()).Status == 0
        association.release()
        assert association.is_released


def shake_hands(receiver: Running, context: ssl.SSLContext) -> None:
    """Try a handshake that is bound to fail, on whichever side."""
    with contextlib.suppress(OSError):
        with context.wrap_socket(receiver.connect(), server_hostname="127.0.0.1") as wrapped:
            wrapped.sendall(b"x")  # with TLS 1.3 the client learns of a refusal afterwards only
            while wrapped.recv(1000):
                pass


def test_a_device_without_a_suite_in_common_is_told_by_name(authority: Authority, ours: Issued) -> None:
    context = client_context(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES256-SHA:ECDHE-RSA-AES256-SHA384")
    with listening(a_port(TlsMode.ON, as_files(ours, authority))) as receiver:
        shake_hands(receiver, context)
        assert "BCP 195" in refusal(receiver, "no_shared_cipher")


def test_a_device_that_knows_old_versions_only_is_told_so(authority: Authority, ours: Issued) -> None:
    context = client_context(authority)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with listening(a_port(TlsMode.ON, as_files(ours, authority))) as receiver:
        shake_hands(receiver, context)
        assert "TLS 1.2 or 1.3" in refusal(receiver, "old_version")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    "which,cause,words",
    [
        ("none", "no_client_certificate", "shows no certificate"),
        ("stranger", "client_certificate_unknown_ca", "not signed by --tls-ca"),
        ("expired", "client_certificate_expired", "replace it"),
        ("future", "client_certificate_not_yet_valid", "clock"),
    ],
)
def test_a_client_certificate_that_does_not_do_is_told_why(  # noqa: PLR0917
    version: ssl.TLSVersion,
    which: str,
    cause: str,
    words: str,
    authority: Authority,
    ours: Issued,
    tmp_path: Path,
) -> None:
    signer = Authority(tmp_path, "stranger") if which == "stranger" else authority
    since_days, days = {"expired": (-9, -1), "future": (1, 9)}.get(which, (-1, 9))
    issued = signer.issue(which, since_days=since_days, days=days) if which != "none" else None
    context = client_context(authority, issued)
    context.minimum_version = context.maximum_version = version
    with listening(a_port(TlsMode.MUTUAL, as_files(ours, authority))) as receiver:
        shake_hands(receiver, context)
        assert words in refusal(receiver, cause)


def test_a_device_that_does_not_know_our_authority_says_so(authority: Authority, ours: Issued, tmp_path: Path) -> None:
    context = client_context(Authority(tmp_path, "another"))
    with listening(a_port(TlsMode.ON, as_files(ours, authority))) as receiver:
        shake_hands(receiver, context)
        assert "does not know who signed" in refusal(receiver, "our_certificate_unknown")


def test_who_speaks_no_tls_is_told_and_probes_are_not(authority: Authority, ours: Issued) -> None:
    with listening(a_port(TlsMode.ON, as_files(ours, authority))) as receiver:
        for _ in range(3):
            receiver.connect().close()
        receiver.until(lambda: receiver.ends("closed_before_asking") == 3)
        silent = receiver.connect()
        receiver.until(lambda: receiver.ends("silent") == 1)
        silent.close()
        assert receiver.telemetry.events == []
        with receiver.connect() as plain:
            plain.sendall(pdus.associate_rq())
            assert "plain --port" in refusal(receiver, "not_tls")


def test_who_leaves_in_the_middle_of_a_handshake_is_told(authority: Authority, ours: Issued) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = client_context(authority).wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    with listening(a_port(TlsMode.ON, as_files(ours, authority))) as receiver:
        with receiver.connect() as connected:
            connected.sendall(outgoing.read())
            assert connected.recv(100)
        assert "know the CA" in refusal(receiver, "left")


def test_new_credentials_are_for_new_connections_and_bad_ones_change_nothing(
    authority: Authority, tmp_path: Path
) -> None:
    first, second = authority.issue("first", days=100), authority.issue("second", days=200)
    certificate, key = tmp_path / "current.crt", tmp_path / "current.key"
    telemetry = FakeTelemetry()

    def put(issued: Issued) -> None:
        certificate.write_text(issued.certificate)
        key.write_text(issued.key)

    put(first)
    port = a_port(TlsMode.ON, Credentials(certificate=str(certificate), key=str(key)), telemetry)

    with listening(port) as receiver:

        def open_one() -> ssl.SSLSocket:
            wrapped = client_context(authority).wrap_socket(receiver.connect(), server_hostname="127.0.0.1")
            wrapped.sendall(pdus.associate_rq())
            assert read_pdu(wrapped)[0] == 2
            return wrapped

        before = open_one()
        put(second)
        assert port.reload()
        after = open_one()
        assert before.getpeercert(binary_form=True) != after.getpeercert(binary_form=True)
        key.write_text("nothing of use")
        assert not port.reload()
        key.unlink()
        assert not port.reload()
        still = open_one()
        assert after.getpeercert(binary_form=True) == still.getpeercert(binary_form=True)
        for connected in (before, after, still):
            release(connected)
    assert [name for name, _ in telemetry.events] == ["tls.reloaded", "tls.reload_failed", "tls.reload_failed"]
    assert "PEM" in telemetry.events[1][1]["problem"]
    assert f"{key}: No such file" in telemetry.events[2][1]["problem"]


@pytest.mark.parametrize(
    "days,events", [(40, []), (29.5, ["tls.certificate_expiring"]), (-0.5, ["tls.certificate_expired"])]
)
def test_a_certificate_that_ends_soon_is_told(authority: Authority, days: float, events: list[str]) -> None:
    telemetry = FakeTelemetry()
    issued = authority.issue("ending", since_days=-9, days=days)
    port = a_port(TlsMode.ON, as_files(issued, authority), telemetry)
    port.warn()
    assert events == [name for name, _ in telemetry.events]
    expected = datetime.now(UTC) + timedelta(days=days)
    assert abs(port.expires_at - expected) < timedelta(seconds=60)


def test_the_end_of_a_certificate_is_read_in_both_forms(authority: Authority) -> None:
    assert not_after(authority.issue("long", days=365 * 40).certificate).year > 2060  # generalized time
    assert not_after("text before\n" + authority.pem).year < 2050  # UTC time


def test_credentials_that_cannot_be_used_are_told_at_once(authority: Authority, ours: Issued, tmp_path: Path) -> None:
    other = authority.issue("other")
    certificate, key, missing = str(ours.certificate_file), str(ours.key_file), str(tmp_path / "missing.pem")
    binary = tmp_path / "binary.pem"
    binary.write_bytes(os.urandom(500) + b"\xff")
    private = serialization.load_pem_private_key(ours.key.encode(), None)
    assert isinstance(private, rsa.RSAPrivateKey)
    encrypted = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    ).decode()
    for mode, credentials, words in (
        (TlsMode.ON, Credentials(certificate=missing, key=key), "--tls-certificate cannot be read: .*No such file"),
        (TlsMode.ON, Credentials(certificate=certificate, key=missing), "--tls-key cannot be read: .*No such file"),
        (TlsMode.ON, Credentials(certificate=str(binary), key=key), "is no PEM file"),
        (TlsMode.ON, Credentials(certificate=certificate, key=other.key), "the key is not that of the certificate"),
        (TlsMode.ON, Credentials(certificate=certificate, key=encrypted), "encrypted"),
        (TlsMode.ON, Credentials(certificate=key, key=certificate), "no certificate and key in PEM"),
        (TlsMode.MUTUAL, Credentials(certificate=certificate, key=key, authority=missing), "--tls-ca cannot be read"),
        (TlsMode.MUTUAL, Credentials(certificate=certificate, key=key, authority=key), "--tls-ca cannot be used"),
    ):
        with pytest.raises(NotPossible, match=words):
            a_port(mode, credentials)


def test_plain_associations_go_on_beside_tls_that_nobody_can_use(authority: Authority, ours: Issued) -> None:
    with listening(a_port(TlsMode.MUTUAL, as_files(ours, authority))) as receiver:
        receiver.port = receiver.server.addresses[1][1]
        release(associate(receiver))
