from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.local.data_store.support import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Give a data store without throttle whose jobs run when told."""
    site = Site(root=tmp_path)
    yield site
    site.store.close()
