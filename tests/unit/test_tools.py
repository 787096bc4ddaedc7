import pytest

from tests.tools import REQUIRE_TOOLS, require_tool


def test_a_tool_that_is_here_is_given_by_its_absolute_path() -> None:
    assert require_tool("sh").startswith("/")


def test_a_missing_tool_skips_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REQUIRE_TOOLS, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-tool is not installed"):
        require_tool("no-such-tool")


def test_a_missing_tool_fails_where_tools_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REQUIRE_TOOLS, "1")
    with pytest.raises(pytest.fail.Exception, match="makes that a failure"):
        require_tool("no-such-tool")
