"""`echo` and `send` as a person types them, on a made-up receiver."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.inbound.cli import CommandLine, FakeAnswer, FakeFile, FakeScu


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.dcm"
    path.touch()
    return path


def test_echo_tells_that_the_receiver_answers() -> None:
    line = CommandLine()
    result = line.run("echo", "pacs", "104", "--called-ae-title", "PACS", "--timeout", "5")
    assert (result.exit_code, result.stdout) == (0, "pacs port 104 answers as PACS (0.25 s)\n")
    assert {name: str(value) for name, value in line.scu.opened.items()} == {
        "host": "pacs",
        "port": "104",
        "called": "PACS",
        "calling": "AHISEND",
        "timeout_seconds": "5.0",
    }


def test_echo_without_an_answer_ends_with_1_and_says_why() -> None:
    line = CommandLine(scu=FakeScu(answer=FakeAnswer(status=None, problem="pacs refuses connections to port 104")))
    result = line.run("echo", "pacs", "104")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "refuses connections" in result.stderr
    shown = line.json("echo", "pacs", "104")
    assert (shown["is_answered"], shown["problem"]) == (False, "pacs refuses connections to port 104")


@pytest.mark.parametrize("arguments", [("pacs", "0"), ("pacs", "dicom"), ("pacs",), ("pacs", "104", "--timeout", "0")])
def test_echo_with_a_wrong_argument_ends_with_2(arguments: tuple[str, ...]) -> None:
    assert CommandLine().run("echo", *arguments).exit_code == 2


def test_an_ae_title_that_cannot_be_one_ends_with_2() -> None:
    result = CommandLine().run("echo", "pacs", "104", "--calling-ae-title", "SEVENTEEN_LETTERS")
    assert result.exit_code == 2
    assert "SEVENTEEN_LETTERS" in result.stderr


def test_send_that_is_stopped_still_tells_what_was_sent(image: Path) -> None:
    class Stopped(FakeScu):
        def send(self) -> Iterator[FakeFile]:
            yield self.files[0]
            raise KeyboardInterrupt

    scu = Stopped(files=[FakeFile(path=Path("a.dcm")), FakeFile(path=Path("b.dcm"))])
    result = CommandLine(scu=scu).run("send", "pacs", "104", str(image))
    assert result.exit_code == 130
    assert "    1   stored    0x0000\n" in result.stdout
    assert result.stderr.endswith("ahi-storescp: stopped\n")


def test_send_of_nothing_prints_no_empty_table(image: Path) -> None:
    result = CommandLine(scu=FakeScu()).run("send", "pacs", "104", str(image))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no DICOM file to send" in result.stderr


def test_send_sums_up_by_status_and_lists_what_was_skipped(image: Path) -> None:
    scu = FakeScu(
        files=[FakeFile(path=Path("a.dcm")), FakeFile(path=Path("b.dcm"))],
        skipped=[FakeFile(path=Path("README.txt"), reason="not a DICOM file")],
    )
    result = CommandLine(scu=scu).run("send", "pacs", "104", str(image))
    assert result.exit_code == 0
    assert "    2   stored    0x0000\n" in result.stdout
    assert "README.txt" in result.stdout
    assert "not a DICOM file" in result.stdout


def test_send_ends_with_1_when_anything_was_refused_or_not_sent(image: Path) -> None:
    scu = FakeScu(
        files=[
            FakeFile(path=Path("a.dcm")),
            FakeFile(path=Path("b.dcm"), outcome="refused", status=0xA700, comment="out of resources: \x1b[2Jfull"),
            FakeFile(path=Path("c.dcm"), outcome="not sent", status=None, comment="the association was lost"),
            FakeFile(path=Path("d.dcm"), outcome="warning", status=0xB000, comment="some elements were changed"),
        ]
    )
    line = CommandLine(scu=scu)
    result = line.run("send", "pacs", "104", str(image))
    assert result.exit_code == 1
    assert "0xA700" in result.stdout
    assert r"\x1b[2Jfull" in result.stdout
    assert "not stored: 2 of 4 files; out of resources" in result.stderr
    shown = line.json("send", "pacs", "104", str(image))
    assert shown["totals"] == {"stored": 1, "warning": 1, "refused": 1, "not_sent": 1, "skipped": 0}
    assert [file["status"] for file in shown["files"]] == ["0x0000", "0xA700", None, "0xB000"]


def test_send_of_nothing_ends_with_1(image: Path) -> None:
    result = CommandLine().run("send", "pacs", "104", str(image))
    assert result.exit_code == 1
    assert "no DICOM file to send" in result.stderr


def test_send_of_a_path_that_is_not_there_ends_with_2() -> None:
    result = CommandLine().run("send", "pacs", "104", "/no/such/file")
    assert result.exit_code == 2
    assert "/no/such/file" in result.stderr
