"""Real repositories and machines: each machine is a workspace of its own, and the user's settings are an empty folder."""

import base64
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

from unbroken.remotes.git import GitRemote

REAL_GIT = shutil.which("git")
PUT = """
import os, sys
from pathlib import Path
from unbroken.remotes.git import GitRemote

os.environ["VICTIM"] = str(os.getpid())
url, workspace, *paths = sys.argv[1:]
remote = GitRemote(url, Path(workspace), url.startswith("git+lfs:"))
print("ready", flush=True)
sys.stdin.readline()
for path in map(Path, paths):
    print(*remote.put({f"cache/{path.name}": path, "cache/shared": path}).written, flush=True)
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The home of a user who has told git nothing, not even a name."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return folder


@pytest.fixture
def git():
    """Runs the user's own git and returns what it prints."""

    def run(*words, cwd=None, **variables):
        command = [REAL_GIT, *map(str, words)]
        answer = subprocess.run(command, cwd=cwd, env=os.environ | variables, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.strip()

    return run


@pytest.fixture
def repository(git, tmp_path):
    """An empty bare repository; its default branch has an unusual name."""
    path = tmp_path / "the repository é.git"
    git("init", "--bare", "--initial-branch=trunk", path)
    return path


@pytest.fixture
def users_clone(git, repository):
    """Makes a clone as a user does."""

    def clone(folder):
        git("clone", "--quiet", repository, folder)
        return folder

    return clone


@pytest.fixture
def one_line_of(git, repository):
    """Whether a branch consists of so many commits, each on top of the one before; what it holds must be whole."""

    def check(count, branch="trunk"):
        git("fsck", "--full", "--strict", cwd=repository)
        commits = [line.split() for line in git("log", "--format=%H %P", branch, cwd=repository).splitlines()]
        return [commit[1:] for commit in commits] == [*([commit[0]] for commit in commits[1:]), []] and len(
            commits
        ) == count

    return check


@pytest.fixture
def machine(repository, tmp_path):
    """Makes remotes for the repository, each with a workspace of its own unless one is named."""
    count = 0

    def make(kind="git", place=None, workspace=None, timeout=20.0):
        nonlocal count
        count += 1
        workspace = workspace or f"workspace {count} é"
        return GitRemote(f"{kind}:{place or repository}", tmp_path / workspace, kind == "git+lfs", timeout)

    return make


@pytest.fixture
def files(tmp_path):
    """Makes a `put` argument from contents."""

    def make(contents, folder="from"):
        base = tmp_path / folder
        base.mkdir(exist_ok=True)
        made = {name: base / f"{number}" for number, name in enumerate(contents)}
        for name, path in made.items():
            path.write_bytes(contents[name])
        return made

    return make


@pytest.fixture
def fetched(tmp_path):
    """Fetches one object and returns its bytes."""

    def fetch(remote, name):
        target = tmp_path / "fetched"
        target.unlink(missing_ok=True)
        remote.fetch(name, target)
        return target.read_bytes()

    return fetch


@pytest.fixture
def shim(tmp_path, monkeypatch):
    """Puts a `git` before the real one that runs some shell lines first; they see its words as "$@" and the real one as $GIT."""
    folder = tmp_path / "shim"

    def install(lines):
        folder.mkdir(exist_ok=True)
        script = folder / "git"
        script.write_text(f'#!/bin/sh\nGIT="{REAL_GIT}"\n{lines}\nexec "$GIT" "$@"\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return install


@pytest.fixture
def putting(repository, tmp_path):
    """Starts processes that put each file as `cache/NAME` and as `cache/shared`, in one workspace, once they are let go."""
    processes = []

    def start(kind, workspace, paths):
        words = [sys.executable, "-c", PUT, f"{kind}:{repository}", str(tmp_path / workspace), *map(str, paths)]
        process = subprocess.Popen(words, stdin=-1, stdout=-1, text=True)
        processes.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def commands(shim, tmp_path):
    """Notes the git commands that talk to the place; the result is a function that returns and forgets them."""
    log = tmp_path / "commands"
    shim(f"""case "$1" in -c|clone|ls-remote|fetch|push|lfs) echo "$@" >> '{log}';; esac""")

    def since():
        said = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return said

    return since


@pytest.fixture
def web(repository, git):
    """The repository behind HTTP with LFS, for one user with one password; see `WebServer`."""
    git("config", "http.receivepack", "true", cwd=repository)
    server = WebServer(repository)
    yield server
    server.stop()


class WebServer:
    """git's own HTTP service and the two LFS calls that matter.

    `silent` makes downloads of LFS objects stand still; `lfs_status` and `git_status` are what the services answer with instead
    of working.
    """

    user, password = "someone", "hidden-secret"

    def __init__(self, repository):
        self.repository = repository
        self.objects = {}
        self.lfs_status = self.git_status = 200
        self.silent = threading.Event()
        self.stopped = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": self}))
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def url(self):
        return f"http://{self.user}:{self.password}@{self.host}/it.git"

    def stop(self):
        self.stopped.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: WebServer

    def do_GET(self):
        self._answer(b"")

    def do_PUT(self):
        self._answer(self._body())

    def do_POST(self):
        self._answer(self._body())

    def log_message(self, *words):
        pass

    def _answer(self, body):
        expected = base64.b64encode(f"{self.web.user}:{self.web.password}".encode()).decode()
        if self.path.startswith("/nowhere"):
            self._send(404, b"nothing here")
        elif self.headers.get("Authorization") != f"Basic {expected}":
            self._send(401, b"who are you?", {"WWW-Authenticate": 'Basic realm="it"'})
        elif (status := self.web.lfs_status if "/info/lfs/" in self.path else self.web.git_status) != 200:
            self._send(status, b"")
        elif self.path == "/it.git/info/lfs/objects/batch":
            self._send(200, self._batch(json.loads(body)), {"Content-Type": "application/vnd.git-lfs+json"})
        elif self.path.startswith("/objects/"):
            self._object(self.path.rpartition("/")[2], body)
        else:
            self._backend(body)

    def _batch(self, asked):
        return json.dumps({"objects": [self._offer(asked["operation"], entry) for entry in asked["objects"]]}).encode()

    def _offer(self, operation, entry):
        offer = {"oid": entry["oid"], "size": entry["size"]}
        action = {"href": f"http://{self.web.host}/objects/{entry['oid']}", "header": self._token()}
        if (entry["oid"] in self.web.objects) is (operation == "download"):
            return offer | {"authenticated": True, "actions": {operation: action}}
        if operation == "download":
            return offer | {"error": {"code": 404, "message": "Object does not exist on the server"}}
        return offer

    def _token(self):
        return {"Authorization": self.headers["Authorization"]}

    def _object(self, oid, body):
        if self.command == "PUT":
            self.web.objects[oid] = body
            return self._send(200, b"")
        content = self.web.objects[oid]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        if self.web.silent.is_set():
            self.web.stopped.wait(30)
            self.close_connection = True
            return None
        return self.wfile.write(content[len(content) // 2 :])

    def _backend(self, body):
        path, _, query = self.path.partition("?")
        variables = {
            "GIT_PROJECT_ROOT": str(self.web.repository.parent),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path.replace("/it.git", f"/{self.web.repository.name}"),
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_USER": self.web.user,
            "REMOTE_ADDR": "127.0.0.1",
        }
        said = subprocess.run(
            [REAL_GIT, "http-backend"], input=body, env=os.environ | variables, capture_output=True
        ).stdout
        head, _, content = said.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self._send(int(headers.pop("Status", "200").split()[0]), content, headers)

    def _body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status, content, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
