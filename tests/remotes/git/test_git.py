"""A branch of a repository as a remote: the contract, what users see in their own clones, settings, faults, kills (D5)."""

import os
import shutil
import signal
import subprocess
import time

import pytest

from unbroken.errors import MissingExtra, NotFound, RemoteError, RemoteRefused, RemoteUnreachable, UsageError
from unbroken.remotes.contract import Item, Put
from unbroken.remotes.git import GitRemote
from unbroken.remotes.git import clone as clone_module
from unbroken.remotes.git import commands as commands_module
from unbroken.remotes.git import remote as remote_module
from unbroken.remotes.git.address import parse_address
from unbroken.store.lock import ExclusiveLock
from unbroken.testing.remote_contract import RemoteContract

LINES = b"one\r\ntwo\nthree\r\n"


class TestPlain(RemoteContract):
    @pytest.fixture
    def remote(self, machine):
        return machine()

    @pytest.fixture
    def second(self, machine):
        return machine()


class TestLight(RemoteContract):
    """The place sends commits without contents, as the large hosts do; a path never does, file:// does."""

    @pytest.fixture
    def place(self, repository, git):
        git("config", "uploadpack.allowFilter", "true", cwd=repository)
        return f"file://{repository}"

    @pytest.fixture
    def remote(self, machine, place):
        return machine(place=place)

    @pytest.fixture
    def second(self, machine, place):
        return machine(place=place)

    def test_contents_come_only_when_they_are_asked_for_and_all_at_once(
        self, place, remote, machine, files, fetched, commands, git, tmp_path
    ):
        """D5: a repository full of other things costs little."""
        contents = {f"cache/{n}": b"%d" % n for n in range(20)}
        remote.put(files({"data/large": os.urandom(2_000_000)} | contents))
        third = machine(place=place)
        commands()
        assert [item.name for item in third.items("cache/")] == sorted(contents)
        assert [line.split()[0] for line in commands()] == ["ls-remote", "fetch", "-c"]
        assert third.put(files({"cache/new": b"new"})) == Put(written=("cache/new",))
        assert [line.split()[0] for line in commands()] == ["ls-remote", "-c", "push"]
        assert {name: fetched(third, name) for name in contents} == contents
        assert commands() == []
        assert sum(path.stat().st_size for path in tmp_path.glob("workspace 3*/**/*") if path.is_file()) < 200_000
        assert fetched(third, "data/large") == fetched(remote, "data/large")

    def test_an_interrupted_listing_goes_on(self, place, remote, machine, files, monkeypatch, shim, tmp_path):
        """D5: what has arrived is not fetched again by the next process."""
        monkeypatch.setattr(clone_module, "_PER_FETCH", 8)
        contents = {f"cache/{n}": b"%d" % n for n in range(20)}
        remote.put(files(contents))
        shim(f"""
        case "$1" in -c)
            cat > '{tmp_path}/given'; wc -l < '{tmp_path}/given' >> '{tmp_path}/asked'
            if [ $(wc -l < '{tmp_path}/asked') = 2 ]; then echo 'fatal: early EOF' >&2; exit 128; fi
            exec < '{tmp_path}/given';;
        esac""")
        with pytest.raises(RemoteUnreachable):
            machine(place=place, workspace="third").items("cache/")
        assert [item.name for item in machine(place=place, workspace="third").items("cache/")] == sorted(contents)
        assert (tmp_path / "asked").read_text().split() == ["8", "8", "8", "4"]

    def test_a_place_that_sends_no_single_contents_sends_all(self, place, remote, machine, files, fetched, home):
        """D5: an old protocol where commits come without contents and contents cannot be asked for."""
        (home / ".gitconfig").write_text("[protocol]\n\tversion = 0\n")
        remote.put(files({"cache/a": b"a", "cache/b": LINES}))
        third = machine(place=place)
        assert third.items() == [Item("cache/a", 1), Item("cache/b", len(LINES))]
        assert fetched(third, "cache/b") == LINES


class TestUsersClone:
    def test_it_shows_the_objects_as_files(self, git, repository, machine, files, tmp_path, one_line_of, users_clone):
        """D5: on the repository's own default branch, though nobody has made that yet; one commit for each put."""
        machine().put(files({"cache/a b é.json": b"{}", "top [1].bin": LINES}))
        machine().put(files({"cache/b": b"b"}))
        clone = users_clone(tmp_path / "clone")
        assert (clone / "cache" / "a b é.json").read_bytes() == b"{}"
        assert (clone / "top [1].bin").read_bytes() == LINES
        assert one_line_of(2)
        assert git("log", "-1", "--format=%an %s", cwd=clone) == "unbroken Add cache/b"

    def test_what_a_user_pushes_is_an_object(self, git, machine, files, fetched, tmp_path, users_clone):
        """D5: laptop to machine; git's own files and links are no objects."""
        clone = users_clone(tmp_path / "clone")
        (clone / "cache").mkdir()
        (clone / "cache" / "a").write_bytes(b"a")
        (clone / ".gitignore").write_bytes(b"x")
        (clone / "link").symlink_to("cache/a")
        git("add", ".", cwd=clone)
        git("-c", "user.name=me", "-c", "user.email=me@here", "commit", "-m", "mine", cwd=clone)
        git("push", "origin", "HEAD", cwd=clone)
        remote = machine()
        assert remote.items() == [Item("cache/a", 1)]
        assert fetched(remote, "cache/a") == b"a"
        assert remote.put(files({"link": b"link", "cache/b": b"b"})) == Put(written=("cache/b",), present=("link",))
        git("pull", "--quiet", cwd=clone)
        assert (clone / ".gitignore").read_bytes() == b"x"
        assert (clone / "link").is_symlink()

    def test_newlines_stay_though_git_is_told_to_convert_them(self, git, home, machine, files, tmp_path, users_clone):
        """D5: core.autocrlf, Windows' default, and a `.gitattributes` that converts everything; that one only grows."""
        (home / ".gitconfig").write_text("[core]\n\tautocrlf = true\n\teol = crlf\n[user]\n\tname = a\n\temail = b\n")
        clone = users_clone(tmp_path / "clone")
        theirs = b"# ours\n* text=auto eol=crlf\n*.keep -text"
        (clone / ".gitattributes").write_bytes(theirs)
        git("add", ".", cwd=clone)
        git("commit", "-m", "mine", cwd=clone)
        git("push", "origin", "HEAD", cwd=clone)
        contents = {
            "cache/a.txt": LINES,
            "cache/b.txt": b"\n",
            'a "quoted" one': LINES,
            "x.keep": LINES,
            "[a]*?": b"\n",
        }
        machine().put(files(contents))
        machine().put(files({"cache/c.txt": b"\n"}))
        again = users_clone(tmp_path / "again")
        assert {name: (again / name).read_bytes() for name in contents} == contents
        assert git("status", "--porcelain", cwd=again) == ""
        rules = (again / ".gitattributes").read_bytes().replace(b"\r\n", b"\n")
        assert rules.startswith(theirs)
        assert rules.removeprefix(theirs).decode().split("\n") == [
            "",
            "/cache/** -text",
            r'"/a \"quoted\" one" -text',
            r"/\[a\]\*\? -text",
            "",
        ]

    def test_the_branch_in_the_address_is_used(self, repository, machine, files, tmp_path, one_line_of):
        """D5: beside the code of a project, on a branch without its history."""
        machine().put(files({"code": b"code"}))
        remote = machine(place=f"{repository}#our/cache")
        assert remote.items() == []
        assert remote.put(files({"cache/a": b"a"})) == Put(written=("cache/a",))
        assert machine(place=f"{repository}#our/cache").items() == [Item("cache/a", 1)]
        assert machine().items() == [Item("code", 4)]
        assert one_line_of(1, "our/cache")
        assert remote.url == f"git:{repository}#our/cache"

    def test_without_a_default_branch_it_is_main(self, git, repository, machine, files):
        """D5: HEAD names a branch that does not exist, another one does; once it exists, it is the default."""
        machine(place=f"{repository}#main").put(files({"a": b"a"}))
        assert machine().items() == [Item("a", 1)]
        machine(place=f"{repository}#trunk").put(files({"b": b"b"}))
        assert machine().items() == [Item("b", 1)]
        git("symbolic-ref", "HEAD", "refs/heads/none", cwd=repository)
        git("update-ref", "-d", "refs/heads/main", cwd=repository)
        assert machine().items() == []

    def test_a_work_tree_takes_another_branch_only(self, git, machine, files, tmp_path):
        place = tmp_path / "work"
        git("init", "--initial-branch=main", place)
        with pytest.raises(RemoteRefused, match=r"^the branch is checked out at git:.*work, .*\(git:.*work#cache\)$"):
            machine(place=place).put(files({"b": b"b"}))
        assert machine(place=f"{place}#cache").put(files({"b": b"b"})) == Put(written=("b",))


HOSTILE = """
[core]
    autocrlf = true
    safecrlf = true
    hooksPath = {home}/hooks
    attributesFile = {home}/attributes
    fsmonitor = false-command
    logAllRefUpdates = always
[init]
    templateDir = {home}/template
    defaultBranch = wrong
[commit]
    gpgSign = true
[gpg]
    program = false
[user]
    useConfigOnly = true
[push]
    gpgSign = true
    followTags = true
    pushOption = unknown
    default = nothing
[fetch]
    prune = true
    fsckObjects = true
[remote "unbroken"]
    prune = true
[remote "origin"]
    url = /nowhere
[gc]
    auto = 1
[safe]
    bareRepository = {bare}
[lfs]
    storage = {home}/shared
    fetchexclude = *
    skipdownloaderrors = true
"""
HOOKS_OF_CLIENTS = ("pre-commit", "commit-msg", "post-commit", "pre-push", "post-checkout", "reference-transaction")
# the repository is on this machine, too, and its own side asks the same folder
REFUSING = '#!/bin/sh\ncase "$PWD" in *workspace*) echo hook >&2; exit 1;; esac\n'


@pytest.mark.parametrize("kind", ["git", "git+lfs"])
def test_the_users_settings_change_nothing(kind, git, home, repository, machine, files, fetched, monkeypatch, tmp_path):
    """D5: signatures, hooks, filters, templates, conversions, and the variables of a hook that started the training."""
    for folder in (home / "hooks", home / "template" / "hooks"):
        folder.mkdir(parents=True)
        for name in HOOKS_OF_CLIENTS:
            (folder / name).write_text(REFUSING)
            (folder / name).chmod(0o755)
    (home / "template" / "config").write_text("[core]\n\trepositoryformatversion = 99\n")
    (home / "attributes").write_text("* -text filter=lfs\n")
    # git-lfs itself cannot work with a bare repository by path under this one
    bare = "explicit" if kind == "git" else "all"
    (home / ".gitconfig").write_text(HOSTILE.format(home=home.as_posix(), bare=bare))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    for name in ("GIT_LFS_SKIP_SMUDGE", "GIT_TRACE", "GIT_QUARANTINE_PATH", "GIT_CONFIG_COUNT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.hooksPath")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(home / "hooks"))
    contents = {"cache/a": LINES, "cache/b": b"b"}
    here, there = machine(kind), machine(kind)
    assert here.put(files(contents)) == Put(written=tuple(contents))
    assert there.put(files({"cache/c": b"c"})) == Put(written=("cache/c",))
    assert {name: fetched(there, name) for name in contents} == contents
    assert fetched(here, "cache/c") == b"c"
    assert not (tmp_path / "elsewhere").exists()
    for name in [name for name in os.environ if name.startswith("GIT_") and name != "GIT_CONFIG_NOSYSTEM"]:
        monkeypatch.delenv(name)
    (home / ".gitconfig").unlink()
    rule = git("cat-file", "blob", "trunk:.gitattributes", cwd=repository)
    assert rule == ("/cache/** -text" if kind == "git" else "/cache/** filter=lfs diff=lfs merge=lfs -text")
    assert git("cat-file", "-s", "trunk:cache/b", cwd=repository) == ("1" if kind == "git" else "126")
    assert not (home / "shared").exists()


def test_settings_that_git_cannot_read(machine, home, monkeypatch):
    """D5: a mistake of the environment or of the user's file, in git's own words."""
    with monkeypatch.context() as patch:
        patch.setenv("GIT_CONFIG_COUNT", "abc")
        with pytest.raises(
            UsageError, match=r"^git cannot read its settings: error: bogus count in GIT_CONFIG_COUNT; "
        ):
            machine().items()
    (home / ".gitconfig").write_text("[user\n")
    with pytest.raises(UsageError, match=r"^git cannot read its settings: .*bad config line 1 in file .*gitconfig"):
        machine().items()


def test_a_name_that_git_does_not_take(machine, files, home):
    """D5: it is no damage of the clone, which stays."""
    (home / ".gitconfig").write_text("[user]\n\tname = <>\n")
    with pytest.raises(UsageError, match=r"^git takes no such author .*: set user\.name in git$"):
        machine().put(files({"a": b"a"}))


@pytest.mark.parametrize("kind", ["git", "git+lfs"])
def test_a_source_that_is_missing_or_vanishes(kind, machine, files, shim, repository, git):
    """D5: another process may evict an entry at any time; who puts is told which one by the error of the contract."""
    sources = files({"a": b"a", "b": b"b"})
    shim(f"case \"$1\" in read-tree) rm -f '{sources['b']}';; esac")
    for _ in range(2):
        with pytest.raises(NotFound, match=f"^there is no file {sources['b']}"):
            machine(kind).put(sources)
    assert git("for-each-ref", cwd=repository) == ""


@pytest.mark.parametrize("kind", ["git", "git+lfs"])
@pytest.mark.parametrize("branch", ["", "#other"])
def test_an_empty_repository_with_long_names(kind, branch, git, machine, files, fetched, tmp_path):
    """D5: SHA-256 in the place of SHA-1; and an old clone when the repository was made again with the other one."""
    place = tmp_path / "long.git"
    address = f"{place}{branch}"
    for kind_of_names in ("sha256", "sha1", "sha256"):
        shutil.rmtree(place, ignore_errors=True)
        git("init", "--bare", f"--object-format={kind_of_names}", place)
        remote = machine(kind, address, workspace="the workspace")
        assert remote.items() == []
        assert remote.put(files({"cache/a": b"a"})) == Put(written=("cache/a",))
        assert remote.put(files({"cache/b": b"b"})) == Put(written=("cache/b",))
        assert fetched(machine(kind, address), "cache/a") == b"a"


def test_the_users_name_signs_the_commits(git, home, repository, machine, files):
    (home / ".gitconfig").write_text("[user]\n\tname = Zoë\n\temail = zoe@here\n")
    machine().put(files({"a": b"a"}))
    assert (
        git("log", "-1", "--format=%an <%ae>, %cn <%ce>", "trunk", cwd=repository) == "Zoë <zoe@here>, Zoë <zoe@here>"
    )


def test_the_wait_for_another_process_is_bounded(repository, machine, monkeypatch):
    """D5: who waits is told for whom."""
    remote = machine()
    monkeypatch.setattr(remote_module, "LOCK_PATIENCE", 0.1)
    with ExclusiveLock(remote._folders.lock), pytest.raises(RemoteError, match=r"^another process has been at git:"):
        remote.items()
    assert remote.items() == []


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_path_without_a_repository(form, machine, tmp_path):
    for place in (tmp_path / "no such folder", tmp_path / "home"):
        with pytest.raises(UsageError) as caught:
            machine(place=form.format(place)).items()
        shown = f"git:{form.format(place)}"
        way = f"'{place}'" if " " in str(place) else place
        assert str(caught.value) == f"there is no git repository at {shown}: make one with `git init --bare {way}`"


def test_a_repository_that_git_does_not_trust(machine, shim, repository):
    shim('case "$1" in ls-remote) export GIT_TEST_ASSUME_DIFFERENT_OWNER=1;; esac')
    with pytest.raises(
        RemoteRefused, match=r"^git does not trust git:.*: allow it with `git config --global --add safe"
    ):
        machine().items()


HOOKS = {
    "remote: error: File cache/a is 101.00 MB; this exceeds GitHub's file size limit of 100.00 MB": (
        r"^git:.* refuses files of this size: use git\+lfs:.*, which keeps them in Git LFS$"
    ),
    "GitLab: You are attempting to check in one or more blobs which exceed the 100.0MiB limit:": r"use git\+lfs:",
    "error: GH006: Protected branch update failed for refs/heads/x.": r"^the branch is protected at git:.*#cache\)$",
    "no pushes on Sundays": r"^git:.* refuses the commit: pre-receive hook declined; no pushes on Sundays$",
}


@pytest.mark.parametrize("words", HOOKS)
def test_what_a_server_refuses(words, repository, machine, files):
    hook = repository / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f'#!/bin/sh\necho "{words}" >&2\nexit 1\n')
    hook.chmod(0o755)
    with pytest.raises(RemoteRefused, match=HOOKS[words]) as caught:
        machine().put(files({"cache/a": b"a"}))
    assert "\n" not in str(caught.value)
    assert machine().items() == []


def test_names_that_are_gits_own_are_refused(machine, files):
    for name in (".gitattributes", "a/.git/config", ".GIT", ".gitmodules"):
        with pytest.raises(UsageError, match="cannot be an object of a git repository"):
            machine().put(files({name: b""}))


def test_a_name_is_no_file_and_folder_at_once(machine, files):
    machine().put(files({"x/a": b"a"}))
    for names in (["x"], ["x/a/b"], ["y", "y/z"]):
        with pytest.raises(
            RemoteError, match=r"^\S+ cannot be put to git:.*: a name is a file and a folder at once there"
        ):
            machine().put(files(dict.fromkeys(names, b"")))
    assert machine().items() == [Item("x/a", 1)]


def test_without_git(machine, monkeypatch, tmp_path, shim):
    shim('case "$1" in version) echo git version 2.20.1; exit;; esac')
    with pytest.raises(MissingExtra, match=r"^this git is too old for git:.*: install it, 2.31 or newer"):
        machine().items()
    monkeypatch.setenv("PATH", str(tmp_path / "home"))
    with pytest.raises(MissingExtra, match=r"^git is not installed, which git:.* needs: install it"):
        machine().items()


def test_a_workspace_that_cannot_be_made(repository, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RemoteError, match="needs a folder of this machine to work in"):
        GitRemote(f"git:{repository}", tmp_path / "file" / "workspace").items()


def test_what_ssh_leaves_in_the_background_keeps_nobody_waiting(machine, files, shim, tmp_path):
    """D5: a shared connection outlives its command and holds the pipes."""
    shim(f'case "$1" in ls-remote) "$GIT" "$@"; sleep 100 & echo $! > \'{tmp_path}/child\'; exit;; esac')
    try:
        assert machine(timeout=30.0).items() == []
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def is_gone(process):
    """Whether a process ends, if it is not dead already; it was told to."""
    for _ in range(100):
        said = subprocess.run(["ps", "-o", "stat=", "-p", process], capture_output=True, text=True).stdout
        if said.strip()[:1] in ("", "Z"):
            return True
        time.sleep(0.1)
    return False


def test_a_hook_that_never_ends_is_not_waited_for(machine, files, repository, tmp_path, monkeypatch):
    """D5: a place on this machine may be silent for longer than the time-out, and not for ever."""
    hook = repository / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nsleep 2\n")
    hook.chmod(0o755)
    assert machine(timeout=0.5).put(files({"cache/a": b"a"})) == Put(written=("cache/a",))
    hook.write_text(f"#!/bin/sh\nsleep 100 & echo $! > '{tmp_path}/child'; wait\n")
    monkeypatch.setattr(commands_module, "_LOCAL_STANDSTILL", 1.0)
    with pytest.raises(RemoteUnreachable, match=r"^nothing answers at git:.* within 1 s: check its hooks$"):
        machine(timeout=0.5).put(files({"cache/b": b"b"}))
    assert is_gone((tmp_path / "child").read_text().strip())


def test_what_git_has_started_ends_with_it(machine, shim, tmp_path):
    """D5: after the time-out no process is left that goes on in the background."""
    shim(f"case \"$1\" in ls-remote) sleep 100 & echo $! > '{tmp_path}/child'; wait;; esac")
    with pytest.raises(RemoteError, match=r"nothing answers at .* within 0.5 s"):
        machine(timeout=0.5).items()
    child = (tmp_path / "child").read_text().strip()
    assert subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True).stdout.strip()[:1] in (
        "",
        "Z",
    )


@pytest.mark.parametrize(
    ("typed", "location", "branch", "shown"),
    [
        ("git:https://host/a.git", "https://host/a.git", "", None),
        ("git+lfs:https://host/a.git#b/c", "https://host/a.git", "b/c", None),
        ("git:https://me:hidden@host/a#b", "https://me:hidden@host/a", "b", "git:https://host/a#b"),
        ("git:https://hidden:p@ss@host/a", "https://hidden:p@ss@host/a", "", "git:https://host/a"),
        ("git:https://me:pw@host/a", "https://me:pw@host/a", "", "git:https://host/a"),
        ("git:ssh://git@host:22/a", "ssh://git@host:22/a", "", None),
        ("git:git@host:me/a.git#b", "git@host:me/a.git", "b", None),
        ("git://host/a", "git://host/a", "", None),
        ("git:/a/b.git#c", "/a/b.git", "c", None),
        ("git:/a/b#c/d.git#e", "/a/b#c/d.git", "e", None),
    ],
)
def test_addresses(typed, location, branch, shown):
    address = parse_address(typed)
    assert (address.location, address.branch, address.shown) == (location, branch, shown or typed)
    assert "hidden" not in address.scrubbed(f"cannot open {typed} for hidden" if "hidden" in typed else "")
    assert "pw@" not in address.scrubbed(f"cannot open {typed}")


def test_relative_paths_and_paths_with_a_hash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_address("git:a.git#b").location == (tmp_path / "a.git").as_posix()
    (tmp_path / "a.git#b").mkdir()
    assert parse_address("git:a.git#b").location == (tmp_path / "a.git#b").as_posix()
    assert parse_address("git:~/x").location == (tmp_path / "home" / "x").as_posix()


@pytest.mark.parametrize(
    "typed",
    [
        "git:",
        "git:#b",
        "git:/a#b..c",
        "git:/a#-b",
        "git:https://me:hidden#1@host/a",
        "git:https://me:p/hidden@host/a",
        "git:https://me:p?hidden@host/a",
    ],
)
def test_addresses_that_cannot_be(typed):
    with pytest.raises(UsageError) as caught:
        parse_address(typed)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("typed", ["git:https://me:1/hidden@host/a", "git:https://host/a?token=hidden"])
def test_secrets_in_unusual_places_are_not_shown(typed):
    """D5: git takes the first for a host and a port, and says so."""
    address = parse_address(typed)
    assert "hidden" not in address.shown
    assert "hidden" not in repr(address)
    assert "hidden" not in address.scrubbed(f"cannot open {address.location}: hidden")
    assert "hid} pw" not in address.scrubbed("&{%!!(string=http) %!!(*url.Userinfo=&{me hid} pw true}) %!!(string=h)")
    assert address.holds_credentials
