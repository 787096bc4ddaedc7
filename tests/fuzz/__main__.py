"""
Fuzz every target in turn: `python -m tests.fuzz --seconds 60`, one core.

With atheris the fuzzing is guided by coverage; without it inputs are mutated blindly but for their outcomes.
What breaks a promise is left in the folder that is printed; it becomes a file of `tests/fuzz/regressions/`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import attrs

from tests.fuzz.corpus import seeds
from tests.fuzz.targets import TARGETS

_SHARE = {"upper_layer": 4.0, "associate": 2.0, "command_set": 1.0, "data_set": 2.0, "commitment": 1.0}
_LONGEST_INPUT = 16_384
_SLOW_INPUT_SECONDS = 10
_MEMORY_MEGABYTES = 1024
_PATIENCE_SECONDS = 120


@attrs.frozen(kw_only=True)
class Outcome:
    """What fuzzing one target came to."""

    target: str
    seconds: float
    runs: int
    coverage: str
    corpus: int
    is_broken: bool


def main() -> int:
    """Fuzz; the exit code is 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="in all (default: %(default)s)")
    parser.add_argument("--target", choices=sorted(TARGETS), action="append", help="one or more; default: all")
    parser.add_argument("--folder", type=Path, help="where inputs grow from run to run; default: a temporary one")
    parser.add_argument("--blind", action="store_true", help="without coverage, even if atheris is there")
    options = parser.parse_args()
    targets = options.target or list(TARGETS)
    is_guided = not options.blind and importlib.util.find_spec("atheris") is not None
    print(f"Fuzzing {', '.join(targets)} {'guided by coverage' if is_guided else 'blindly: atheris is not installed'}")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))
    whole = sum(_SHARE[target] for target in targets)
    outcomes = [fuzz(target, options.seconds * _SHARE[target] / whole, folder, is_guided) for target in targets]
    print(f"\n{'target':12} {'seconds':>8} {'inputs':>10} {'a second':>9} {'covered':>8} {'corpus':>7}")
    for outcome in outcomes:
        rate = outcome.runs / outcome.seconds if outcome.seconds else 0
        print(
            f"{outcome.target:12} {outcome.seconds:8.0f} {outcome.runs:10} {rate:9.0f} {outcome.coverage:>8}"
            f" {outcome.corpus:7}{'  BROKEN' if outcome.is_broken else ''}"
        )
    broken = [outcome.target for outcome in outcomes if outcome.is_broken]
    if broken:
        print(f"\nBroken: {', '.join(broken)}. The inputs: {folder}")
    return 1 if broken else 0


def fuzz(target: str, seconds: float, folder: Path, is_guided: bool) -> Outcome:
    """Fuzz one target in a process of its own."""
    corpus = folder / target
    findings = folder / f"{target}-findings"
    for path in (corpus, findings):
        path.mkdir(parents=True, exist_ok=True)
    for data in seeds(target):
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    if is_guided:
        command = [
            "tests.fuzz.guided",
            target,
            str(corpus),
            f"-max_total_time={max(1, round(seconds))}",
            f"-max_len={_LONGEST_INPUT}",
            f"-timeout={_SLOW_INPUT_SECONDS}",
            f"-rss_limit_mb={_MEMORY_MEGABYTES}",
            f"-artifact_prefix={findings}/",
            "-print_final_stats=1",
        ]
    else:
        command = ["tests.fuzz.mutation", target, str(corpus), f"{seconds:.0f}"]
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        check=False,
        timeout=seconds + _PATIENCE_SECONDS,
    )
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    (folder / f"{target}.log").write_text(said)
    if done.returncode:
        print(f"--- {target} ended with {done.returncode}\n{said[-4000:]}")
    runs = re.search(r"Done (\d+) runs in (\d+)", said)
    covered = re.findall(r"cov: (\d+)", said) or re.findall(r"(\d+) different", said)
    return Outcome(
        target=target,
        seconds=float(runs[2]) if runs else seconds,
        runs=int(runs[1]) if runs else 0,
        coverage=covered[-1] if covered else "-",
        corpus=len(list(corpus.iterdir())),
        is_broken=bool(done.returncode),
    )


if __name__ == "__main__":
    sys.exit(main())
