"""
The container image as far as it can be proved without an engine.

Its first stage is carried out as written, in a folder; what the deployment starts in it then starts from there, in an
environment that holds what the deployment sets and nothing else.
"""

from __future__ import annotations

import json
import re
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from infra.application import HEALTH_PORT, RECEIVER_PORT, TLS_PORT, WORK_DIR
from infra.import_workflow import FUNCTIONS
from infra.receiver import USER
from tests.infra.applying import Applied, applied, signing
from tests.infra.dockerfile import Built, build, context_rules, stages
from tests.infra.harness import ROOT
from tests.infra.lambda_service import FunctionFailed, LambdaService, Started
from tests.infra.receiving import receiving
from tests.serving import a_data_set

STACK = "hillside-clinic"
PATIENCE_SECONDS = 120.0
VENV = {"pip", "setuptools"}
"""What a virtual environment begins with."""


def test_the_base_image_is_one_and_named_by_its_digest() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (base,) = re.findall(r"^ARG PYTHON=(\S+)$", text, flags=re.MULTILINE)
    assert re.fullmatch(r"public\.ecr\.aws/docker/library/python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", base)
    assert [stage.one("FROM").split()[0] for stage in stages()] == ["${PYTHON}"] * 2


def test_the_build_is_given_what_the_dockerfile_copies_and_nothing_else() -> None:
    first, _ = stages()
    copied = {word for rest in first.all("COPY") for word in rest.split()[:-1]}
    let_in, kept_out = context_rules()
    assert copied == let_in
    assert kept_out == {"__pycache__", "*.pyc"}


def test_user_folder_and_ports_are_those_of_the_deployment() -> None:
    _, last = stages()
    assert last.one("USER") == USER
    assert last.one("WORKDIR") == WORK_DIR
    assert json.loads(last.one("VOLUME")) == [WORK_DIR]
    assert {int(port) for port in last.one("EXPOSE").split()} == {RECEIVER_PORT, TLS_PORT, HEALTH_PORT}
    assert json.loads(last.one("CMD")) == ["serve"]


@pytest.mark.slow
@pytest.mark.aws
@pytest.mark.timeout(600)
def test_what_the_deployment_starts_in_the_image_works_there_on_locked_packages_alone(tmp_path: Path) -> None:
    built = build(tmp_path / "image")
    _check_packages(built)
    with applied(STACK, tmp_path) as made:
        service = LambdaService(lambda name: _function(made, built, tmp_path, name))
        made.aws.lambda_function = service.invoke
        try:
            _check_an_image_goes_all_the_way(made, built, tmp_path)
            _check_the_other_functions(made, service)
            _check_a_missing_function_says_so(built, tmp_path)
        finally:
            service.stop()
    assert service.answered == {_physical(name) for name in FUNCTIONS}


def _check_packages(built: Built) -> None:
    """See that what is installed is what the program asks for, as the lock has it."""
    found = {canonicalize_name(one.metadata["Name"]): one for one in distributions(path=[built.site_packages])}
    needed, left = set(), [Requirement("ahi-storescp[aws,image]")]
    while left:
        asked = left.pop()
        needed.add(canonicalize_name(asked.name))
        for line in found[canonicalize_name(asked.name)].requires or ():
            further = Requirement(line)
            if further.marker is None or any(further.marker.evaluate({"extra": one}) for one in asked.extras or {""}):
                left.append(further)
    assert set(found) - VENV == needed
    lock = (ROOT / "requirements/image.txt").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([\w.-]+)==(\S+) \\$", lock, flags=re.MULTILINE))
    versions = {name: one.version for name, one in found.items() if name not in VENV | {"ahi-storescp"}}
    assert versions == {name: locked[name] for name in versions}


def _physical(name: str) -> str:
    return f"{STACK}-{name.replace('_', '-')}-1a2b3c4"


def _function(made: Applied, built: Built, folder: Path, name: str) -> Started:
    """Return how Lambda starts a function from the image."""
    inputs = made.function(name)
    environment = {
        **inputs["environment"]["variables"],
        **made.endpoints,
        **signing(made.judge.assume(inputs["role"], "lambda.amazonaws.com")),
        "PATH": built.path,
        # a folder of this machine in the place of the function's own
        "STORESCP_DATA_DIR": str(folder / "functions"),
        "TMPDIR": str(folder / "functions"),
    }
    image = inputs["imageConfig"]
    return Started([*image["entryPoints"], *image["commands"]], environment, folder)


def _check_an_image_goes_all_the_way(made: Applied, built: Built, folder: Path) -> None:
    """Let the image's receiver take what the image's own command sends."""
    _, last = stages()
    (entry_point,) = json.loads(last.one("ENTRYPOINT"))
    program = built.prefix / "bin" / entry_point
    image = folder / "image.dcm"
    a_data_set(1, size=128).save_as(image, enforce_file_format=True)
    environment = {"PATH": built.path, "TMPDIR": str(folder)}

    def run(*words: str) -> str:
        done = subprocess.run(
            [program, *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "Receive DICOM instances" in run("--help")
    with receiving(made, folder, [program], folder, environment) as running:
        title = made.deployed.outputs["DICOMAETitle"]
        to_it = ["--called-ae-title", title, "--calling-ae-title", "US1", "--json"]
        sent = json.loads(run("send", "127.0.0.1", str(running.port), str(image), *to_it))
        assert [file["outcome"] for file in sent["files"]] == ["stored"]
    assert (running.livez, running.exit_code) == (200, 0)
    assert list(made.executions().values()) == ["SUCCEEDED"], made.judge.denied
    assert made.stand_in.store.find("2.25.7100.1")


def _check_the_other_functions(made: Applied, service: LambdaService) -> None:
    (execution,) = made.executions()
    batch, attempt, run = execution.rsplit("-", 2)
    step = {"batch_id": batch, "attempt": int(attempt), "run": int(run)}
    caught = {**step, "error": {"Error": "ImportRefused", "Cause": "too late"}}
    assert service.invoke(_physical("fail_batch"), caught) == {"next": "stale"}
    assert service.invoke(_physical("notify"), step) == {"next": "done"}
    assert service.invoke(_physical("recover"), {}) == {"closed": 0, "started": 0, "restarted": 0}
    assert service.invoke(_physical("reconcile"), {}) == {"batches": 1, "rebuilt": 0, "rehoused": 0}
    assert made.judge.denied == []


def _check_a_missing_function_says_so(built: Built, folder: Path) -> None:
    """See that a call of what is not there would not pass for an answer."""
    command = ["python", "-m", "awslambdaric", "adapters.entrypoints.lambdas.no_such_function"]
    service = LambdaService(lambda _: Started(command, {"PATH": built.path}, folder))
    with pytest.raises(FunctionFailed, match="no_such_function"):
        service.invoke("none", {})
    service.stop()
