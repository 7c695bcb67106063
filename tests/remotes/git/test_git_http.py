"""Repositories behind HTTP: git's own service, an LFS service beside it, and servers that refuse or stay silent (D5)."""

import os
import shutil
import socket
import subprocess

import pytest

from unbroken.errors import RemoteError, RemoteRefused, RemoteUnreachable
from unbroken.remotes.contract import Item, Put


@pytest.fixture
def silent_port():
    """A port that accepts connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("kind", ["git", "git+lfs"])
def test_objects_travel_and_no_secret_stays_behind(kind, web, machine, files, fetched, commands, tmp_path):
    """D5: a password in the address is used; no message, no command line, no file of ours and no `url` has it."""
    here, there = machine(kind, web.url), machine(kind, web.url)
    assert here.items() == []
    contents = {"cache/a": b"a" * 1_500_000, "cache/b": b"b\r\n"}
    assert here.put(files(contents)) == Put(written=("cache/a", "cache/b"))
    assert there.items("cache/") == [Item("cache/a", 1_500_000), Item("cache/b", 3)]
    assert {name: fetched(there, name) for name in contents} == contents
    assert bool(web.objects) is (kind == "git+lfs")
    assert here.url == f"{kind}:http://{web.host}/it.git"
    assert web.password not in repr(here._address)
    assert len(said := commands()) >= 5
    assert not [line for line in said if web.password in line]
    kept = [path for path in tmp_path.glob("workspace*/**/*") if path.is_file()]
    assert len(kept) > 10
    assert not [path for path in kept if web.password.encode() in path.read_bytes()]


@pytest.mark.parametrize("kind", ["git", "git+lfs"])
@pytest.mark.parametrize("userinfo", ["", "someone:wrong-secret@"])
def test_wrong_credentials_are_refused_at_once(kind, userinfo, web, machine, files):
    """D5: git is never allowed to ask; the message says what to do and holds no secret."""
    remote = machine(kind, f"http://{userinfo}{web.host}/it.git")
    for action in (remote.items, lambda: remote.put(files({"a": b"a"}))):
        with pytest.raises(RemoteRefused) as caught:
            action()
        message = str(caught.value)
        assert message.startswith(f"{kind}:http://{web.host}/it.git wants other credentials or forbids this")
        assert "wrong-secret" not in message
        assert "\n" not in message


def test_credentials_stay_with_git(web, machine, files, home):
    """D5: the user's own credential helper is asked."""
    (home / ".gitconfig").write_text(
        f'[credential]\n\thelper = "!f() {{ echo username={web.user}; echo password={web.password}; }}; f"\n'
    )
    remote = machine("git+lfs", f"http://{web.host}/it.git")
    assert remote.put(files({"cache/a": b"a"})) == Put(written=("cache/a",))


def test_a_token_in_a_query_is_not_repeated(machine):
    """D5: git's own line has the whole address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(RemoteUnreachable, match=r"^git:http://127\.0\.0\.1:\d+/x\.git does not answer: ") as caught:
        machine("git", f"http://127.0.0.1:{port}/x.git?private_token=hidden-token").items()
    assert "hidden" not in str(caught.value)


def test_an_empty_repository_with_long_names_behind_a_password(web, git, repository, machine, files, fetched):
    """D5: SHA-256 where the address may be given to no clone."""
    shutil.rmtree(repository)
    git("init", "--bare", "--initial-branch=main", "--object-format=sha256", repository)
    git("config", "http.receivepack", "true", cwd=repository)
    assert machine("git", web.url).put(files({"cache/a": b"a"})) == Put(written=("cache/a",))
    assert fetched(machine("git", web.url), "cache/a") == b"a"


def test_a_wrong_address_is_said(web, machine):
    with pytest.raises(RemoteRefused, match=f"^there is no repository at git:http://{web.host}/nowhere.git, or"):
        machine("git", f"http://{web.host}/nowhere.git").items()


@pytest.mark.parametrize("scheme", ["http", "git", "ssh"])
def test_a_server_that_never_answers_is_left_after_the_time_out(scheme, silent_port, machine, files):
    """D5: the seconds are said, and nothing that was started goes on."""
    remote = machine("git", f"{scheme}://127.0.0.1:{silent_port}/it.git", timeout=1.0)
    with pytest.raises(RemoteUnreachable, match=r"^nothing answers at git:.* within 1 s: check the address"):
        remote.items()


@pytest.mark.parametrize("place", ["http://127.0.0.1:{}/x", "git://127.0.0.1:{}/x", "http://unknown.invalid/x"])
def test_nobody_there(place, silent_port, machine):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(RemoteUnreachable, match=r"^git:.*/x does not answer: .*; check the address and the network$"):
        machine("git", place.format(port)).items()


def test_a_download_that_stands_still_is_left(web, machine, files, fetched, tmp_path):
    """D5: nothing half is left in the target's place, and the next call goes on."""
    machine("git+lfs", web.url).put(files({"cache/a": b"a" * 1_000_000}))
    other = machine("git+lfs", web.url, timeout=2.0)
    web.silent.set()
    with pytest.raises(RemoteUnreachable) as caught:
        fetched(other, "cache/a")
    assert web.password not in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if "fetched" in path.name]
    web.silent.clear()
    assert fetched(other, "cache/a") == b"a" * 1_000_000


def test_a_transfer_that_says_nothing_is_stopped(web, machine, files, shim, tmp_path):
    """D5: the place has answered, and then git stands still; nothing of it is left running."""
    machine("git", web.url).put(files({"cache/a": b"a"}))
    shim(f"case \"$1\" in fetch) sleep 100 & echo $! > '{tmp_path}/child'; wait;; esac")
    with pytest.raises(
        RemoteUnreachable, match=r"^nothing answers at .* within 6 s: check the address and the network$"
    ):
        machine("git", web.url, timeout=2.0).items()
    child = (tmp_path / "child").read_text().strip()
    assert subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True).stdout.strip()[:1] in (
        "",
        "Z",
    )


@pytest.mark.parametrize("setting", ["GIT_SSH_COMMAND", "core.sshCommand", ""])
def test_git_is_told_never_to_ask(setting, machine, home, monkeypatch, shim, tmp_path):
    """D5: the user's own ssh command stays in use."""
    shim(f"case \"$1\" in ls-remote) env > '{tmp_path}/variables';; esac")
    (tmp_path / "ssh").write_text(f"#!/bin/sh\necho \"$@\" > '{tmp_path}/words'\nexit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    if setting == "core.sshCommand":
        (home / ".gitconfig").write_text(f"[core]\n\tsshCommand = {tmp_path}/ssh -v\n")
    elif setting:
        monkeypatch.setenv(setting, f"{tmp_path}/ssh -v")
    else:
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(RemoteError):
        machine("git", "ssh://unknown.invalid/x.git").items()
    words = (tmp_path / "words").read_text()
    assert words.startswith("-v -o BatchMode=yes -o ConnectTimeout=20 " if setting else "-o BatchMode=yes ")
    variables = (tmp_path / "variables").read_text().splitlines()
    assert {"GIT_TERMINAL_PROMPT=0", "GCM_INTERACTIVE=never", "GIT_ASKPASS="} <= set(variables)


def test_an_lfs_object_that_the_server_has_lost(web, machine, files, fetched):
    machine("git+lfs", web.url).put(files({"cache/a": b"a"}))
    oid = next(iter(web.objects))
    web.objects.clear()
    with pytest.raises(
        RemoteError, match=f"^cache/a: the LFS object {oid} is missing at git.lfs:http://{web.host}/it.git"
    ):
        fetched(machine("git+lfs", web.url), "cache/a")


@pytest.mark.parametrize("key", ["insteadOf", "pushInsteadOf"])
@pytest.mark.parametrize("status", [502, 503, 404, 500, 400])
def test_a_token_of_a_rewritten_address_is_not_shown(status, key, web, machine, files, home):
    """D5: CI machines keep a token in `url.*.insteadOf`; git-lfs prints it when the service fails."""
    web.lfs_status = status
    rewritten = f"http://{web.user}:{web.password}@{web.host}/"
    (home / ".gitconfig").write_text(
        f'[url "{rewritten}"]\n\tinsteadOf = http://{web.host}/\n\t{key} = http://{web.host}/\n'
    )
    with pytest.raises(RemoteError) as caught:
        machine("git+lfs", f"http://{web.host}/it.git").put(files({"cache/a": b"a" * 300}))
    message = str(caught.value)
    assert web.password not in message
    assert web.user not in message
    assert "{" not in message
    assert "\n" not in message
    if status in (500, 502, 503):
        assert message == (
            f"the LFS service of git+lfs:http://{web.host}/it.git answers with {status}: run the same command again later"
        )
    if status == 404:
        assert message.startswith(f"the repository at git+lfs:http://{web.host}/it.git has no LFS service, or ")
        assert f"git:http://{web.host}/it.git" in message


def test_a_server_that_is_out_of_order(web, machine, files):
    """D5: it says nothing against the clone, which stays."""
    remote = machine("git", web.url)
    remote.put(files({"cache/a": b"a"}))
    web.git_status = 503
    for action in (remote.items, lambda: remote.put(files({"cache/b": b"b"}))):
        with pytest.raises(RemoteError, match=r"^git:http://[^ ]* answers with 503: run the same command again later$"):
            action()
    assert remote._folders.clone.is_dir()


def test_a_download_from_a_service_that_is_out_of_order(web, machine, files, fetched):
    machine("git+lfs", web.url).put(files({"cache/a": b"a" * 300}))
    web.lfs_status = 503
    with pytest.raises(RemoteError, match=r"^the LFS service of git\+lfs:http://[^ ]* answers with 503: run the same"):
        fetched(machine("git+lfs", web.url), "cache/a")
