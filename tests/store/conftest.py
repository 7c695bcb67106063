"""Backends and repositories over real files in a temporary folder."""

import pytest

from unbroken.store.durable import LocalBackend
from unbroken.store.repository import CheckpointRepository


@pytest.fixture
def backend(tmp_path):
    return LocalBackend(tmp_path / "a run é")


@pytest.fixture
def repository(backend):
    return CheckpointRepository(backend, "sample_checkpoint", scenario="sample", run="sample")


@pytest.fixture
def skipped():
    """Collects what `latest_valid` skips: call it as `on_skip`, then look at `.all`."""

    class Skipped:
        def __init__(self):
            self.all = {}

        def __call__(self, name, reason):
            self.all[name] = reason

    return Skipped()
