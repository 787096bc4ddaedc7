"""A receiver in a process of its own, as it is operated: health, metrics, certificates, stopping under load."""

import http.client
import resource
import shutil
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.integration.test_receiver_server import read_pdu, read_status, release, status_of, store
from tests.serving import PATIENCE_SECONDS, Serving, run_command, store_until_cut
from tests.unit.inbound import pdus

pytestmark = pytest.mark.slow


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def serving(tmp_path: Path, authority: Authority) -> Iterator[Serving]:
    issued = authority.issue("receiver", days=20)
    settings = {
        "health_port": str(free_port()),
        "tls": "mutual",
        "tls_port": "0",
        "tls_certificate": str(issued.certificate_file),
        "tls_key": str(issued.key_file),
        "tls_ca": str(authority.file),
        "grace_seconds": "60",
    }
    with Serving(tmp_path / "data", settings) as one:
        yield one


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(serving: Serving, path: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", int(serving.settings["health_port"]), timeout=60)) as asked:
        asked.request("GET", path)
        answer = asked.getresponse()
        return answer.status, answer.read().decode()


def until(claim: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def until_metrics_say(serving: Serving, *expected: str) -> None:
    """Wait for what is counted just after the answer that the sender saw."""
    until(lambda: set(expected) <= set(get(serving, "/metrics")[1].splitlines()))


def named(serving: Serving, name: str) -> list[dict[str, object]]:
    return [event for event in serving.events() if event["event"] == name]


def plain(serving: Serving) -> socket.socket:
    connected = socket.create_connection(("127.0.0.1", serving.port), timeout=60)
    connected.sendall(pdus.associate_rq())
    assert read_pdu(connected)[0] == 2
    return connected


def with_tls(serving: Serving, authority: Authority) -> ssl.SSLSocket:
    modality = authority.issue("modality")
    context = ssl.create_default_context(cafile=str(authority.file))
    context.load_cert_chain(modality.certificate_file, modality.key_file)
    port = named(serving, "receiver.listening")[0]["tls_port"]
    assert isinstance(port, int)
    connected = context.wrap_socket(
        socket.create_connection(("127.0.0.1", port), timeout=60), server_hostname="127.0.0.1"
    )
    connected.sendall(pdus.associate_rq())
    assert read_pdu(connected)[0] == 2
    return connected


def test_both_ports_are_drained_together_while_health_tells(serving: Serving, authority: Authority) -> None:
    assert get(serving, "/livez") == (200, "ok\n")
    assert get(serving, "/readyz") == (200, "ok\n")
    first, second = plain(serving), with_tls(serving, authority)
    for number, connected in enumerate((first, second)):
        connected.sendall(store(f"1.2.{number}"))
        assert status_of(read_status(connected)) == 0
    until_metrics_say(
        serving,
        "storescp_instances_total 2.0",
        "storescp_associations_open 2.0",
        'storescp_c_store_answers_total{status="0x0000"} 2.0',
        "storescp_stores_in_flight 0.0",
    )

    serving.process.send_signal(signal.SIGTERM)
    until(lambda: get(serving, "/readyz") == (503, "the receiver is stopping\n"))
    assert get(serving, "/livez")[0] == 200
    assert "storescp_ready 0.0" in get(serving, "/metrics")[1].splitlines()
    for number, connected in enumerate((first, second)):
        connected.sendall(store(f"1.3.{number}"))
        assert status_of(read_status(connected)) == 0
        release(connected)
    assert serving.process.wait(60) == 0
    assert not named(serving, "association.aborted")
    (expiring,) = named(serving, "tls.certificate_expiring")
    assert expiring["level"] == "warning"


def test_sighup_reads_the_certificate_anew_and_drops_no_association(serving: Serving, authority: Authority) -> None:
    before = with_tls(serving, authority)
    renewed = authority.issue("renewed", days=300)
    Path(serving.settings["tls_certificate"]).write_text(renewed.certificate)
    serving.process.send_signal(signal.SIGHUP)  # the key is not there yet
    until(lambda: len(named(serving, "tls.reload_failed")) == 1)
    Path(serving.settings["tls_key"]).write_text(renewed.key)
    serving.process.send_signal(signal.SIGHUP)
    until(lambda: len(named(serving, "tls.reloaded")) == 1)
    after = with_tls(serving, authority)
    assert before.getpeercert(binary_form=True) != after.getpeercert(binary_form=True)
    for connected in (before, after):
        release(connected)
    assert serving.stop() == 0


def test_sigterm_under_load_of_eight_clients_aborts_none_and_loses_nothing(serving: Serving) -> None:
    acknowledged: list[list[str]] = [[] for _ in range(8)]
    clients = [
        threading.Thread(target=store_until_cut, args=(serving.port, range(number * 1000, number * 1000 + 150), noted))
        for number, noted in enumerate(acknowledged)
    ]
    for client in clients:
        client.start()
    until(lambda: all(len(noted) > 20 for noted in acknowledged))
    assert any(len(noted) < 150 for noted in acknowledged), "stopped too late to prove anything"
    assert serving.stop() == 0
    for client in clients:
        client.join()
    assert [len(noted) for noted in acknowledged] == [150] * 8  # every association went on to its end
    ends = [event["event"] for event in serving.events() if event["event"].startswith("association.")]
    assert ends.count("association.released") == 8
    assert not {"association.aborted", "association.lost", "association.failed"} & set(ends)

    with serving:
        status = serving.settled(8 * 150)
        imported = {
            instance["sop_instance_uid"]
            for study in status["studies"]
            for instance in serving.json("study", study["study_instance_uid"])["instances"]
            if instance["state"] == "imported"
        }
        assert imported == {uid for noted in acknowledged for uid in noted}
        assert serving.stop() == 0


@contextmanager
def open_files_allowed(number: int) -> Iterator[int]:
    """Let this process, and those that it starts, have so many files open at first; yield what they may ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_receiver_lets_itself_have_as_many_files_open_as_it_may(tmp_path: Path) -> None:
    with open_files_allowed(512) as hard, Serving(tmp_path / "data") as serving:
        allowed = resource.prlimit(serving.process.pid, resource.RLIMIT_NOFILE)
    assert (65_536 if hard == resource.RLIM_INFINITY else min(65_536, hard), hard) == allowed


def test_a_second_ctrl_c_ends_the_grace_period(tmp_path: Path) -> None:
    with Serving(tmp_path / "data", {"grace_seconds": "3600"}) as serving, plain(serving):
        serving.process.send_signal(signal.SIGINT)
        until(lambda: len(named(serving, "receiver.draining")) == 1)
        assert named(serving, "receiver.draining")[0]["associations"] == 1
        assert serving.stop(signal.SIGINT) == 0
        assert [event["event"] for event in serving.events()][-2:] == ["association.aborted", "receiver.stopped"]


def test_a_receiver_whose_data_folder_was_removed_ends_with_words(tmp_path: Path) -> None:
    with Serving(tmp_path / "data") as serving:
        shutil.rmtree(serving.data_dir)
        assert serving.process.wait(PATIENCE_SECONDS) == 1
        assert "was removed or replaced while in use" in serving.log.read_text().splitlines()[-1]
    with serving:  # started again, it makes a new one
        assert serving.data_dir.is_dir()
        assert serving.stop() == 0


def test_a_data_folder_that_cannot_be_used_is_told_with_the_remedy(tmp_path: Path) -> None:
    file, broken, foreign = tmp_path / "file", tmp_path / "broken", tmp_path / "foreign"
    file.touch()
    for folder in (broken, foreign):
        folder.mkdir()
    broken.joinpath("locks").touch()
    for folder in (file, broken):
        done = run_command("serve", f"--data-dir={folder}", "--port=0")
        assert done.returncode == 1
        assert f"data folder {folder} cannot be used" in done.stderr
        assert "choose another --data-dir" in done.stderr
    done = run_command("status", f"--data-dir={foreign}")
    assert (done.returncode, list(foreign.iterdir())) == (1, [])  # a question leaves nothing behind
    assert f"{foreign} is no data folder of a receiver" in done.stderr


def test_an_address_that_cannot_be_listened_on_is_told_with_the_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_command("serve", f"--data-dir={tmp_path / 'a'}", "--host=127.0.0.1", f"--port={port}")
    assert done.returncode == 1
    assert "stop what uses it, or choose another --port" in done.stderr
    done = run_command("serve", f"--data-dir={tmp_path / 'b'}", "--host=192.0.2.1", "--port=0")
    assert done.returncode == 1
    assert "--host must be an address of this machine" in done.stderr


def test_settings_that_contradict_each_other_are_all_named(tmp_path: Path) -> None:
    done = run_command("serve", f"--data-dir={tmp_path}", "--tls=mutual", "--temporary-space=1 GB", "--port=x")
    assert done.returncode == 2
    for words in (
        "--port is 'x'",
        "--tls-certificate is not set",
        "--tls-key is not set",
        "--tls-ca is not set",
        "--temporary-space",
    ):
        assert words in done.stderr
    done = run_command("serve", f"--data-dir={tmp_path}", "--plain=false")
    assert done.returncode == 2
    assert "nothing would be listened on" in done.stderr


def test_credentials_that_cannot_be_used_end_it_with_words(tmp_path: Path) -> None:
    done = run_command(
        "serve", f"--data-dir={tmp_path}", "--port=0", "--tls=on", "--tls-certificate=/no/such", "--tls-key=/none"
    )
    assert done.returncode == 1
    assert "--tls-certificate cannot be read" in done.stderr


def test_a_disk_without_room_refuses_associations_with_the_remedy(tmp_path: Path) -> None:
    with Serving(tmp_path / "data", {"minimum_free_space": "1000000 GB", "health_port": str(free_port())}) as serving:
        with socket.create_connection(("127.0.0.1", serving.port), timeout=60) as connected:
            connected.sendall(pdus.associate_rq())
            assert read_pdu(connected) == (3, b"\0\2\3\1")
        until(lambda: len(named(serving, "association.rejected")) == 1)
        assert "--minimum-free-space" in str(named(serving, "association.rejected")[0]["explanation"])
        status, text = get(serving, "/readyz")
        assert status == 503
        assert "--minimum-free-space" in text
        until_metrics_say(serving, 'storescp_rejections_total{code="2,3,1"} 1.0')
        assert serving.stop() == 0
