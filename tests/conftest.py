"""What all tests share: hypothesis that always draws the same examples, and real music where it is at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("stable", derandomize=True, deadline=None, database=None, max_examples=50)
settings.load_profile("stable")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real music and reference windows beside the repository."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("real music and reference windows are not beside this copy (../shared)")
    return folder
