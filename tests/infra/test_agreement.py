"""
Infrastructure and application agree: a real send, import, failure and retry on nothing but what the program made.

The judge in front of everything refuses what the policies do not allow, and every grant that the run never needed is
listed here with the reason why it is there all the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import attrs
import pytest
from moto.sns.models import sns_backends

from adapters.entrypoints.cli import declare
from adapters.entrypoints.simulated_aws import ACCOUNT
from adapters.inbound.commands import build_commands
from domain.errors import ImportRefused, StoreScpError
from domain.lifecycle import BatchState
from tests.infra.applying import Applied, Call, Denied, Judge, Role, applied, unused
from tests.infra.receiving import PATIENCE_SECONDS, receiving
from tests.serving import a_data_set
from tests.tools import require_tool

pytestmark = [pytest.mark.aws, pytest.mark.dcmtk, pytest.mark.slow, pytest.mark.timeout(600)]

STORESCU = "/usr/bin/storescu"
FIRST, SECOND = "2.25.9001", "2.25.9002"


@attrs.frozen
class Justified:
    """
    Grants that the run never needed, by patterns.

    """

    actors: str
    actions: str
    places: str
    reason: str

    def covers(self, grant: tuple[str, str, str]) -> bool:
        patterns = (self.actors, self.actions, self.places)
        return all(
            any(fnmatchcase(value, one) for one in pattern.split())
            for value, pattern in zip(grant, patterns, strict=True)
        )


MOVERS = "list-batch operator reconcile record-results"
JUSTIFIED = (
    Justified("*", "logs:CreateLogStream logs:PutLogEvents", "log-group:*", "ECS and Lambda write the log themselves"),
    Justified("*", "xray:*", "*", "Lambda and Step Functions send traces themselves"),
    Justified("import", "logs:*", "*", "Step Functions delivers its log itself, and asks for exactly these"),
    Justified("execution", "ecr:*", "*", "ECS fetches the image itself"),
    Justified("flows", "logs:*", "*", "the VPC writes its flow log itself"),
    Justified(
        "reconcile recover schedule", "sqs:SendMessage", "dead-letters", "what Lambda or a schedule cannot deliver"
    ),
    Justified("data-access", "s3:ListBucket", "results", "HealthImaging asks for it; the stand-in need not look"),
    Justified("receiver", "ecs:GetTaskProtection", "task/receiver/*", "ECS names both for its agent's endpoint"),
    Justified(
        f"receiver {MOVERS}", "s3:AbortMultipartUpload", "staging/*", "an object sent or copied in parts, given up"
    ),
    Justified(MOVERS, "s3:PutObject", "staging/superseded/*", "a correction overtakes its original"),
    Justified("operator record-results", "s3:PutObject", "staging/batches/*", "objects that came late are rehoused"),
    Justified("operator", "s3:DeleteObject", "staging/batches/*", "the same, once they are copied"),
    Justified(
        "operator receiver record-results",
        "s3:GetObject",
        "staging/batches/*",
        "a copy's source; facts of objects that no listing named, for a commitment or after an import",
    ),
    Justified("list-batch record-results", "s3:ListBucket", "results", "without it S3 calls what is missing forbidden"),
    Justified("receiver", "s3:ListBucket", "staging", "storage commitment looks for what is not listed yet"),
    Justified("operator reconcile", "s3:GetObject", "results/*", "the table is rebuilt from results"),
    Justified(
        "operator reconcile", "dynamodb:BatchGetItem dynamodb:BatchWriteItem dynamodb:UpdateItem", "table/*", "the same"
    ),
    Justified("receiver", "dynamodb:BatchGetItem dynamodb:Query", "table/metadata", "storage commitment is looked up"),
    Justified("receiver", "dynamodb:BatchWriteItem", "table/metadata", "old commitment requests are deleted, hourly"),
    Justified("list-batch", "dynamodb:ConditionCheckItem", "table/metadata", "another batch has the same instances"),
    Justified("follow-import", "dynamodb:PutItem", "table/metadata", "a job that is seen running, or failed"),
    Justified("recover", "dynamodb:PutItem", "table/metadata", "an abandoned batch is closed, a dead run repeated"),
    Justified("operator", "states:DescribeExecution", "execution:import:*", "`recover` of a batch that is on its way"),
    Justified("record-results", "states:StartExecution", "stateMachine:import", "what was rehoused is imported"),
    Justified(
        "fail-batch follow-import list-batch operator record-results recover start-import",
        "kms:GenerateDataKey",
        "key",
        "AWS names it for who writes to a table with a customer's key; the judge asks for kms:Decrypt only",
    ),
    Justified("start-import", "medical-imaging:ListDICOMImportJobs", "datastore/ours", "a start whose answer was lost"),
)


@attrs.define
class Story:
    """What happened in the run."""

    made: Applied
    folder: Path
    livez: int = 0
    sent: list[int] = attrs.field(factory=list)
    exits: list[int | None] = attrs.field(factory=list)
    executions: list[dict[str, str]] = attrs.field(factory=list)
    woken: dict[str, Any] = attrs.field(factory=dict)
    told: dict[str, Any] = attrs.field(factory=dict)
    at_last: dict[str, Any] = attrs.field(factory=dict)

    def ask(self, *commands: str) -> None:
        """Run commands beside each other and keep what they tell, by the first word of each."""
        with ThreadPoolExecutor(len(commands)) as pool:
            names = [command.split()[0] for command in commands]
            self.told.update(zip(names, pool.map(self.command, commands), strict=True))

    def command(self, words: str) -> Any:
        """Run a command as an operator does: the settings file read by a shell, and a person's credentials."""
        done = subprocess.run(
            ["sh", "-euc", f'. ./settings.env && exec "$PYTHON" -m adapters.entrypoints.cli {words} --json'],
            cwd=self.folder,
            env={"PYTHON": sys.executable, "PATH": os.defpath, **self.made.operator_environment()},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, (words, done.stderr, self.made.judge.denied)
        return json.loads(done.stdout)

    @contextmanager
    def receiver(self) -> Iterator[int]:
        """Run the receiver, and give its port; it is told to stop."""
        with receiving(self.made, self.folder) as run:
            yield run.port
        self.livez = run.livez
        self.exits.append(run.exit_code)

    def images(self, study: str, numbers: range) -> list[str]:
        files = [str(self.folder / f"{number}.dcm") for number in numbers]
        for number, file in zip(numbers, files, strict=True):
            a_data_set(number, study=study, series=f"{study}.1", size=128).save_as(file, enforce_file_format=True)
        return files

    def send(self, port: int, files: list[str]) -> None:
        """Store images with DCMTK, as the modality that the stack lets in."""
        title = self.made.deployed.outputs["DICOMAETitle"]
        words = [require_tool(STORESCU), "-aet", "US1", "-aec", title, "127.0.0.1", str(port), *files]
        done = subprocess.run(words, check=False, capture_output=True, timeout=PATIENCE_SECONDS)
        self.sent.append(done.returncode)


def _tell(story: Story) -> None:
    """Live through an import, a failed one, its retry, and the repairs."""
    made = story.made
    as_modality = f"--called-ae-title {made.deployed.outputs['DICOMAETitle']} --calling-ae-title US1"
    with story.receiver() as port:
        _hold_until_protected(story, port)
        story.send(port, story.images(FIRST, range(3)))
        story.ask("settings", f"echo 127.0.0.1 {port} {as_modality}")
    story.executions.append(made.executions())
    # Step Functions is away when the second batch is closed, and its import fails for good once
    made.judge.outages.add("states:StartExecution")
    with story.receiver() as port:
        story.send(port, story.images(SECOND, range(3, 4)))
        story.ask(f"send 127.0.0.1 {port} {as_modality} {' '.join(story.images(SECOND, range(4, 5)))}")
    made.judge.outages.clear()
    _leave_behind(story)
    made.instead["follow_import"] = _refuse
    story.woken["recover"] = made.wake("recover")
    story.executions.append(made.executions())
    story.ask("status", "batches", "failures")
    (failed,) = (batch["batch"] for batch in story.told["batches"] if batch["state"] == BatchState.FAILED)
    story.ask(f"retry {failed}")
    story.executions.append(made.executions())
    story.woken["reconcile"] = made.wake("reconcile")
    story.executions.append(made.executions())
    story.ask("recover", "reconcile")
    story.ask("studies", f"study {FIRST}", f"batch {failed}", "instance 2.25.7100.4")
    story.at_last = story.command("status")


def _refuse(_event: object, _context: object) -> None:
    raise ImportRefused("closed for good")


def _leave_behind(story: Story) -> None:
    """Let an object arrive in the first batch after that has ended, as one that was on its way may."""
    s3, bucket = story.made.aws.client("s3"), story.made.deployed.outputs["stagingBucket"]
    (source, *_) = (found["Key"] for found in s3.list_objects_v2(Bucket=bucket)["Contents"])
    (first, *_) = story.executions[0]
    folder, _, rest = source.split("/", 2)
    target = f"{folder}/{first.rsplit('-', 2)[0]}/{rest}"
    s3.copy_object(Bucket=bucket, Key=target, CopySource={"Bucket": bucket, "Key": source})


def _hold_until_protected(story: Story, port: int) -> None:
    """Keep an association open until the task is protected from being scaled in."""
    from pynetdicom import AE

    client = AE(ae_title="US1")
    client.add_requested_context("1.2.840.10008.1.1")
    association = client.associate("127.0.0.1", port, ae_title=story.made.deployed.outputs["DICOMAETitle"])
    assert association.is_established
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not any(action == "ecs:UpdateTaskProtection" for _, action, _ in story.made.judge.used):
        assert time.monotonic() < deadline, (story.folder / "receiver.log").read_text()
        time.sleep(0.1)
    association.release()


# what came of it


def _check_images_went_all_the_way(story: Story) -> None:
    made = story.made
    assert made.judge.denied == []
    assert (story.sent, story.exits, story.livez) == ([0, 0], [0, 0], 200)
    assert list(story.executions[0].values()) == ["SUCCEEDED"]
    totals = story.at_last["totals"]
    assert [totals[name] for name in ("received", "imported", "failed", "pending")] == [5, 5, 0, 0]
    assert all(made.stand_in.store.find(f"2.25.7100.{number}") for number in range(5))
    assert made.aws.client("s3").list_objects_v2(Bucket=made.deployed.outputs["stagingBucket"])["KeyCount"] == 0


def _check_a_failure_was_told_and_mended(story: Story) -> None:
    failed, told = story.told["batch"]["batch"], story.told
    assert story.executions[1][f"{failed}-1-1"] == "FAILED"
    assert story.executions[2][f"{failed}-2-1"] == "SUCCEEDED"
    assert story.made.failures == ["follow_import: ImportRefused: closed for good"]
    (failure,) = told["failures"]
    assert (failure["batch"], "closed for good" in failure["reason"]) == (failed, True)
    assert told["status"]["totals"]["failed"] == 2
    (topic,) = sns_backends[ACCOUNT][story.made.region].topics.values()
    (notice,) = topic.sent_notifications
    assert failed in str(notice)


def _check_repairs_and_commands(story: Story) -> None:
    told = story.told
    assert story.woken == {
        "recover": {"closed": 0, "started": 1, "restarted": 0},
        "reconcile": {"batches": 2, "rebuilt": 0, "rehoused": 1},
    }
    assert {study["study_instance_uid"] for study in told["studies"]} == {FIRST, SECOND}
    assert [instance["state"] for instance in told["study"]["instances"]] == ["imported"] * 3
    assert (told["batch"]["state"], told["batch"]["attempt"]) == ("settled", 2)
    assert [instance["study_instance_uid"] for instance in told["instance"]] == [SECOND]
    assert (told["recover"]["started"], told["reconcile"]["batches"]) == (0, 3)
    # whoever adds a command tells it here
    assert set(told) | {"serve"} == set(build_commands(declare).commands)


def _check_grants(story: Story) -> None:
    made = story.made
    granted = {(made.actor(role), action, made.place(place)) for role, action, place in made.judge.granted()}
    without_need = [grant for grant in sorted(unused(made)) if not any(each.covers(grant) for each in JUSTIFIED)]
    assert without_need == [], "grants that nothing needed: give them up, or say in JUSTIFIED why they are there"
    assert [each for each in JUSTIFIED if not any(each.covers(grant) for grant in granted)] == []
    # obstore's requests do not pass botocore, and are judged as well
    used = {(made.actor(role), action, made.place(place)) for role, action, place in made.judge.used}
    assert ("receiver", "s3:PutObject", "staging/batches/*") in used
    assert ("record-results", "s3:GetObject", "results/*") in used


def _check_a_missing_permission_is_named(story: Story) -> None:
    made = story.made
    event = {"batch_id": story.told["batch"]["batch"], "attempt": 2, "run": 1}
    for function, action in (("notify", "sns:Publish"), ("reconcile", "s3:ListBucket"), ("recover", "dynamodb:Query")):
        role = made.judge.roles[made.function(function)["role"].rpartition("/")[2]]
        kept = list(role.statements)
        role.statements[:] = [one for one in kept if action not in one["Action"]]
        with pytest.raises(StoreScpError):
            made.invoke(function, event)
        role.statements[:] = kept
        assert f"role {role.name} may not {action} on " in made.judge.denied[-1]


def test_what_the_program_makes_carries_images_all_the_way(tmp_path: Path) -> None:
    require_tool(STORESCU)
    # with a key of its own, and so with every grant there is; the image is tried with a stack that has none
    with applied("central-hospital", tmp_path) as made:
        (tmp_path / "settings.env").write_text(made.deployed.outputs["settings"])
        story = Story(made, tmp_path)
        _tell(story)
        _check_images_went_all_the_way(story)
        _check_a_failure_was_told_and_mended(story)
        _check_repairs_and_commands(story)
        _check_grants(story)
        _check_a_missing_permission_is_named(story)


# the judge


def _judge(*statements: dict[str, Any]) -> Judge:
    trust = {
        "Statement": [
            {
                "Principal": {"Service": "lambda.amazonaws.com"},
                "Condition": {"StringEquals": {"aws:SourceAccount": ACCOUNT}},
            }
        ]
    }
    judge = Judge("eu-west-1")
    judge.roles["worker"] = Role("worker", trust, list(statements))
    return judge


def _allow(action: str, resource: str, **condition: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": [action], "Resource": [resource], "Condition": condition}


BUCKET, KEY = "arn:aws:s3:::bucket", "arn:aws:kms:eu-west-1:123456789012:key/1"


def test_the_judge_keeps_to_action_and_resource() -> None:
    judge = _judge(_allow("s3:GetObject", f"{BUCKET}/batches/*"))
    judge.check("worker", [Call("s3:GetObject", f"{BUCKET}/batches/1")])
    for call in (Call("s3:GetObject", f"{BUCKET}/other/1"), Call("s3:PutObject", f"{BUCKET}/batches/1")):
        with pytest.raises(Denied, match=f"AccessDenied: role worker may not {call.action} on {call.resource}"):
            judge.check("worker", [call])
    assert judge.used == {("worker", "s3:GetObject", f"{BUCKET}/batches/*")}


def test_the_judge_asks_for_the_key_that_encrypts_a_resource() -> None:
    through = {"StringLike": {"kms:ViaService": ["s3.*.amazonaws.com"]}}
    judge = _judge(_allow("s3:PutObject", f"{BUCKET}/*"))
    judge.keys[BUCKET] = KEY
    with pytest.raises(Denied, match="may not kms:GenerateDataKey"):
        judge.check("worker", [Call("s3:PutObject", f"{BUCKET}/1")])
    judge.roles["worker"].statements.append(_allow("kms:GenerateDataKey", KEY, **through))
    judge.check("worker", [Call("s3:PutObject", f"{BUCKET}/1")])
    with pytest.raises(Denied):
        judge.check("worker", [Call("kms:GenerateDataKey", KEY, {"kms:ViaService": "sns.eu-west-1.amazonaws.com"})])


def test_the_judge_hears_the_resources_policy() -> None:
    judge = _judge(_allow("s3:GetObject", f"{BUCKET}/*"))
    over_tls = {"Bool": {"aws:SecureTransport": "false"}}
    judge.of_resources.append({**_allow("s3:*", f"{BUCKET}/*", **over_tls), "Effect": "Deny"})
    judge.check("worker", [Call("s3:GetObject", f"{BUCKET}/1")])
    with pytest.raises(Denied, match="the resource's policy denies it"):
        judge.check("worker", [Call("s3:GetObject", f"{BUCKET}/1", {"aws:SecureTransport": "false"})])


def test_a_role_is_taken_on_by_whom_it_trusts() -> None:
    judge = _judge()
    assert judge.assume("arn:aws:iam::123456789012:role/worker", "lambda.amazonaws.com") == "worker"
    with pytest.raises(Denied, match=r"ecs-tasks\.amazonaws\.com may not take on role worker"):
        judge.assume("arn:aws:iam::123456789012:role/worker", "ecs-tasks.amazonaws.com")


def test_a_condition_that_nobody_has_thought_about_is_an_error() -> None:
    judge = _judge(_allow("s3:GetObject", "*", IpAddress={"aws:SecureTransport": "true"}))
    with pytest.raises(KeyError, match="IpAddress"):
        judge.check("worker", [Call("s3:GetObject", BUCKET)])
