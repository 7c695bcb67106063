"""An object store as a remote, against a real S3 server in this process: credentials, silence, kills, ranges (D5)."""

import http.server
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from unbroken.errors import MissingExtra, RemoteError, RemoteRefused, RemoteUnreachable, UsageError
from unbroken.remotes import object_store
from unbroken.remotes.contract import Item, Put
from unbroken.remotes.object_store import ObjectStoreRemote
from unbroken.testing.remote_contract import RemoteContract

LARGE = 12_000_000


@pytest.fixture
def remote(s3):
    return ObjectStoreRemote(s3.url)


@pytest.fixture
def second(s3):
    return ObjectStoreRemote(s3.url)


@pytest.fixture
def small_parts(monkeypatch):
    """What is above 1 MB goes up in parts of the smallest size that S3 has."""
    monkeypatch.setattr(object_store, "_AT_ONCE", 1_000_000)
    monkeypatch.setattr(object_store, "_PART", 5 << 20)


class TestS3(RemoteContract):
    """D5: the contract over S3's own protocol."""


def operations(remote, source, folder):
    return [remote.items, lambda: remote.put({"a": source}), lambda: remote.fetch("a", folder / "target")]


def refusals(remote, files, tmp_path, kind):
    """What each operation says; it is one line without secrets, and leaves nothing here."""
    source = files({"a": b"a"})["a"]
    said = []
    for action in operations(remote, source, tmp_path):
        with pytest.raises(RemoteError) as caught:
            action()
        assert type(caught.value) is kind, caught.value
        said.append(str(caught.value))
    assert not any("\n" in line or "hidden-secret" in line or "a-key" in line for line in said)
    assert all(line.startswith(remote.url) for line in said)
    assert not list(tmp_path.glob("*target*"))
    return said


def test_keys_lie_under_the_prefix(s3, remote, files):
    """D5: others find the objects under the names that they have here."""
    names = ["x/a", 'x/a b{}^.`|"<>', "a#b?c*[x]~%41.json"]
    remote.put(files({name: name.encode() for name in names}))
    assert sorted(s3.keys()) == sorted(f"a prefix/é/{name}" for name in names)
    assert [item.name for item in remote.items()] == sorted(names)


def test_a_whole_bucket_is_a_place(s3, files, tmp_path):
    remote = ObjectStoreRemote(f"s3://{s3.bucket}")
    assert remote.put(files({"x/a": b"a"})) == Put(written=("x/a",))
    assert s3.keys() == ["x/a"]
    assert remote.items("x/") == [Item("x/a", 1)]
    remote.fetch("x/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"a"


def test_marks_of_folders_are_no_objects(s3, remote, files):
    """D5: consoles put an empty object where a folder is made; an empty object of ours is one all the same."""
    for key in ("a prefix/é/", "a prefix/é/x/", "a prefix/é/y/"):
        s3.client.put_object(Bucket=s3.bucket, Key=key, Body=b"")
    remote.put(files({"x/a": b"a", "y": b""}))
    assert remote.items() == [Item("x/a", 1), Item("y", 0)]


@pytest.mark.usefixtures("small_parts")
class TestLargeFiles:
    """D5: files that go up in parts."""

    def test_they_arrive_and_leave_nothing_aside(self, s3, remote, files, tmp_path):
        content = random.Random(1).randbytes(LARGE)
        assert remote.put(files({"x/a": content})) == Put(written=("x/a",))
        assert s3.keys() == ["a prefix/é/x/a"]
        remote.fetch("x/a", tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == content
        assert remote.put(files({"x/a": b"other"})) == Put(present=("x/a",))

    def test_two_machines_at_once(self, s3, remote, second, files, monkeypatch):
        """Both find the name free before either has it; one gets it."""
        both = threading.Barrier(2)
        has, first = ObjectStoreRemote._has, threading.local()

        def has_together(self, name):
            found = has(self, name)
            if not getattr(first, "passed", False):
                first.passed = True
                both.wait(30)
            return found

        monkeypatch.setattr(ObjectStoreRemote, "_has", has_together)
        sources = files({"one": b"1" * LARGE, "two": b"2" * LARGE})
        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(remote.put, {"a": sources["one"]})
            two = pool.submit(second.put, {"a": sources["two"]})
            puts = [one.result(), two.result()]
        assert sorted(puts, key=lambda put: put.written) == [Put(present=("a",)), Put(written=("a",))]
        assert s3.keys() == ["a prefix/é/a"]
        winner = s3.client.get_object(Bucket=s3.bucket, Key="a prefix/é/a")["Body"].read()
        assert winner == (b"1" if puts[0].written else b"2") * LARGE

    def test_what_lies_aside_is_hidden(self, s3, remote, files):
        s3.client.put_object(Bucket=s3.bucket, Key="a prefix/é/.unbroken-uploads/0", Body=b"left")
        assert remote.items() == []
        with pytest.raises(UsageError, match="take another"):
            remote.put({".unbroken-uploads/0": files({"a": b"a"})["a"]})
        remote.put(files({"x/a": b"1" * LARGE}))
        assert sorted(s3.keys()) == ["a prefix/é/.unbroken-uploads/0", "a prefix/é/x/a"]

    def test_what_was_left_aside_goes_after_a_day(self, s3, remote, files, monkeypatch):
        s3.client.put_object(Bucket=s3.bucket, Key="a prefix/é/.unbroken-uploads/0", Body=b"left")
        monkeypatch.setattr(object_store, "_ABANDONED", -object_store._ABANDONED)
        remote.put(files({"x/a": b"1" * LARGE}))
        assert s3.keys() == ["a prefix/é/x/a"]

    def test_what_s3_cannot_copy_goes_up_under_its_name(self, s3, remote, files, monkeypatch):
        monkeypatch.setattr(object_store, "_COPYABLE", 2_000_000)
        monkeypatch.setattr(ObjectStoreRemote, "_move_new", None)
        assert remote.put(files({"a": b"1" * LARGE})) == Put(written=("a",))
        assert remote.put(files({"a": b"2" * LARGE})) == Put(present=("a",))
        assert remote.items() == [Item("a", LARGE)]


def test_a_name_taken_in_the_last_moment(s3, remote, second, files, monkeypatch):
    """D5: the store itself decides between two small uploads."""
    first, late = files({"first": b"first", "late": b"late"}).values()
    answers = iter([False])
    second.put({"a": first})
    monkeypatch.setattr(ObjectStoreRemote, "_has", lambda self, name: next(answers, True))
    assert remote.put({"a": late}) == Put(present=("a",))
    assert s3.client.get_object(Bucket=s3.bucket, Key="a prefix/é/a")["Body"].read() == b"first"
    monkeypatch.setattr(ObjectStoreRemote, "_has", lambda self, name: False)
    with pytest.raises(RemoteError, match="refuses a as taken"):
        remote.put({"a": late})


PUT_ONE = """
import sys
from pathlib import Path
from unbroken.remotes import object_store
object_store._AT_ONCE, object_store._PART = int(sys.argv[3]), 5 << 20
object_store.ObjectStoreRemote(sys.argv[1]).put({"x/a": Path(sys.argv[2])})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("at_once", [LARGE, 1_000_000], ids=["one request", "parts"])
def test_a_killed_put_leaves_nothing_half(at_once, s3, remote, proxy, child, files, monkeypatch):
    """D5: killed with a part of the bytes at the store; nothing is listed, and the same put works."""
    source = files({"a": random.Random(2).randbytes(LARGE)})["a"]
    proxy.up = 8_000_000
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    process = child(PUT_ONE, s3.url, source, at_once)
    assert proxy.silent.wait(30)
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert remote.items() == []
    assert s3.keys() == []
    assert remote.put({"x/a": source}) == Put(written=("x/a",))
    assert remote.items() == [Item("x/a", LARGE)]


def test_a_fetch_that_breaks_off_goes_on(s3, proxy, remote, files, tmp_path, monkeypatch):
    """D5: the host falls silent in the middle; what had arrived stays, and only the rest is asked for."""
    content = random.Random(3).randbytes(8_000_000)
    remote.put(files({"x/a": content}))
    proxy.down = 5_000_000
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    with pytest.raises(RemoteUnreachable, match=r"within 0\.5 s"):
        ObjectStoreRemote(s3.url, timeout=0.5).fetch("x/a", tmp_path / "a")
    arrived = (tmp_path / ".a.part").stat().st_size
    assert 1_000_000 <= arrived < 5_000_000
    assert not (tmp_path / "a").exists()
    proxy.down, proxy.asked = float("inf"), b""
    ObjectStoreRemote(s3.url).fetch("x/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == content
    assert f"range: bytes={arrived}-".encode() in proxy.asked.lower()


def test_nobody_at_the_address(s3, nobody, files, tmp_path, monkeypatch):
    """D5: an unreachable host is one line, with the address and the time-out."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", nobody)
    for line in refusals(ObjectStoreRemote(s3.url, timeout=2), files, tmp_path, RemoteUnreachable):
        assert f"no answer at {nobody} (connection refused)" in line


def test_a_host_that_never_answers(s3, silence, files, tmp_path, monkeypatch):
    """D5: a silent host counts as unreachable after the time-out, which is said."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", silence)
    for line in refusals(ObjectStoreRemote(s3.url, timeout=0.3), files, tmp_path, RemoteUnreachable):
        assert f"no answer at {silence} within 0.3 s" in line


def test_an_unknown_host(s3, files, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://no-such-host.invalid")
    for line in refusals(ObjectStoreRemote(s3.url, timeout=2), files, tmp_path, RemoteUnreachable):
        assert "no answer at https://no-such-host.invalid (unknown host)" in line


def test_a_missing_bucket(s3, files, tmp_path):
    """D5: a wrong address is said, and not taken for an empty place."""
    for line in refusals(ObjectStoreRemote("s3://no-such-bucket/x"), files, tmp_path, RemoteError):
        assert line == "s3://no-such-bucket/x: there is no such bucket; make it there or correct the name"


def test_no_credentials(s3, nobody, files, tmp_path, monkeypatch):
    """D5: the variables to set are named."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", nobody)
    for line in refusals(ObjectStoreRemote(s3.url, timeout=1), files, tmp_path, RemoteRefused):
        assert line.endswith("wants credentials and there are none: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-key")
    with pytest.raises(RemoteRefused, match="wants credentials"):
        ObjectStoreRemote(s3.url)


@pytest.fixture
def strict(s3, monkeypatch):
    """The server checks keys."""
    from moto import settings
    from moto.core.authorization import ActionAuthenticatorMixin

    monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
    monkeypatch.setattr(ActionAuthenticatorMixin, "request_count", 0)


@pytest.mark.usefixtures("strict")
def test_wrong_keys(s3, files, tmp_path):
    """D5: a refusal says whose keys to check."""
    for line in refusals(ObjectStoreRemote(s3.url), files, tmp_path, RemoteRefused):
        assert "refuses these credentials, or forbids this to them (status 403" in line
        assert "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in line


def test_an_endpoint_without_tls_is_allowed_by_the_user_alone(s3, files, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    for line in refusals(ObjectStoreRemote(s3.url), files, tmp_path, RemoteError):
        assert "set AWS_ALLOW_HTTP=true" in line


@pytest.fixture
def canned():
    """A server that gives one answer to everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            length = int(self.headers.get("content-length", 0))
            self.rfile.read(length)
            status, body = self.server.answer
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_POST = answer  # noqa: N815

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("answer", "kind", "hint"),
    [
        ((301, b"<Error><Code>PermanentRedirect</Code></Error>"), RemoteError, "set AWS_REGION"),
        ((400, b"<Error><Code>Odd</Code><Message>It is\n odd.</Message></Error>"), RemoteError, "fails (status 400"),
        ((503, b"busy\nbusy"), RemoteError, "busy or out of order (status 503): run the same command again later"),
        ((501, b"<Error><Code>NotImplemented</Code></Error>"), RemoteError, "cannot keep two machines apart"),
        ((403, b"<html>a portal</html>"), RemoteRefused, "check AWS_ACCESS_KEY_ID"),
        ((200, b"<html>a portal</html>"), RemoteUnreachable, "a login page or a proxy"),
    ],
    ids=["region", "odd", "busy", "unconditional", "portal", "portal says yes"],
)
def test_what_the_store_says(answer, kind, hint, canned, s3, files, tmp_path, monkeypatch):
    """D5: one line each."""
    canned.answer = answer
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{canned.server_address[1]}")
    for line in refusals(ObjectStoreRemote(s3.url, timeout=1), files, tmp_path, kind):
        assert hint in line


@pytest.mark.parametrize(
    ("answer", "kind", "hint"),
    [
        ((400, b"<Error><Code>AuthorizationHeaderMalformed</Code></Error>"), RemoteError, "set AWS_REGION"),
        ((400, b"<Error><Code>ExpiredToken</Code></Error>"), RemoteRefused, "get new ones"),
        ((403, b"<Error><Code>RequestTimeTooSkewed</Code></Error>"), RemoteRefused, "set its clock"),
    ],
)
def test_what_a_listing_is_told(answer, kind, hint, canned, s3, monkeypatch):
    """Answers to HEAD, with which a put begins, have no text that could say as much."""
    canned.answer = answer
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{canned.server_address[1]}")
    with pytest.raises(kind) as caught:
        ObjectStoreRemote(s3.url, timeout=1).items()
    assert hint in str(caught.value)


WAITING = """
import sys
from unbroken.remotes.object_store import ObjectStoreRemote
print("asking", flush=True)
ObjectStoreRemote(sys.argv[1], timeout=3600).items()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to one process")
def test_ctrl_c_is_heard_while_the_store_is_silent(s3, silence, child, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", silence)
    waiting = child(WAITING, s3.url)
    assert waiting.stdout.readline() == "asking\n"
    time.sleep(1.0)
    waiting.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in waiting.communicate(timeout=60)[1]


def test_without_the_package(s3, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtra, match=r"pip install 'unbroken\[s3\]'"):
        ObjectStoreRemote(s3.url)


def test_addresses_of_another_form(s3):
    """D5: a wrong address is one line; a secret in it is not repeated."""
    for url in ("s3://", "s3:///x", "s3://b//x", "s3://b/x?y=1", "s3://b/x#y", "http://b/x"):
        with pytest.raises(UsageError):
            ObjectStoreRemote(url)
    for url in ("s3://key:hidden-secret@bucket/x", "s3://key@bucket/x", "abfs://c:hidden-secret@account.net/x"):
        with pytest.raises(UsageError, match="come from the environment") as caught:
            ObjectStoreRemote(url)
        assert "hidden-secret" not in str(caught.value)


def test_other_stores_open_by_their_schemes(monkeypatch):
    """D5: what obstore supports beside S3; nothing is asked of the network."""
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    for url in ("gs://bucket/x", "abfs://container@account.dfs.core.windows.net/x"):
        assert ObjectStoreRemote(url).url == url
    with pytest.raises(RemoteRefused, match="AZURE_STORAGE_ACCOUNT_NAME"):
        ObjectStoreRemote("az://container/x")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    assert ObjectStoreRemote("az://container/x").url == "az://container/x"
