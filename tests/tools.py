"""Programs from outside that some tests need: a person without them skips those tests, CI fails."""

import os
import shutil
from pathlib import Path

import pytest

REQUIRE_TOOLS = "STORESCP_TESTS_REQUIRE_TOOLS"


def require_tool(name: str) -> str:
    """
    Find a program by name or path, or end the test.

    Returns:
        The program's absolute path.

    """
    found = shutil.which(name) or shutil.which(name, path=_SYSTEM_FOLDERS)
    if found is not None:
        return str(Path(found).absolute())
    package = _PACKAGES.get(Path(name).name, name)
    reason = f"{name} is not installed (Debian: apt-get install {package})"
    if os.environ.get(REQUIRE_TOOLS) == "1":
        pytest.fail(f"{reason}, and {REQUIRE_TOOLS}=1 makes that a failure", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"  # where Debian puts servers, and not on every PATH
_PACKAGES = {
    "Orthanc": "orthanc",
    "dcmdump": "dcmtk",
    "dcmconv": "dcmtk",
    "dcmsend": "dcmtk",
    "echoscu": "dcmtk",
    "storescp": "dcmtk",
    "storescu": "dcmtk",
}
