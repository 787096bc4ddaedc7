"""The deployment program under mocks, run once for each committed stack."""

import importlib.util
import os
from functools import cache

import pytest

from tests.tools import REQUIRE_TOOLS

# Pulumi is 300 MB that only this folder needs; where it is required a missing one must fail.
if importlib.util.find_spec("pulumi") is None and os.environ.get(REQUIRE_TOOLS) != "1":
    collect_ignore_glob = ["test_*.py"]
else:
    os.environ["PULUMI_ERROR_OUTPUT_STRING"] = "true"  # an f-string of an Output is an error, not a text

    from tests.infra.account import AccountMocks, FakeAccount
    from tests.infra.harness import Deployed, main_program, run_program, stack_config, stack_files

    @cache
    def deploy_stack(stack: str, preview: bool = False) -> Deployed:
        config = stack_config(stack)
        mocks = AccountMocks(FakeAccount(region=config["aws:region"]), preview=preview)
        return run_program(main_program, mocks, config, stack=stack, preview=preview)

    @pytest.fixture(params=stack_files())
    def stack(request: pytest.FixtureRequest) -> str:
        """Give the name of each committed stack."""
        name: str = request.param
        return name

    @pytest.fixture
    def deployed(stack: str) -> Deployed:
        """Give what a committed stack comes to."""
        return deploy_stack(stack)

    @pytest.fixture
    def clinic() -> Deployed:
        """Give the small clinic: a given VPC, plain TCP."""
        return deploy_stack("hillside-clinic")

    @pytest.fixture
    def hospital() -> Deployed:
        """Give the large hospital: a new VPC, TLS, its own key."""
        return deploy_stack("central-hospital")


_GENERATED = (
    "ignore::DeprecationWarning:pulumi_aws",
    "ignore::DeprecationWarning:pulumi_awsx",
    "ignore::UserWarning:pulumi_aws",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave Pulumi's generated code its deprecations; ours stay errors."""
    for item in items:
        if "/tests/infra/" in item.path.as_posix():
            for line in _GENERATED:
                item.add_marker(pytest.mark.filterwarnings(line))
