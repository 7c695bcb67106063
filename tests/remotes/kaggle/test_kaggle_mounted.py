"""In a notebook the dataset is mounted: objects come from there, with and without network (D5, F1)."""

import sys

import pytest

from unbroken.errors import NotFound, RemoteUnreachable
from unbroken.remotes.contract import Item

OWNER, SLUG = "ada", "rl-cache"


@pytest.fixture
def mount(service, tmp_path):
    """Mount the current version as a notebook finds it, at one of the places where notebooks have them."""

    def make(place=SLUG, slug=SLUG):
        folder = tmp_path / "input" / place
        service.mount(OWNER, slug, folder)
        return folder

    return make


@pytest.mark.parametrize("place", [SLUG, f"datasets/{OWNER}/{SLUG}", "another-name", f"a/{SLUG}"])
def test_objects_come_from_the_mount_without_network(remote, second, files, service, mount, fetched, place):
    remote.put(files(a=300_000, b=b"", c=b"c" * 1000))
    mount(place)
    service.stop()
    assert second.items() == [Item("a", 300_000), Item("b", 0), Item("c", 1000)]
    assert fetched(second, "a") == files(a=300_000)["a"].read_bytes()
    assert fetched(second, "b") == b""
    assert fetched(second, "c") == b"c" * 1000
    with pytest.raises(RemoteUnreachable):
        second.fetch("d", files(target=b"kept")["target"])


def test_without_credentials_the_mount_is_what_there_is(remote, second, files, service, mount, fetched, monkeypatch):
    remote.put(files(a=b"a"))
    mount()
    for name, value in service.environment(signed_in=False).items():
        monkeypatch.setenv(name, value)
    assert second.items() == [Item("a", 1)]
    assert fetched(second, "a") == b"a"


def test_without_the_client_the_mount_is_what_there_is(remote, second, files, mount, fetched, monkeypatch):
    remote.put(files(a=b"a"))
    mount()
    for name in [name for name in sys.modules if name.split(".")[0] == "kagglesdk"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kagglesdk", None)
    assert second.items() == [Item("a", 1)]
    assert fetched(second, "a") == b"a"


def test_with_network_newer_objects_are_seen_and_old_ones_still_come_from_the_mount(
    remote, second, files, service, mount, fetched
):
    remote.put(files(a=300_000))
    mount()
    remote.put(files(b=b"b"))
    assert [item.name for item in second.items()] == ["a", "b"]
    service.requests.clear()
    assert fetched(second, "a") == files(a=300_000)["a"].read_bytes()
    assert not service.requests
    assert fetched(second, "b") == b"b"


def test_a_damaged_mount_is_passed_over(remote, second, files, mount, fetched):
    remote.put(files(a=300_000))
    for path in mount().glob("*.bin"):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert fetched(second, "a") == files(a=300_000)["a"].read_bytes()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "another"}', "\xff"])
def test_a_mounted_file_that_is_no_index_is_passed_over(remote, files, mount, tmp_path, text):
    folder = tmp_path / "input" / SLUG
    folder.mkdir(parents=True)
    (folder / "unbroken-index.json").write_text(text, encoding="latin-1")
    with pytest.raises(NotFound):
        remote.fetch("a", tmp_path / "a")


def test_the_mount_of_another_dataset_is_passed_over(machine, files, mount, tmp_path):
    machine(url="kaggle-dataset:ada/other-cache").put(files(a=b"other"))
    mount("other-cache", "other-cache")
    remote = machine()
    assert remote.items() == []
    with pytest.raises(NotFound):
        remote.fetch("a", tmp_path / "a")
