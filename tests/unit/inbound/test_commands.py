"""The commands that ask and mend: what they print, in which form, and how they end."""

import sys
from io import StringIO

import attrs
import pytest

from adapters.inbound import screen as screens
from adapters.inbound.screen import Cell, Column, Screen, clean
from domain.batch import Batch, CloseReason
from domain.errors import MetadataUnavailable, NotPossible
from domain.lifecycle import BatchState, InstanceState
from tests.builders import STUDY, a_batch, a_batch_id, a_key, a_moment, a_record, a_study, a_uid, an_image_set
from tests.unit.inbound.cli import CommandLine, FakeApplication, a_failed_batch

ALL_COMMANDS = [
    "serve",
    "settings",
    "status",
    "studies",
    "study",
    "instance",
    "batches",
    "batch",
    "failures",
    "retry",
    "recover",
    "reconcile",
    "echo",
    "send",
]


@pytest.fixture
def application() -> FakeApplication:
    """One study: imported, failed and superseded instances in a settled batch, one more in a failed batch."""
    application = FakeApplication()
    settled = attrs.evolve(a_batch(1), state=BatchState.SETTLED, settled_at=a_moment(60))
    application.add(
        settled,
        a_record(1, state=InstanceState.IMPORTED, warnings=("frame count differs",)),
        a_record(2, state=InstanceState.FAILED),
        a_record(3, state=InstanceState.SUPERSEDED, conflict="a newer copy with other bytes is elsewhere"),
        study=a_study(patient_name="山田^太郎", patient_id="P-1"),
    )
    application.add(a_failed_batch(2), a_record(4))
    return application


@pytest.fixture
def line(application: FakeApplication) -> CommandLine:
    return CommandLine(application=application)


def test_status_json_has_the_keys_that_programs_rely_on(line: CommandLine) -> None:
    shown = line.json("status")
    assert shown["totals"].keys() == {"received", "imported", "failed", "pending", "bytes"}
    assert shown["batches"] == {"open": 0, "closed": 0, "submitted": 0, "importing": 0, "settled": 1, "failed": 1}
    (study,) = shown["studies"]
    assert study["study_instance_uid"] == STUDY.value
    assert (study["received"], study["imported"], study["failed"]) == (3, 1, 2)  # a superseded copy counts elsewhere
    assert study["state"] == "failed"
    assert study["first_received"] == "2025-03-14T09:30:01.000Z"
    assert study["last_received"].endswith("Z")
    assert all(isinstance(value, int) for value in shown["totals"].values())
    assert "patient_name" not in study


def test_status_for_people_names_what_to_look_at_next(line: CommandLine) -> None:
    result = line.run("status")
    assert result.exit_code == 0
    assert STUDY.value in result.stdout
    assert "ahi-storescp failures" in result.stdout
    assert result.stderr == ""
    assert line.application.is_closed


def test_status_of_nothing_says_so() -> None:
    result = CommandLine().run("status")
    assert result.exit_code == 0
    assert "No study was received" in result.stdout


@pytest.mark.parametrize(
    "since, count",
    [("7d", 1), ("60m", 1), ("59m", 0), ("1h", 1), ("2025-03-14T09:30:00Z", 1), ("2025-03-14T18:31:00+09:00", 0)],
)
def test_since_is_an_age_or_a_time(line: CommandLine, since: str, count: int) -> None:
    assert len(line.json("studies", "--since", since)) == count


@pytest.mark.parametrize("since", ["soon", "7", "d", "7y", "2026-13-01", "99999999999w", ""])
def test_since_that_is_neither_is_wrong_use(line: CommandLine, since: str) -> None:
    result = line.run("status", "--since", since)
    assert result.exit_code == 2
    assert "an age such as 7d" in result.stderr


def test_study_shows_every_instance_and_a_japanese_name(line: CommandLine) -> None:
    result = line.run("study", STUDY.value)
    assert result.exit_code == 0
    assert "山田^太郎" in result.stdout
    for number in (1, 2, 3, 4):
        assert a_uid(number).value in result.stdout
    assert "ValidationException" in result.stdout
    assert "frame count differs" in result.stdout


def test_a_study_in_conflict_names_where_the_reasons_are(line: CommandLine) -> None:
    assert "ahi-storescp failures --conflicts" in line.run("study", STUDY.value).stdout


def test_study_json_holds_the_instances(line: CommandLine) -> None:
    shown = line.json("study", STUDY.value)
    assert shown["patient_name"] == "山田^太郎"
    imported = shown["instances"][0]
    assert imported["state"] == "imported"
    assert imported["image_set_id"] == an_image_set().value
    assert (imported["image_set_version"], imported["is_primary"]) == (1, True)
    assert imported["warnings"] == ["frame count differs"]
    assert imported["batch"] == a_batch_id(1).value
    assert shown["instances"][3]["reason"] == "import job failed: no access"


def test_an_instance_is_shown_with_all_that_is_known(line: CommandLine) -> None:
    result = line.run("instance", a_uid(1).value)
    assert result.exit_code == 0
    assert "MODALITY" in result.stdout
    (shown,) = line.json("instance", a_uid(1).value)
    assert shown["calling_ae_title"] == "MODALITY"


def test_batches_and_one_batch(line: CommandLine) -> None:
    assert {shown["state"] for shown in line.json("batches")} == {"settled", "failed"}
    assert "no access" in line.run("batches").stdout
    assert len(line.json("batch", a_batch_id(1).value)["instances"]) == 3
    assert a_uid(3).value in line.run("batch", a_batch_id(1).value).stdout


def test_failures_json_has_null_uids_for_a_whole_batch(line: CommandLine) -> None:
    whole, single = line.json("failures")
    assert whole == {
        "sop_instance_uid": None,
        "study_instance_uid": None,
        "batch": a_batch_id(2).value,
        "reason": "import job failed: no access",
    }
    assert single["sop_instance_uid"] == a_uid(2).value
    assert single["study_instance_uid"] == STUDY.value


def test_failures_for_people_and_conflicts(line: CommandLine) -> None:
    assert "(the whole batch)" in line.run("failures").stdout
    (conflict,) = line.json("failures", "--conflicts")
    assert conflict["sop_instance_uid"] == a_uid(3).value
    assert "Nothing failed." in CommandLine().run("failures").stdout
    assert "Nothing is in conflict." in CommandLine().run("failures", "--conflicts").stdout


@pytest.mark.parametrize(
    "arguments", [("study", "1.2.3"), ("instance", "1.2.3"), ("batch", "nobody"), ("retry", "nobody")]
)
def test_what_nobody_knows_ends_with_1_and_pure_output(line: CommandLine, arguments: tuple[str, ...]) -> None:
    result = line.run(*arguments, "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert arguments[1] in result.stderr


@pytest.mark.parametrize(
    "arguments", [("study", "abc"), ("instance", ".."), ("batch", "../x"), ("retry", "a b"), ("status", "--no")]
)
def test_an_argument_that_cannot_be_right_ends_with_2(line: CommandLine, arguments: tuple[str, ...]) -> None:
    result = line.run(*arguments)
    assert result.exit_code == 2
    assert arguments[1] in result.stderr
    assert "--help" in result.stderr


def test_wrong_settings_end_with_2_and_name_each(line: CommandLine) -> None:
    result = line.run("status", "--profile", "cloud", "--log-level", "loud", "--data-dir", "")
    assert result.exit_code == 2
    assert "--data-dir is ''" in result.stderr
    assert "'cloud'" in result.stderr
    assert "'loud'" in result.stderr


def test_settings_given_as_options_reach_the_application(line: CommandLine) -> None:
    line.run("status", "--data-dir", "/srv/dicom")
    assert line.built_from == {"data_dir": "/srv/dicom"}


def test_a_store_that_is_away_ends_with_1(line: CommandLine) -> None:
    line.application.error = MetadataUnavailable("the table is locked; try again")
    result = line.run("status")
    assert (result.exit_code, result.stderr) == (1, "ahi-storescp: the table is locked; try again\n")


def test_a_bug_is_one_line_unless_everything_was_asked_for(line: CommandLine) -> None:
    line.application.error = ZeroDivisionError("oops")
    result = line.run("status")
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert "STORESCP_LOG_LEVEL=debug" in result.stderr
    assert "Traceback" in line.run("status", "--log-level", "debug").stderr
    line.environ = {"STORESCP_LOG_LEVEL": "debug"}
    assert "Traceback" in line.run("status").stderr


def test_ctrl_c_is_told_without_a_traceback(line: CommandLine) -> None:
    line.application.error = KeyboardInterrupt()  # type: ignore[assignment]  # raised as it is
    result = line.run("status")
    assert (result.exit_code, result.stderr.strip().splitlines()[-1]) == (130, "ahi-storescp: stopped")


def test_retry_leaves_the_work_to_a_running_receiver(line: CommandLine) -> None:
    result = line.run("retry", a_batch_id(2).value)
    assert result.exit_code == 0
    assert "on its way again" in result.stdout


def _settle(batch: Batch) -> Batch:
    return attrs.evolve(batch, state=BatchState.SETTLED, revision=batch.revision + 1)


def test_retry_that_fails_again_ends_with_1(line: CommandLine) -> None:
    line.application.carry = lambda batch: batch.failed("still no access")
    result = line.run("retry", a_batch_id(2).value)
    assert result.exit_code == 1
    assert "still no access" in result.stderr


def test_retry_json_tells_how_many_failed_again(line: CommandLine) -> None:
    line.application.carry = _settle
    shown = line.json("retry", a_batch_id(1).value)
    assert (shown["state"], shown["failed"], shown["is_carried_elsewhere"]) == ("settled", 1, False)


def test_retry_of_what_did_not_fail_is_refused(line: CommandLine) -> None:
    line.application.metadata.add_batch(a_batch(5))
    result = line.run("retry", a_batch_id(5).value)
    assert result.exit_code == 1
    assert "only failed work can be retried" in result.stderr


def test_recover_tells_what_it_did(line: CommandLine) -> None:
    line.application.metadata.add_batch(a_batch(5))
    line.application.carry = _settle
    shown = line.json("recover")
    assert (shown["closed"], shown["started"], shown["restarted"], shown["failed"]) == (1, 1, 0, 0)
    assert [batch["state"] for batch in shown["carried"]] == ["settled"]
    assert "0 abandoned batches closed" in line.run("recover").stdout


def test_recover_ends_with_1_when_what_it_carried_failed(line: CommandLine) -> None:
    batch = a_batch(6).closed(a_moment(7), CloseReason.QUIET)
    line.application.add(batch, a_record(6))
    line.application.carry = lambda batch: batch.failed("no access")
    result = line.run("recover")
    assert result.exit_code == 1
    assert "not imported: 1 instance;" in result.stderr


def test_reconcile_tells_what_it_did(line: CommandLine) -> None:
    assert line.json("reconcile") == {"batches": 3, "rebuilt": 2, "rehoused": 1, "carried": None, "failed": 0}
    assert "3 batches looked at, 2 rebuilt, 1 images rehoused" in line.run("reconcile").stdout


def test_serve_prints_the_line_that_sends_a_first_image(line: CommandLine) -> None:
    result = line.run("serve", "--port", "0", "--require-called-ae-title", "--store-patient-identity=false")
    assert result.exit_code == 0
    assert "storescu -aec 'STORE SCP' localhost 4242 image.dcm" in result.stdout
    assert line.built_from == {"port": "0", "require_called_ae_title": "true", "store_patient_identity": "false"}


def test_serve_with_tls_alone_prints_no_line_that_would_fail(line: CommandLine) -> None:
    line.application.listening = attrs.evolve(line.application.listening, is_plain=False)
    result = line.run("serve")
    assert "storescu" not in result.stdout
    assert "docs/operations.md" in result.stdout


def test_serve_that_cannot_start_ends_with_1(line: CommandLine) -> None:
    line.application.error = NotPossible("cannot listen on 0.0.0.0 port 104: Permission denied")
    assert line.run("serve").exit_code == 1


def test_settings_show_value_and_origin(line: CommandLine) -> None:
    line.environ = {"STORESCP_PORT": "104"}
    result = line.run("settings", "--ae-title", "CT")
    assert result.exit_code == 0
    rows = {row.split()[0]: row for row in result.stdout.splitlines() if row.startswith("--")}
    assert ("104" in rows["--port"], "variable" in rows["--port"]) == (True, True)
    assert "option" in rows["--ae-title"]
    assert "default" in rows["--host"]


def test_settings_that_are_wrong_are_shown_and_end_with_2(line: CommandLine) -> None:
    line.environ = {"STORESCP_PROFILE": "aws", "STORESCP_PRT": "104"}
    result = line.run("settings", "--port", "99999", "--json")
    assert result.exit_code == 2
    shown = line.json("settings", "--port", "99999")
    by_name = {setting["name"]: setting for setting in shown["settings"]}
    assert by_name["region"]["origin"] == "missing"
    assert "99999" in by_name["port"]["problem"]
    assert by_name["host"]["problem"] is None
    assert any("STORESCP_PRT" in problem for problem in shown["problems"])
    assert "99999" in line.run("settings", "--port", "99999").stdout


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_every_command_has_help_with_an_example(line: CommandLine, command: str) -> None:
    result = line.run(command, "--help")
    assert result.exit_code == 0
    assert f"  ahi-storescp {command}" in result.stdout.partition("Examples:")[2]


def test_no_command_is_missing_from_these_tests(line: CommandLine) -> None:
    shown = line.run("--help").stdout.partition("Commands:")[2].partition("Start here")[0]
    assert [row.split()[0] for row in shown.splitlines() if row.strip()] == ALL_COMMANDS


def test_serve_help_has_the_settings_of_aws_apart(line: CommandLine) -> None:
    general, _, aws = line.run("serve", "--help").stdout.partition("Settings of the profile aws:")
    assert "--batch-quiet-seconds" in general
    assert "--staging-bucket" in aws
    assert "--batch-quiet-seconds" not in line.run("status", "--help").stdout


def test_help_names_no_argument_without_saying_what_it_is(line: CommandLine) -> None:
    options = line.run("send", "--help").stdout.partition("Options:")[2].partition("Examples:")[0]
    names = [row.split()[0] for row in options.splitlines() if row[:3].strip()]
    assert names == ["--called-ae-title", "--calling-ae-title", "--timeout", "--json", "-h,"]


def test_no_command_at_all_shows_help_and_is_wrong_use(line: CommandLine) -> None:
    result = line.run()
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ahi-storescp")


def test_help_fits_80_columns(line: CommandLine) -> None:
    for arguments in ((), *((command,) for command in ALL_COMMANDS)):
        assert max(map(len, line.run(*arguments, "--help").stdout.splitlines())) <= 80, arguments


HOSTILE = "\x1b[31m[bold]red[/bold]\x9b2J\u202egnp.exe\r\n"


def test_nothing_from_outside_steers_the_terminal() -> None:
    application = FakeApplication()
    batch = a_failed_batch(1, reason=HOSTILE)
    record = a_record(1, state=InstanceState.FAILED, reason=HOSTILE)
    application.add(batch, record, study=a_study(description=HOSTILE, patient_name=HOSTILE, accession_number=HOSTILE))
    line = CommandLine(application=application)
    for arguments in (
        ("status",),
        ("studies",),
        ("study", STUDY.value),
        ("instance", a_uid(1).value),
        ("batches",),
        ("batch", batch.id.value),
        ("failures",),
        ("studies", "--json"),
        ("study", STUDY.value, "--json"),
    ):
        shown = line.run(*arguments).stdout
        assert not set(shown) & set("\x1b\x9b\u202e\r"), arguments
    assert r"\x1b[31m[bold]red[/bold]\x9b2J\u202egnp.exe" in line.run("failures").stdout


def test_cleaning_keeps_what_people_write() -> None:
    for text in ("山田^太郎=やまだ^たろう", "홍^길동", "Müller^Jürgen", "全角\u3000空白", "नमस्\u200dते"):
        assert clean(text) == text
    assert clean("a\tb\x7f\u2028\udc80") == r"a\tb\x7f\u2028\udc80"


class _Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def _on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, text: str, *, no_colour: bool = False) -> str:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_colour:
        monkeypatch.setenv("NO_COLOR", "1")
    Screen().table([Column("Name"), Column("UID")], [[Cell(text, "red"), "1.2.3"]])
    return terminal.getvalue()


def test_wide_characters_keep_the_columns_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", out := StringIO())
    Screen().table([Column("Name"), Column("UID")], [["山田^太郎", "1.2.3"], ["Smith^Joe", "4.5.6"]])
    wide, narrow = out.getvalue().splitlines()[-2:]
    assert narrow.index("4.5.6") == wide.index("1.2.3") + 4  # four characters of two columns each


def test_colours_appear_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[31mx" in _on_terminal(monkeypatch, 80, "x")
    assert "\x1b[31m" not in _on_terminal(monkeypatch, 80, "x", no_colour=True)


def test_what_does_not_fit_a_terminal_is_shown_row_by_row_and_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = _on_terminal(monkeypatch, 70, "1." * 31 + "1")
    assert "1." * 31 + "1" not in _on_terminal(monkeypatch, 30, "x")
    assert shown.count("\n") == 3  # name, UID, an empty line


def test_long_columns_go_below_their_row_and_are_never_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal := _Terminal())
    monkeypatch.setenv("TERM", "dumb")  # no colours, and 80 columns
    uid, batch = "1." * 31 + "12", "20261101T083000123Z-1f2e3d4c"
    columns = [Column("Batch"), Column("UID", is_long=True), Column("Why", wraps=True, is_long=True)]
    Screen().table(columns, [[batch, uid, "because " * 20], [batch, "1.2.3", ""]])
    head, uid_head, why_head, _, *lines = terminal.getvalue().splitlines()
    assert [head, uid_head, why_head] == ["Batch", "  UID", "  Why"]
    assert lines[:2] == [batch, f"  {uid}"]
    assert all(line.startswith("  because") and len(line) <= 80 for line in lines[2:-2])
    assert lines[-2:] == [batch, "  1.2.3"]


def test_long_columns_stay_beside_the_others_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal := _Terminal())
    monkeypatch.setenv("TERM", "dumb")
    Screen().table([Column("State"), Column("UID", is_long=True)], [["stored", "1.2.3"]])
    assert terminal.getvalue().splitlines()[-1] == "stored   1.2.3"


def test_a_pipe_gets_wide_uids_on_one_line(line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = a_key(7, study=attrs.evolve(STUDY, value="1." * 31 + "12"))
    line.application.add(
        attrs.evolve(a_batch(7), state=BatchState.SETTLED),
        a_record(7, study=wide.study, state=InstanceState.FAILED, reason="because " * 60),
        study=a_study(study=wide.study),
    )
    monkeypatch.setenv("COLUMNS", "40")
    row = next(row for row in line.run("failures").stdout.splitlines() if wide.study.value in row)
    assert row.endswith("because")


def test_a_reader_that_stops_reading_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    forgotten: list[object] = []
    monkeypatch.setattr(sys, "stdout", Broken())
    monkeypatch.setattr(screens, "_forget", forgotten.append)
    Screen().line("hello")
    assert len(forgotten) == 1
