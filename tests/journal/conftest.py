import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "support"))

from journal_runs import Runs


@pytest.fixture
def place(tmp_path):
    """Runs below a folder of their own; whatever still trains at the end is killed."""
    runs = Runs(tmp_path)
    yield runs
    runs.end()
