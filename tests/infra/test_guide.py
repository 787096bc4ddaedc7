"""The guide from an empty account to the first image: what it names exists, and both languages say the same."""

from __future__ import annotations

import re

import pytest

from infra.config import REGIONS, rules
from tests.infra.harness import ROOT, Deployed, stack_files

GUIDES = ("deploy.md", "deploy.ja.md")


def guide(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def blocks(text: str) -> list[str]:
    """Return what stands in fences; the deployer's policies stand in the English guide alone."""
    found: list[str] = re.findall(r"```\w+\n.*?\n```", text, flags=re.DOTALL)
    return [block for block in found if not block.startswith("```json\n{")]


def spans(text: str) -> set[str]:
    """Return what is marked as code within sentences and tables."""
    return set(re.findall(r"`([^`\n]+)`", without_blocks(text)))


def without_blocks(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def test_both_languages_have_the_same_sections_commands_and_names() -> None:
    english, japanese = map(guide, GUIDES)
    headings = [re.findall(r"^(#+) ", without_blocks(text), flags=re.MULTILINE) for text in (english, japanese)]
    assert headings[0] == headings[1]
    assert blocks(english) == blocks(japanese)
    assert spans(english) == spans(japanese)
    rows, in_japanese = [re.findall(r"^\|", text, flags=re.MULTILINE) for text in (english, japanese)]
    assert len(rows) == len(in_japanese)


@pytest.mark.parametrize("name", GUIDES)
def test_every_alarm_is_explained(name: str, clinic: Deployed) -> None:
    table = guide(name).partition("<!-- alarms -->")[2].partition("<!-- /alarms -->")[0]
    explained = re.findall(r"^\| `([\w-]+)` \|", table, flags=re.MULTILINE)
    made = {item.name.removeprefix("hillside-clinic-") for item in clinic.of("MetricAlarm")}
    assert set(explained) == made
    assert len(explained) == len(made)


@pytest.mark.parametrize("name", GUIDES)
def test_settings_outputs_files_and_regions_are_those_there_are(name: str, clinic: Deployed) -> None:
    text = guide(name)
    camel_case = {span for span in spans(text) if re.fullmatch(r"[a-z]+([A-Z]\w*)+", span)}
    assert camel_case - set(rules()) - set(clinic.outputs) == set()
    assert set(re.findall(r"pulumi config set (\w+)(?!:)\b ", text)) <= set(rules())
    assert set(re.findall(r"pulumi stack output (\w+)", text)) <= set(clinic.outputs)
    assert {"NetworkLoadBalancerDNS", "DICOMPort", "DICOMAETitle"} <= spans(text)
    examples = {span.split(".")[1] for span in spans(text) if re.fullmatch(r"Pulumi\.[\w-]+\.yaml", span)}
    assert examples <= set(stack_files())
    assert {span for span in spans(text) if re.fullmatch(r"[a-z]{2}-[a-z]+-\d", span)} == set(REGIONS)
