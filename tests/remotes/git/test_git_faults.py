"""Races, kills and damage: nothing is ever lost, and what was left behind stops nobody (D5)."""

import os
import random
import shutil
import signal

import pytest

from unbroken.errors import NotFound, RemoteError, RemoteRefused
from unbroken.remotes.contract import Item, Put
from unbroken.remotes.git import remote as remote_module

LINES = b"one\r\ntwo\nthree\r\n"


@pytest.mark.parametrize("kind", ["git", "git+lfs"])
def test_a_push_that_comes_second_goes_on_top(
    kind, repository, machine, files, fetched, shim, tmp_path, one_line_of, users_clone
):
    """D5: others push between our look and our push, three times; their name wins, nothing is lost, nobody is overwritten."""
    clone = users_clone(tmp_path / "clone")
    shim(f"""
    case "$1" in push) n=$(cat '{tmp_path}/n' 2>/dev/null || echo 0); echo $((n + 1)) > '{tmp_path}/n'
    if [ $n -lt 3 ]; then
        (unset GIT_CONFIG_COUNT; cd '{clone}' && mkdir -p cache && echo theirs > cache/$n && "$GIT" add . &&
        "$GIT" -c user.name=me -c user.email=me commit -qm $n && "$GIT" push -q '{repository}' HEAD:trunk) >&2
    fi;; esac""")
    written = Put(written=("cache/mine",), present=("cache/1",))
    assert machine(kind).put(files({"cache/mine": LINES, "cache/1": b"late"})) == written
    assert one_line_of(4)
    other = machine(kind)
    assert [item.name for item in other.items()] == ["cache/0", "cache/1", "cache/2", "cache/mine"]
    assert (fetched(other, "cache/1"), fetched(other, "cache/mine")) == (b"theirs\n", LINES)


def test_a_race_that_is_never_won_ends(repository, machine, files, shim, monkeypatch, tmp_path, one_line_of):
    """D5, A6: the number of tries is bounded, nothing is forced, and the waits draw no number from the training's generator."""
    machine().put(files({"a": b"a"}))
    shim(f"""
    case "$1" in push) (unset GIT_CONFIG_COUNT; cd '{repository}' &&
        c=$("$GIT" -c user.name=me -c user.email=me commit-tree -p trunk -m more 'trunk^{{tree}}') &&
        "$GIT" update-ref refs/heads/trunk $c);; esac""")
    monkeypatch.setattr(remote_module, "_TRIES", 3)
    state = random.getstate()
    with pytest.raises(RemoteError, match=r"^other machines were faster at git:.* 3 times in a row: run the same"):
        machine().put(files({"b": b"b"}))
    assert random.getstate() == state
    assert one_line_of(4)


def test_a_branch_in_the_way(repository, machine, files):
    """D5: git keeps `cache` and `cache/mine` in one place; no other machine is blamed."""
    machine(place=f"{repository}#cache").put(files({"a": b"a"}))
    with pytest.raises(
        RemoteRefused,
        match=r"^git:.*#cache/mine cannot have a branch cache/mine beside its branch cache, .* another name$",
    ):
        machine(place=f"{repository}#cache/mine").put(files({"a": b"a"}))


def test_a_lock_that_stays_at_the_place(repository, machine, files):
    """D5: who killed a git command there is told which file is in the way."""
    lock = repository / "refs" / "heads" / "trunk.lock"
    remote = machine()
    for name in ("a", "b"):
        lock.touch()
        with pytest.raises(
            RemoteError, match=r"^git:.* keeps the branch locked: if no .*, remove the file .*/trunk\.lock there$"
        ):
            remote.put(files({name: b"a"}))
        lock.unlink()
        assert remote.put(files({name: b"a"})) == Put(written=(name,))


def test_a_lock_that_is_held_for_a_moment_is_waited_for(repository, machine, files, shim, tmp_path):
    """D5: another machine's push is about to end."""
    machine().put(files({"a": b"a"}))
    lock = repository / "refs" / "heads" / "trunk.lock"
    shim(
        f"case \"$1\" in push) if [ -f '{tmp_path}/seen' ]; then rm -f '{lock}'; else touch '{lock}' '{tmp_path}/seen'; fi;; esac"
    )
    assert machine().put(files({"b": b"b"})) == Put(written=("b",))


def unrelated(git, repository):
    tree = git("rev-parse", "first^{tree}", cwd=repository)
    identity = ("-c", "user.name=me", "-c", "user.email=me")
    git(
        "update-ref",
        "refs/heads/trunk",
        git(*identity, "commit-tree", "-m", "anew", tree, cwd=repository),
        cwd=repository,
    )


REWRITES = {
    "forced": lambda git, repository: git("update-ref", "refs/heads/trunk", "first", cwd=repository),
    "unrelated": unrelated,
    "deleted": lambda git, repository: git("update-ref", "-d", "refs/heads/trunk", cwd=repository),
}


@pytest.mark.parametrize("kind", ["git", "git+lfs"])
@pytest.mark.parametrize("rewrite", REWRITES)
def test_a_branch_that_its_owner_rewrites(rewrite, kind, git, repository, machine, files, fetched, one_line_of):
    """D5: what is there now counts; nothing that the owner removed comes back, and what is put goes on top."""
    writer, reader = machine(kind), machine(kind)
    writer.put(files({"cache/kept": b"kept"}))
    git("tag", "first", "trunk", cwd=repository)
    writer.put(files({"cache/dropped": b"dropped"}))
    assert len(reader.items()) == 2
    REWRITES[rewrite](git, repository)
    left = [] if rewrite == "deleted" else ["cache/kept"]
    assert [item.name for item in reader.items()] == left
    with pytest.raises(NotFound):
        reader.fetch("cache/dropped", repository.parent / "target")
    assert writer.put(files({"cache/new": b"new"})) == Put(written=("cache/new",))
    assert writer.put(files({"cache/dropped": b"again"})) == Put(written=("cache/dropped",))
    for remote in (reader, writer, machine(kind)):
        assert [item.name for item in remote.items()] == ["cache/dropped", *left, "cache/new"]
        assert fetched(remote, "cache/dropped") == b"again"
    git("tag", "--delete", "first", cwd=repository)
    assert one_line_of({"forced": 3, "unrelated": 3, "deleted": 2}[rewrite])


@pytest.mark.parametrize("kind", ["git", "git+lfs"])
def test_a_repository_that_is_made_again(kind, git, repository, machine, files, fetched):
    """D5: an old clone of something else under the same address harms nothing."""
    old = machine(kind)
    old.put(files({"cache/a": b"old"}))
    shutil.rmtree(repository)
    git("init", "--bare", "--initial-branch=trunk", repository)
    assert old.items() == []
    machine(kind).put(files({"cache/a": b"new"}))
    assert fetched(machine(kind), "cache/a") == b"new"
    assert old.put(files({"cache/a": b"a", "cache/b": b"b"})) == Put(written=("cache/b",), present=("cache/a",))
    assert fetched(old, "cache/a") == b"new"


@pytest.mark.parametrize("kind", ["git", "git+lfs"])
@pytest.mark.parametrize("workspaces", [("one", "two"), ("one", "one")])
def test_processes_at_once_lose_nothing(kind, workspaces, machine, files, fetched, putting, one_line_of):
    """D5: two machines, and two processes of one machine that share the workspace."""
    rounds = 3
    paths = [
        list(files({f"{who}{n}": b"%d %d" % (who, n) for n in range(rounds)}, f"from {who}").values()) for who in (0, 1)
    ]
    renamed = [[path.rename(path.with_name(f"{who}-{path.name}")) for path in paths[who]] for who in (0, 1)]
    processes = [putting(kind, workspace, own) for workspace, own in zip(workspaces, renamed, strict=True)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    written = " ".join(process.communicate()[0] for process in processes).split()
    assert [process.returncode for process in processes] == [0, 0]
    names = sorted(f"cache/{who}-{n}" for who in (0, 1) for n in range(rounds))
    assert sorted(written) == sorted([*names, "cache/shared"])
    other = machine(kind)
    assert [item.name for item in other.items()] == [*names, "cache/shared"]
    assert [fetched(other, name) for name in names] == [b"%d %d" % (who, n) for who in (0, 1) for n in range(rounds)]
    assert one_line_of(2 * rounds)


PLAIN_POINTS = ["init", "fetch", "hash-object", "update-index", "commit-tree", "push", "update-ref"]
DYING = """
case "$*" in {point}*)
    if [ {when} = before ]; then kill -9 $VICTIM; exit 1; fi
    if [ {when} = during ]; then "$GIT" "$@" & kill -9 $VICTIM; wait; exit 1; fi
    "$GIT" "$@"; kill -9 $VICTIM; exit 1;;
esac
"""


@pytest.mark.parametrize(
    ("kind", "point", "when"),
    [
        *[("git", point, "after") for point in PLAIN_POINTS],
        ("git", "fetch", "during"),
        ("git", "push", "before"),
        ("git", "push", "during"),
        ("git+lfs", "lfs push", "before"),
        ("git+lfs", "lfs push", "during"),
        ("git+lfs", "push", "before"),
    ],
)
def test_kill_9_in_a_put(kind, point, when, machine, files, fetched, putting, shim, monkeypatch, one_line_of):
    """D5: what a killed process and its orphans leave behind stops nobody; the same put goes on."""
    machine(kind).put(files({"cache/earlier": b"earlier"}))
    path = files({"new": LINES * 10_000})["new"]
    with monkeypatch.context() as patch:
        patch.setenv("PATH", os.environ["PATH"])
        shim(DYING.format(point=f"*'{point}'" if point.startswith("lfs") else point, when=when))
        process = putting(kind, "the workspace", [path])
        process.communicate("\n")
        assert process.returncode == -signal.SIGKILL
    monkeypatch.setenv("PATH", os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if "shim" not in p))
    same = machine(kind, workspace="the workspace")
    put = same.put({f"cache/{path.name}": path, "cache/shared": path})
    assert sorted([*put.written, *put.present]) == [f"cache/{path.name}", "cache/shared"]
    other = machine(kind)
    for remote in (same, other):
        assert remote.items() == [
            Item(f"cache/{path.name}", len(LINES) * 10_000),
            Item("cache/earlier", 7),
            Item("cache/shared", len(LINES) * 10_000),
        ]
        assert fetched(remote, "cache/shared") == LINES * 10_000
    assert one_line_of(2)
    assert not list(same._folders.scratch.glob("*"))


def truncate(path):
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "locks": lambda clone: [
        (clone / f"{name}.lock").write_bytes(b"")
        for name in ("shallow", "refs/heads/tip", "HEAD", "config", "packed-refs")
    ],
    "configuration": lambda clone: (clone / "config").write_bytes(b"[core\0"),
    "head": lambda clone: (clone / "HEAD").unlink(),
    "objects": lambda clone: shutil.rmtree(clone / "objects"),
    "truncated objects": lambda clone: [truncate(path) for path in (clone / "objects").glob("*/*") if path.is_file()],
    "reference": lambda clone: (clone / "refs" / "heads" / "tip").write_bytes(b""),
    "unknown commit": lambda clone: (clone / "refs" / "heads" / "tip").write_bytes(b"1" * 40 + b"\n"),
    "shallow": lambda clone: (clone / "shallow").write_bytes(b"what?\n"),
    "gone": lambda clone: shutil.rmtree(clone),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_clone_heals(damage, repository, machine, files, fetched):
    """D5: whatever was done to it, for a remote that was at work already and for a new one."""
    old = machine(workspace="the workspace")
    old.put(files({"cache/a": b"a"}))
    machine().put(files({"cache/b": LINES}))
    new = machine(workspace="the workspace")
    for action in (
        lambda: fetched(old, "cache/a") == b"a",
        lambda: new.items()[1:] == [Item("cache/b", len(LINES)), Item("cache/c", 1)],
        lambda: old.put(files({"cache/d": b"d"})).written == ("cache/d",),
    ):
        DAMAGES[damage](old._folders.clone)
        assert action()
        machine().put(files({"cache/c": b"c"}))
    assert fetched(old, "cache/b") == LINES
