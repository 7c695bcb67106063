"""The stand-in as tests see it: start and stop it, tell it what to do wrong, look at what it has got."""

from __future__ import annotations

import base64
import hmac
import math
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import Self

from unbroken.testing.kaggle.behaviour import Behaviour, Fault, Faults
from unbroken.testing.kaggle.blobs import HOST, Blob, Blobs
from unbroken.testing.kaggle.datasets import Datasets
from unbroken.testing.kaggle.messages import Answer, Call, Refusal, Route, as_json, as_page
from unbroken.testing.kaggle.server import Server

_API = "/api/v1/"


class KaggleService:
    """A context manager: the service runs inside it, on a free port of 127.0.0.1, with one user.

    `requests` counts calls, `answered` the bytes of answers, by short route name: the name of an RPC such as `GetDatasetStatus`,
    `upload` for what goes to the storage, `storage` for what comes from it. `leaks` lists routes of the storage that were sent
    credentials. Further RPCs are entries of `routes`, named `Service/Rpc`; those of `open_routes` need no login.
    """

    user = "ada"
    key = "0123456789abcdef0123456789abcdef"
    token = "KGAT_fedcba9876543210fedcba9876543210"

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or Behaviour()
        self.requests: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.leaks: list[str] = []
        self._faults = Faults()
        self._blobs = Blobs()
        self._datasets = Datasets(self.user, self.behaviour, self._blobs)
        self._lock = Lock()
        self.routes: dict[str, Route] = {
            **self._blobs.routes(),
            **self._datasets.routes(),
            "security.OAuthService/IntrospectToken": self._introspect,
        }
        self.open_routes: set[str] = set()

    def __enter__(self) -> Self:
        self._home = tempfile.TemporaryDirectory(prefix="unbroken-kaggle-")
        self._server = Server(self._take, self._answer)
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.stop()
        self._home.cleanup()

    def stop(self) -> None:
        """Answer nobody any more; the port is closed."""
        self._server.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, *, signed_in: bool = True) -> dict[str, str]:
        """The variables that lead the client here, away from any credentials of this machine."""
        home = str(self.home)
        folders = {"HOME": home, "USERPROFILE": home, "XDG_CONFIG_HOME": home, "KAGGLE_CONFIG_DIR": ""}
        proxy = {"HTTP_PROXY": self.address, "http_proxy": self.address, "NO_PROXY": "", "no_proxy": ""}
        name, key = (self.user, self.key) if signed_in else ("", "")
        login = {"KAGGLE_USERNAME": name, "KAGGLE_KEY": key, "KAGGLE_API_TOKEN": ""}
        return {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", **folders, **proxy, **login}

    @property
    def home(self) -> Path:
        """The home folder of the user of `environment`, empty at first."""
        return Path(self._home.name)

    def fail_next(self, route: str, status: int, times: int = 1) -> None:
        """Let the next calls of a route, or of any with "*", fail with an HTTP status."""
        self.next(route, Fault(status=status), times)

    def next(self, route: str, fault: Fault, times: int = 1) -> None:
        """Let the next calls of a route, or of any with "*", go wrong."""
        self._faults.add(route, fault, times)

    def heal(self) -> None:
        """Forget the faults that nobody has met."""
        self._faults.clear()

    @property
    def faults_left(self) -> dict[str, int]:
        """How many faults nobody has met yet, by route."""
        return self._faults.left

    def finish_processing(self) -> None:
        """Make every version ready at once."""
        with self._blobs.lock:
            for dataset in self._datasets.all.values():
                for version in dataset.versions.values():
                    version.shown_at = version.ready_at = version.served_at = 0.0

    def fail_processing(self, times: int = 1) -> None:
        """Let the next versions never become ready."""
        self._datasets.failing = times

    def versions(self, owner: str, slug: str) -> dict[int, dict[str, bytes]]:
        """The files of every version, as they lie there."""
        with self._blobs.lock:
            dataset = self._datasets.all.get((owner, slug))
            return {} if dataset is None else {n: dict(version.files) for n, version in dataset.versions.items()}

    def is_private(self, owner: str, slug: str) -> bool:
        """Whether only its owner sees it."""
        return self._datasets.all[owner, slug].private

    def remove_version(self, owner: str, slug: str, number: int) -> None:
        """Delete a version, as its owner can on the website."""
        with self._blobs.lock:
            del self._datasets.all[owner, slug].versions[number]

    def remove_dataset(self, owner: str, slug: str) -> None:
        """Delete a dataset, as its owner can on the website."""
        with self._blobs.lock:
            del self._datasets.all[owner, slug]

    def hide_version(self, owner: str, slug: str, number: int, hidden: bool = True) -> None:
        """Let a version's files be neither listed nor sent, or again."""
        with self._blobs.lock:
            self._datasets.all[owner, slug].versions[number].served_at = math.inf if hidden else 0.0

    def replace_files(self, owner: str, slug: str, files: Mapping[str, bytes]) -> None:
        """Change the files of the newest version behind everybody's back."""
        with self._blobs.lock:
            versions = self._datasets.all[owner, slug].versions
            versions[max(versions)].files = dict(files)

    def mount(self, owner: str, slug: str, folder: Path) -> None:
        """Write the current version into a folder, as a notebook finds it below `/kaggle/input`."""
        current = self._datasets.all[owner, slug].current()
        for name, content in (current.files if current else {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    @property
    def uploads(self) -> list[Blob]:
        """All uploads in the order in which they began."""
        return list(self._blobs.all.values())

    def _route(self, path: str) -> str:
        if path.startswith(_API):
            return path.removeprefix(_API)
        return "upload" if path.startswith("/upload/") else "storage" if path.startswith("/datasets/") else path

    def _take(self, path: str) -> Fault | None:
        return self._faults.take(_short(self._route(path)))

    def _answer(self, call: Call, fault: Fault) -> Answer:
        name = self._route(call.url.path)
        with self._lock:
            self.requests[_short(name)] += 1
        answer = Answer() if fault.replaces else self._routed(name, call)
        answer = _failed(answer, fault, api=call.url.hostname != HOST)
        with self._lock:
            self.answered[_short(name)] += min(len(answer.body), fault.answer_bytes or len(answer.body))
        return answer

    def _routed(self, name: str, call: Call) -> Answer:
        try:
            if call.url.hostname == HOST:
                self._note_leak(name, call)
            elif name not in self.open_routes:
                self._check_login(call)
            if name not in self.routes:
                raise Refusal(404)
            return self.routes[name](call)
        except Refusal as refusal:
            return refusal.answer

    def _note_leak(self, name: str, call: Call) -> None:
        if "authorization" in call.headers:
            self.leaks.append(name)

    def _check_login(self, call: Call) -> None:
        basic = base64.b64encode(f"{self.user}:{self.key}".encode()).decode()
        given = call.headers.get("authorization", "")
        if not any(hmac.compare_digest(given, wanted) for wanted in (f"Basic {basic}", f"Bearer {self.token}")):
            raise Refusal(401, "Unauthenticated")

    def _introspect(self, call: Call) -> Answer:
        active = call.fields.get("token") == self.token
        return as_json({"active": active, **({"username": self.user} if active else {})})


def _short(route: str) -> str:
    return route.rpartition("/")[2]


def _failed(answer: Answer, fault: Fault, api: bool) -> Answer:
    if fault.status:
        plain = Refusal(fault.status).answer if api and fault.status != 200 else Answer(fault.status)
        answer = as_page(fault.status) if fault.page else plain
    if fault.error:
        answer = as_json({"status": "error", "error": fault.error})
    if fault.damages and answer.body:
        answer = replace(answer, body=answer.body[:-1] + bytes([answer.body[-1] ^ 1]))
    if fault.retry_after is not None:
        answer = replace(answer, headers={**answer.headers, "Retry-After": f"{fault.retry_after:g}"})
    return answer
