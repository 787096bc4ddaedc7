"""What the program can do is what its documents say."""

import re
from pathlib import Path

import pytest

from adapters.entrypoints.cli import declare
from adapters.inbound.commands import build_commands
from tests.architecture.readme import README, with_table

_PROJECT = README.parent
_DOCUMENTS = [README, _PROJECT / "CONTRIBUTING.md", *sorted((_PROJECT / "docs").rglob("*.md"))]
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def test_the_readme_lists_every_setting_as_it_is() -> None:
    text = README.read_text()
    assert with_table(text) == text, "run: .venv/bin/python -m tests.architecture.readme"


def test_the_readme_names_every_command() -> None:
    text = README.read_text()
    unnamed = [name for name in build_commands(declare).commands if f"`{name}" not in text]
    assert unnamed == []


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: path.name)
def test_a_document_links_to_files_that_exist(document: Path) -> None:
    links = [link for link in _LINK.findall(document.read_text()) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []
