"""
Carries out the `Dockerfile` without an engine: its first stage in a folder, as it is written there.

What needs root or another machine is left out: the base image and the second stage's user and folder.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import attrs

from tests.infra.harness import ROOT

_PREFIX = "/opt/storescp"
_BUILD_SECONDS = 300


@attrs.frozen
class Stage:
    """
    One stage.

    Attributes:
        lines: each instruction and what follows it.

    """

    lines: list[tuple[str, str]]

    def all(self, instruction: str) -> list[str]:
        return [rest for word, rest in self.lines if word == instruction]

    def one(self, instruction: str) -> str:
        (rest,) = self.all(instruction)
        return rest

    @property
    def environment(self) -> dict[str, str]:
        words = [word for rest in self.all("ENV") for word in shlex.split(rest)]
        return {name: value for name, _, value in (word.partition("=") for word in words)}


def stages() -> list[Stage]:
    """Return the stages; arguments that stand before the first belong to none."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    found: list[Stage] = []
    for line in filter(None, text.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append(Stage([]))
        if found:
            found[-1].lines.append((word, " ".join(rest.split())))
    return found


def context_rules() -> tuple[set[str], set[str]]:
    """Return what `.dockerignore` lets into the build, and what it keeps out of that."""
    lines = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    return let_in, {line.removeprefix("**/") for line in lines[1:] if not line.startswith("!")}


@attrs.frozen
class Built:
    """
    What the first stage leaves to the second.

    Attributes:
        prefix: the virtual environment.
        log: what its commands said.

    """

    prefix: Path
    log: str

    @property
    def path(self) -> str:
        """Return PATH as the second stage sets it."""
        _, last = stages()
        return last.environment["PATH"].replace(_PREFIX, str(self.prefix)).replace("$PATH", os.defpath)

    @property
    def site_packages(self) -> str:
        (found,) = self.prefix.glob("lib/python*/site-packages")
        return str(found)


def build(folder: Path) -> Built:
    """Carry out the first stage below a folder."""
    first, _ = stages()
    prefix, here = folder / "opt", folder
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment |= first.environment
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    # hashes are checked all the same, and a second run fetches nothing
    environment.pop("PIP_NO_CACHE_DIR")
    said = []
    for word, rest in first.lines:
        if word == "WORKDIR":
            here = folder / rest.lstrip("/")
            here.mkdir(parents=True)
        elif word == "COPY":
            _copy(here, *shlex.split(rest))
        elif word == "RUN":
            done = subprocess.run(
                ["sh", "-euc", rest.replace(_PREFIX, str(prefix))],
                cwd=here,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=_BUILD_SECONDS,
            )
            said.append(done.stdout + done.stderr)
            assert done.returncode == 0, said[-1]
        else:
            assert word in {"FROM", "ENV"}, f"{word}: how is that carried out here?"
    return Built(prefix, "".join(said))


def _copy(here: Path, *words: str) -> None:
    *sources, target = words
    let_in, kept_out = context_rules()
    for source in sources:
        assert source in let_in, f".dockerignore keeps {source} out"
        into = here / target / Path(source).name if target.endswith("/") else here / target
        into.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, into, ignore=shutil.ignore_patterns(*kept_out))
        else:
            shutil.copyfile(ROOT / source, into)
