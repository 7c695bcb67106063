"""What the user types becomes a remote, or one clear line (D5)."""

import os
import sys
from pathlib import Path

import pytest

from unbroken.errors import UsageError
from unbroken.remotes.addresses import default_workspace, text_without_secrets, without_secrets
from unbroken.remotes.contract import TIMEOUT
from unbroken.remotes.folder import FolderRemote
from unbroken.remotes.object_store import ObjectStoreRemote
from unbroken.remotes.opening import open_remote


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of its own, from which relative paths start."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def opened(monkeypatch):
    """What the remotes that need a workspace are made with, as `(class, address, workspace, words)`."""
    made = []

    def of(kind):
        def make(url, workspace, **words):
            made.append((kind, url, workspace, words))
            return made[-1]

        return make

    from unbroken.remotes import git, kaggle_dataset

    monkeypatch.setattr(git, "GitRemote", of("git"))
    monkeypatch.setattr(kaggle_dataset, "KaggleDatasetRemote", of("kaggle"))
    return made


def said(url):
    with pytest.raises(UsageError) as caught:
        open_remote(url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder(home, tmp_path):
    """D5: relative, absolute, in the home folder, with spaces."""
    (home / "source").write_bytes(b"a")
    for path, expected in {
        "place": home / "place",
        f"{tmp_path}/a b é": tmp_path / "a b é",
        "~/in home": home / "in home",
    }.items():
        remote = open_remote(f"folder:{path}")
        assert isinstance(remote, FolderRemote)
        assert remote.url == f"folder:{path}"
        remote.put({"a": home / "source"})
        assert (expected / "a").read_bytes() == b"a"


def test_a_folder_on_a_windows_drive(monkeypatch):
    made = []
    monkeypatch.setattr("unbroken.remotes.folder.FolderRemote", lambda url, path: made.append((url, path)))
    open_remote(r"folder:C:\Users\a b\place")
    assert made == [(r"folder:C:\Users\a b\place", Path(r"C:\Users\a b\place"))]


def test_object_stores(s3):
    """D5: nothing is asked of the network when the remote is opened."""
    for url in (s3.url, "s3a://bucket", "gs://bucket/x"):
        remote = open_remote(url, timeout=3)
        assert isinstance(remote, ObjectStoreRemote)
        assert remote.url == url
    assert open_remote(s3.url).items() == []


def test_repositories_and_datasets_have_a_workspace(opened, home):
    """D5: the same address leads to the same folder of the cache, another address to another."""
    for url in ("git:https://host/a.git", "git+lfs:https://host/a.git", "git:git@host:o/a.git", "kaggle-dataset:o/s"):
        open_remote(url)
        open_remote(url, timeout=3)
    assert [kind for kind, *_ in opened] == ["git"] * 6 + ["kaggle"] * 2
    folders = [folder for _, _, folder, _ in opened]
    assert folders[::2] == folders[1::2]
    assert len(set(folders)) == 4
    assert opened[0][3] == {"lfs": False, "timeout": TIMEOUT}
    assert opened[3][3] == {"lfs": True, "timeout": 3}
    assert opened[7][1:] == ("kaggle-dataset:o/s", folders[7], {"timeout": 3})
    assert not any(folder.exists() for folder in folders)
    open_remote("git:x", workspace=home / "mine")
    assert opened[-1][2] == home / "mine"


def test_a_relative_repository_is_not_taken_for_another(opened, home, monkeypatch):
    for name in ("one", "two"):
        (home / name / "repository.git").mkdir(parents=True)
        monkeypatch.chdir(home / name)
        open_remote("git:repository.git")
        open_remote(f"git:{home / name / 'repository.git'}")
    folders = [folder for _, _, folder, _ in opened]
    assert folders[0] == folders[1] != folders[2] == folders[3]


@pytest.mark.skipif(sys.platform != "linux", reason="each system has its own folder for caches")
def test_where_workspaces_lie(home, monkeypatch):
    assert default_workspace("git:x").parent == home / ".cache" / "unbroken" / "remotes"
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(home / "caches"))
    assert default_workspace("git:x").parent == home / "caches" / "unbroken" / "remotes"


@pytest.mark.parametrize(
    ("platform", "folder"), [("darwin", "Library/Caches"), ("win32", "AppData/Local")], ids=["macOS", "Windows"]
)
def test_where_workspaces_lie_elsewhere(platform, folder, home, monkeypatch):
    monkeypatch.setattr("unbroken.remotes.addresses.sys.platform", platform)
    assert default_workspace("git:x").parent == home / folder / "unbroken" / "remotes"


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("foldr:x", "Did you mean folder:PATH?"),
        ("file:///mnt/x", "Did you mean folder:PATH?"),
        ("S3://bucket/x", "Did you mean s3://BUCKET/PREFIX?"),
        ("gcs://bucket/x", "Did you mean gs://BUCKET/PREFIX?"),
        ("git-lfs:x", "Did you mean git+lfs:PATH-or-URL?"),
        ("kaggle:o/s", "Did you mean kaggle-dataset:OWNER/SLUG?"),
        ("kaggle_dataset:o/s", "Did you mean kaggle-dataset:OWNER/SLUG?"),
    ],
)
def test_a_near_word(url, meant):
    """D5: an unknown kind is answered with the nearest one and the list."""
    line = said(url)
    assert line.startswith(
        f"{url!r} is no remote. {meant} There are folder:PATH, git:PATH-or-URL, git+lfs:PATH-or-URL, s3:"
    )
    assert line.endswith("kaggle-dataset:OWNER/SLUG.")


def test_nothing_near():
    for url in ("", "zzz", "zzz:x"):
        assert said(url).startswith(f"{url!r} is no remote. There are folder:PATH")


def test_a_path(home):
    """D5: a bare path is answered with the word that it lacks."""
    (home / "place").mkdir()
    for url in ("place", "./x", "/mnt/x", "~/x", "..", r"C:\x", "D:/x", r"\\server\share"):
        assert f"is a path: write folder:{url}" in said(url)


def test_a_web_address():
    for url in ("https://host/o/a.git", "ssh://git@host/a.git", "git@host:o/a.git"):
        assert f"write git:{url} or git+lfs:{url}" in said(url)


@pytest.mark.skipif(sys.platform == "win32", reason="there it lies beside the user's own")
def test_the_home_of_nobody():
    """D5: a user that this machine lacks is a mistake of the address."""
    for kind in ("folder", "git", "git+lfs"):
        assert said(f"{kind}:~nosuchuser/x").startswith("~nosuchuser is no home folder of this machine: write the")


def test_no_place():
    for url in ("folder:", "git:", "s3:", "s3://", "kaggle-dataset:"):
        assert "names no place: write" in said(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("git:https://user:secret@host/a.git", "git:https://host/a.git"),
        ("git:https://secret@host/a.git", "git:https://host/a.git"),
        ("git+lfs:https://user:se@secret@host:1/a.git", "git+lfs:https://host:1/a.git"),
        ("git:ssh://git@host/a.git", "git:ssh://git@host/a.git"),
        ("git:ssh://git:secret@host/a.git", "git:ssh://host/a.git"),
        ("git:git@host:o/a.git", "git:git@host:o/a.git"),
        ("az://container/x?sig=secret", "az://container/x"),
        ("abfs://container@account.net/x", "abfs://container@account.net/x"),
        ("folder:/mnt/a@b/what?", "folder:/mnt/a@b/what?"),
        ("s3://AKIA1:wsecret/K7M/secret@bucket/p", "s3://bucket/p"),
        ("s3://AKIA1:12/secret@bucket/p", "s3://bucket/p"),
        ("s3://AKIA1:pa?secret@bucket/p", "s3://***"),
        ("git:https://user:pa/secret@host/x.git", "git:https://host/x.git"),
        ("https://user:pa/secret@host/x.git", "https://host/x.git"),
        ("https://user:pa/se@secret@host/x.git", "https://host/x.git"),
        ("https://se/secret@host/x.git", "https://host/x.git"),
        ("git:https://user:pa?secret@host/x", "git:https://***"),
        ("git:https://user:pa#secret@host/x", "git:https://***"),
        ("git:https://user:pw@host/x?token=a@secret", "git:https://***"),
        ("git:https://host/x.git?private_token=secret", "git:https://host/x.git"),
        ("git:https://my.host/x.git?private_token=a@secret", "git:https://my.host/x.git"),
        ("git:https://my.host:80/@scope/a@b.git", "git:https://my.host:80/@scope/a@b.git"),
        ("git:ssh://git@host:22/a@b.git", "git:ssh://git@host:22/a@b.git"),
        ("git:ssh://git@[::1]:22/a@b.git", "git:ssh://git@[::1]:22/a@b.git"),
        ("git:ssh://git:pa/secret@host/a.git", "git:ssh://host/a.git"),
        ("git:file:///mnt/a@b:c/x@y.git", "git:file:///mnt/a@b:c/x@y.git"),
        ("s3://bucket/run:1/a@b", "s3://bucket/run:1/a@b"),
        ("abfs://container@account.net/a@b?sig=a@secret", "abfs://container@account.net/a@b"),
    ],
)
def test_secrets_are_not_shown(url, shown):
    """D5: no password or token of an address in a message."""
    assert "secret" not in shown
    assert without_secrets(url) == shown
    assert without_secrets(shown) == shown


def test_what_others_say_is_shown_without_secrets():
    """D5: whatever addresses a program repeats, with signatures and after redirections."""
    said = (
        "see 'https://u:secret@host/x': https://h.tld/o?X-Sig=secret&y=secret, (http://proxy.tld/https://u:secret@h/)"
        ' "ssh://git@host/x" at a@b'
    )
    assert text_without_secrets(said) == (
        "see 'https://host/x': https://h.tld/o (http://proxy.tld/https://h/) \"ssh://git@host/x\" at a@b"
    )


def test_secrets_are_in_no_refusal():
    for url in (
        "https://user:secret@host/a.git",
        "https://user:pa/secret@host/a.git",
        "git:https://user:pa/secret@host/a.git",
        "git:https://user:pa?secret@host/a.git",
        "git:https://user:pa#secret@host/a.git",
        "gitt:https://secret@host/x",
        "s3://key:secret@bucket/x",
        "s3://key:se/secret@bucket/x",
    ):
        assert "secret" not in said(url)
