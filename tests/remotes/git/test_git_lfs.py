"""Objects in Git LFS: the contract, pointers that were never fetched, lost and damaged objects, users' own rules (D5)."""

import hashlib
import shutil

import pytest

from unbroken.errors import MissingExtra, RemoteError
from unbroken.remotes.contract import Item, Put
from unbroken.remotes.lfs_pointer import LfsPointer, is_lfs_pointer, parse_lfs_pointer
from unbroken.testing.remote_contract import RemoteContract

CONTENT = b"one\r\ntwo\n" * 1000
OID = hashlib.sha256(CONTENT).hexdigest()
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize {len(CONTENT)}\n".encode()


class TestLfs(RemoteContract):
    @pytest.fixture
    def remote(self, machine):
        return machine("git+lfs")

    @pytest.fixture
    def second(self, machine):
        return machine("git+lfs")


@pytest.fixture
def with_lfs(git, home):
    """The user has installed git-lfs and has a name."""
    git("lfs", "install", "--skip-repo")
    git("config", "--global", "user.name", "me")
    git("config", "--global", "user.email", "me@here")


@pytest.fixture
def stored(repository):
    """Where the repository keeps the content of the tests."""
    return repository / "lfs" / "objects" / OID[:2] / OID[2:4] / OID


def test_the_repository_holds_pointers_and_users_see_contents(
    git, repository, machine, files, with_lfs, stored, tmp_path
):
    """D5: the tool sets up `.gitattributes`; a clone with git-lfs needs nothing else, and what it pushes is read."""
    machine("git+lfs").put(files({"cache/a.npz": CONTENT, "cache/empty": b"", "top": CONTENT}))
    assert git("cat-file", "blob", "trunk:cache/a.npz", cwd=repository).encode() + b"\n" == POINTER
    assert git("cat-file", "-s", "trunk:cache/empty", cwd=repository) == "0"
    assert stored.read_bytes() == CONTENT
    clone = tmp_path / "clone"
    git("clone", "--quiet", repository, clone)
    assert (clone / "cache" / "a.npz").read_bytes() == (clone / "top").read_bytes() == CONTENT
    rules = "/cache/** filter=lfs diff=lfs merge=lfs -text\n/top filter=lfs diff=lfs merge=lfs -text\n"
    assert (clone / ".gitattributes").read_text() == rules
    assert git("status", "--porcelain", cwd=clone) == ""
    (clone / "cache" / "b").write_bytes(b"from the laptop")
    git("add", ".", cwd=clone)
    git("commit", "--quiet", "-m", "b", cwd=clone)
    git("push", "--quiet", "origin", "HEAD", cwd=clone)
    assert Item("cache/b", 15) in machine("git+lfs").items("cache/")


def test_pointers_that_were_not_fetched_are_known(git, repository, machine, files, fetched, with_lfs, tmp_path):
    """D5: a clone without contents is recognised, its files are not put in the place of contents, `fetch` gets these."""
    machine("git+lfs").put(files({"cache/a": CONTENT}))
    clone = tmp_path / "clone"
    git("clone", "--quiet", repository, clone, GIT_LFS_SKIP_SMUDGE="1")
    unfetched = clone / "cache" / "a"
    assert is_lfs_pointer(unfetched)
    for kind in ("git", "git+lfs"):
        with pytest.raises(RemoteError, match=r"cache/a is an LFS pointer without its content: run `git lfs pull`"):
            machine(kind).put({"cache/b": unfetched})
    remote = machine("git+lfs")
    assert remote.items() == [Item("cache/a", len(CONTENT))]
    assert fetched(remote, "cache/a") == CONTENT
    git("lfs", "pull", cwd=clone)
    assert not is_lfs_pointer(unfetched)


@pytest.mark.parametrize(
    ("content", "pointer"),
    [
        (POINTER, LfsPointer(OID, len(CONTENT))),
        (POINTER.replace(b"\n", b"\r\n"), LfsPointer(OID, len(CONTENT))),
        (POINTER.replace(b"oid", b"ext-0-x sha256:" + b"1" * 64 + b"\noid"), LfsPointer(OID, len(CONTENT))),
        (b"", None),
        (POINTER + b"more", None),
        (POINTER[:-8], None),
        (POINTER.replace(b"size ", b"size -"), None),
        (b" " + POINTER, None),
        (POINTER + b"x" * 2000, None),
        (b"version https://git-lfs.github.com/spec/v1\n", None),
    ],
)
def test_pointers(content, pointer, tmp_path):
    assert parse_lfs_pointer(content) == pointer
    (tmp_path / "file").write_bytes(content)
    assert is_lfs_pointer(tmp_path / "file") is (pointer is not None)


def test_what_is_no_file_is_no_pointer(tmp_path):
    assert not is_lfs_pointer(tmp_path)
    assert not is_lfs_pointer(tmp_path / "none")


def test_our_pointers_are_those_of_git_lfs(git, files, tmp_path):
    path = files({"a": CONTENT})["a"]
    said = git("lfs", "pointer", f"--file={path}", cwd=tmp_path)
    assert said.encode() + b"\n" == LfsPointer(OID, len(CONTENT)).text() == POINTER


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: path.unlink(), "is missing at"),
        (lambda path: path.write_bytes(CONTENT[:-1]), "is missing at"),
        (lambda path: path.write_bytes(b"x" * len(CONTENT)), "is damaged at"),
    ],
)
def test_an_object_that_the_place_has_lost(harm, words, machine, files, stored, tmp_path):
    """D5: it is named, nothing half is written, and the others are still to be had."""
    machine("git+lfs").put(files({"cache/a": CONTENT, "cache/b": b"b"}))
    stored.chmod(0o644)
    harm(stored)
    target = tmp_path / "to" / "a"
    target.parent.mkdir()
    target.write_bytes(b"kept")
    remote = machine("git+lfs")
    for _ in range(2):
        with pytest.raises(
            RemoteError, match=f"^cache/a: the LFS object {OID} (?:{words}) .*: run `git lfs push --all"
        ) as caught:
            remote.fetch("cache/a", target)
        assert "\n" not in str(caught.value)
        assert list(target.parent.iterdir()) == [target]
        assert target.read_bytes() == b"kept"
    remote.fetch("cache/b", target)
    assert target.read_bytes() == b"b"


def test_nothing_is_shared_with_the_place(machine, files, stored, tmp_path):
    """D5: git-lfs links files of one file system to each other; what happens to ours must not reach the place's."""
    source = files({"cache/a": CONTENT})
    here, there = machine("git+lfs"), machine("git+lfs")
    here.put(source)
    target = tmp_path / "target"
    there.fetch("cache/a", target)
    for path in (source["cache/a"], target):
        assert not path.samefile(stored)
        with path.open("r+b") as file:
            file.write(b"changed")
    assert stored.read_bytes() == CONTENT
    kept = [path for remote in (here, there) for path in (remote._folders.clone / "lfs" / "objects").glob("*/*/*")]
    assert kept == []


def test_many_objects_come_in_one_go(machine, files, fetched, commands):
    """D5: one question for all of them; without it one for each, and still none for what is known already."""
    contents = {f"cache/{n}": b"%d" % n for n in range(12)}
    machine("git+lfs").put(files(contents))
    remote = machine("git+lfs")
    remote.items()
    commands()
    remote.prefetch([*contents, "cache/none"])
    assert [line.split()[:2] for line in commands()] == [["ls-remote", "--symref"], ["lfs", "fetch"]]
    assert {name: fetched(remote, name) for name in contents} == contents
    assert commands() == []
    assert fetched(remote, "cache/3") == b"3"
    assert [line.split()[:2] for line in commands()] == [["lfs", "fetch"]]


@pytest.mark.parametrize("kind", ["git", "git+lfs"])
def test_the_repositorys_own_rules_decide(kind, git, repository, machine, files, fetched, with_lfs, tmp_path):
    """D5: what a user's `.gitattributes` puts into LFS, or keeps out of it further down, goes there, whatever the address."""
    clone = tmp_path / "clone"
    git("clone", "--quiet", repository, clone)
    (clone / "cache").mkdir()
    (clone / ".gitattributes").write_text("*.npz filter=lfs diff=lfs merge=lfs -text\n")
    (clone / "cache" / "notes.txt").write_text("of the user's own")
    (clone / "cache" / ".gitattributes").write_text("*.json -text -filter\n")
    git("add", ".", cwd=clone)
    git("commit", "--quiet", "-m", "rules", cwd=clone)
    git("push", "--quiet", "origin", "HEAD", cwd=clone)
    contents = {"cache/a.npz": CONTENT, "cache/a.json": b"{}", "cache/a [1].bin": b"1"}
    machine(kind).put(files(contents))
    git("pull", "--quiet", cwd=clone)
    in_lfs = ["cache/a.npz"] if kind == "git" else ["cache/a [1].bin", "cache/a.npz"]
    assert git("lfs", "ls-files", "--name-only", cwd=clone).splitlines() == in_lfs
    assert git("status", "--porcelain", cwd=clone) == ""
    assert (clone / "cache" / "a.npz").read_bytes() == CONTENT
    assert git("check-attr", "text", "--", "cache/notes.txt", cwd=clone) == "cache/notes.txt: text: unspecified"
    for reader in ("git", "git+lfs"):
        other = machine(reader)
        sizes = {item.name: item.size for item in other.items("cache/a")}
        assert sizes == {name: len(content) for name, content in contents.items()}
        assert {name: fetched(other, name) for name in contents} == contents


@pytest.mark.parametrize(
    ("kind", "rule", "words"),
    [("git+lfs", "* -text -filter", "kept out of Git LFS"), ("git", "*.txt text", "open to conversion of newlines")],
)
def test_what_a_rule_further_down_forbids_is_said(kind, rule, words, git, repository, machine, files, caplog, tmp_path):
    """D5: it is obeyed, a warning names the first object, and no line is added that it would overrule again and again."""
    clone = tmp_path / "clone"
    git("clone", "--quiet", repository, clone)
    (clone / "cache").mkdir()
    (clone / "cache" / ".gitattributes").write_text(f"{rule}\n")
    git("add", ".", cwd=clone)
    git("-c", "user.name=me", "-c", "user.email=me", "commit", "--quiet", "-m", "rules", cwd=clone)
    git("push", "--quiet", "origin", "HEAD", cwd=clone)
    remote = machine(kind)
    for number in range(2):
        remote.put(files({f"cache/{number}.txt": CONTENT}))
    said = [record.getMessage() for record in caplog.records if record.name == "unbroken"]
    assert said == [
        f"[REMOTE] WARNING: {kind}:{repository}: cache/0.txt is {words}"
        + (" in clones" if kind == "git" else "")
        + " by a .gitattributes of the repository"
    ]
    assert git("cat-file", "-s", "trunk:cache/1.txt", cwd=repository) == str(len(CONTENT))
    assert git("ls-tree", "--name-only", "trunk", cwd=repository) == "cache"
    remote.put(files({"cache/2.txt": CONTENT, "other/a": b"a"}))
    lines = git("cat-file", "blob", "trunk:.gitattributes", cwd=repository).splitlines()
    assert [line.split()[0] for line in lines] == ["/other/**"]


def test_settings_of_lfs_in_the_repository_are_obeyed(git, repository, machine, files, fetched, stored, tmp_path):
    """D5: `.lfsconfig` may keep contents elsewhere, and may exclude them from a user's own clones only."""
    elsewhere = tmp_path / "elsewhere.git"
    git("init", "--bare", elsewhere)
    clone = tmp_path / "clone"
    git("clone", "--quiet", repository, clone)
    git("config", "--file", clone / ".lfsconfig", "lfs.url", f"file://{elsewhere}")
    git("config", "--file", clone / ".lfsconfig", "lfs.fetchexclude", "*")
    git("add", ".", cwd=clone)
    git("-c", "user.name=me", "-c", "user.email=me", "commit", "--quiet", "-m", "settings", cwd=clone)
    git("push", "--quiet", "origin", "HEAD", cwd=clone)
    machine("git+lfs").put(files({"cache/a": CONTENT}))
    assert not stored.exists()
    assert (elsewhere / stored.relative_to(repository)).read_bytes() == CONTENT
    assert fetched(machine("git+lfs"), "cache/a") == CONTENT


def test_nothing_is_committed_without_its_content(git, repository, machine, files, shim):
    """D5: where contents cannot be stored, no pointer is left behind."""
    shim('case "$*" in "lfs push"*) echo "batch response: no space for this" >&2; exit 2;; esac')
    with pytest.raises(RemoteError, match=r"^git-lfs cannot store objects at git\+lfs:.*: no space for this$"):
        machine("git+lfs").put(files({"cache/a": CONTENT}))
    assert git("for-each-ref", cwd=repository) == ""


def test_without_git_lfs(machine, files, fetched, monkeypatch, tmp_path):
    """D5: the way out is said at the first call, and by plain git when it meets what only LFS has."""
    machine("git+lfs").put(files({"cache/a": CONTENT}))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").symlink_to(shutil.which("git"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(
        MissingExtra, match=r"^git-lfs is not installed, which git\+lfs:.* needs: install it \(apt install"
    ):
        machine("git+lfs").items()
    plain = machine()
    assert plain.items() == [Item("cache/a", len(CONTENT))]
    with pytest.raises(MissingExtra, match=r"^git-lfs is not installed, which git:"):
        fetched(plain, "cache/a")
    assert plain.put(files({"other/b": b"b"})) == Put(written=("other/b",))
