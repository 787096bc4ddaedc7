"""
The shell file of `make cloud`: what another terminal reads to use everything that runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def shell_file(path: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Write the shell file at once, and remove it when the context ends."""
    fresh = path.with_suffix(".new")
    fresh.write_text(shell_text(path.parent, environment), encoding="utf-8")
    fresh.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def shell_text(folder: Path, environment: Mapping[str, str]) -> str:
    """
    Return what `. .cloud/env` reads: every variable, and our programs on PATH.

    Args:
        folder: where the file is; our programs are found from there, so that the project may be seen under another
            path, as in a container.
        environment: the variables.

    """
    # Behind the others: it holds DICOM clients of a library too, which would come before those of DCMTK.
    programs = os.path.relpath(Path(sys.executable).parent, folder)
    exports = "".join(f"export {name}={_quoted(value)}\n" for name, value in environment.items())
    return f"""# Written by `make cloud`, and removed when it ends. Use it with: . .cloud/env
# (a shell that cannot tell where this file is takes the folder it was written to)
_cloud_folder={_quoted(str(folder))}
if [ -n "${{BASH_SOURCE:-}}" ]; then
  _cloud_folder=$(CDPATH= cd -- "$(dirname -- "$BASH_SOURCE")" && pwd)
elif [ -n "${{ZSH_VERSION:-}}" ]; then
  eval '_cloud_folder=${{${{(%):-%x}}:A:h}}'
fi
_cloud_programs=$(CDPATH= cd -- "$_cloud_folder"/{_quoted(programs)} && pwd)
case ":$PATH:" in
  *":$_cloud_programs:"*) ;;
  *) export PATH="$PATH:$_cloud_programs" ;;
esac
unset _cloud_folder _cloud_programs AWS_PROFILE AWS_SESSION_TOKEN
{exports}"""


def _quoted(value: str) -> str:
    """Quote for a shell, in single quotes always."""
    return "'" + value.replace("'", "'\\''") + "'"
