"""Every test that the list of what must hold names is there."""

import re
from pathlib import Path

import pytest

_PROJECT = Path(__file__).parents[2]
_LIST = (_PROJECT / "docs" / "acceptance.md").read_text(encoding="utf-8")
# `tests/folder/test_file.py::TestClass::test_name[the id of one of its cases]`; class and id may be missing
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(?:\w+::)?(\w+)(?:\[([^`]+)\])?`")


@pytest.mark.parametrize("file, test, case", sorted(set(_NAMED.findall(_LIST))))
def test_a_named_test_exists(file: str, test: str, case: str) -> None:
    text = (_PROJECT / file).read_text(encoding="utf-8")
    assert re.search(rf"^ *(def|class) {test}\b|^{test} = ", text, re.MULTILINE) is not None
    assert case in text


def test_every_line_of_the_list_names_a_test() -> None:
    lines = [
        line for line in _LIST.splitlines() if line.startswith("| ") and not line.startswith(("| what", "| fault"))
    ]
    assert len(lines) > 60
    assert [line for line in lines if _NAMED.search(line) is None] == []
