"""The stand-in of the service, and machines that share a dataset there."""

import itertools
import random

import pytest

from unbroken.remotes.kaggle.session import Pace
from unbroken.remotes.kaggle_dataset import KaggleDatasetRemote
from unbroken.testing.kaggle import KaggleService

OWNER, SLUG = KaggleService.user, "rl-cache"


@pytest.fixture
def service(monkeypatch):
    """The service, with an environment that leads to it; nobody's credentials go to its storage."""
    with KaggleService() as running:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        yield running
        assert running.leaks == []


@pytest.fixture
def machine(service, tmp_path):
    """A maker of remotes for the same dataset, each with a workspace of its own and little patience."""
    numbers = itertools.count()

    def make(*, timeout=20.0, url=f"kaggle-dataset:{OWNER}/{SLUG}", processing=30.0, workspace=None, **options):
        pace = Pace(attempts=5, backoff=0.01, longest=0.05, processing=processing)
        folder = workspace or tmp_path / f"workspace {next(numbers)} é"
        return KaggleDatasetRemote(url, folder, timeout, pace=pace, inputs=tmp_path / "input", **options)

    return make


@pytest.fixture
def remote(machine):
    return machine()


@pytest.fixture
def second(machine):
    return machine()


@pytest.fixture
def files(tmp_path):
    """A maker of files: names of objects with their contents, or how many random bytes they have."""

    def make(**contents):
        return {name.replace("__", "/"): source(name, content) for name, content in contents.items()}

    def source(name, content):
        path = tmp_path / "sources" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(name).randbytes(content) if isinstance(content, int) else content)
        return path

    return make


@pytest.fixture
def versions(service):
    """The versions of the dataset, as they lie at the service."""
    return lambda: service.versions(OWNER, SLUG)


@pytest.fixture
def fetched(tmp_path):
    """What a machine gets of an object."""

    def get(machine, name):
        target = tmp_path / "fetched"
        machine.fetch(name, target)
        content = target.read_bytes()
        target.unlink()
        return content

    return get
