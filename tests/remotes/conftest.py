"""Places to copy to: an S3 server in this process, and a proxy that falls silent in the middle of a transfer."""

import itertools
import socket
import subprocess
import sys
import threading

import pytest

_buckets = itertools.count()
_S3_VARIABLES = {
    "AWS_ACCESS_KEY_ID": "a-key",
    "AWS_SECRET_ACCESS_KEY": "hidden-secret",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


@pytest.fixture(scope="session")
def s3_server():
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    # S3 decides and writes in one step; this server would look for the name first and write it later
    one_at_a_time = threading.RLock()
    deciding = {name: getattr(S3Response, name) for name in ("put_object", "_key_response_post")}

    def alone(decide):
        def decide_alone(*arguments):
            with one_at_a_time:
                return decide(*arguments)

        return decide_alone

    for name, decide in deciding.items():
        setattr(S3Response, name, alone(decide))
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()
    for name, decide in deciding.items():
        setattr(S3Response, name, decide)


@pytest.fixture
def s3(s3_server, monkeypatch):
    """A new bucket, with the environment that leads to it; `client` looks into it from outside."""
    import boto3

    class Place:
        endpoint = s3_server
        bucket = f"bucket-{next(_buckets)}"
        client = boto3.client(
            "s3", endpoint_url=s3_server, aws_access_key_id="x", aws_secret_access_key="x", region_name="us-east-1"
        )
        url = f"s3://{bucket}/a prefix/é"

        def keys(self):
            return [entry["Key"] for entry in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])]

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_COPY_IF_NOT_EXISTS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**_S3_VARIABLES, "AWS_ENDPOINT_URL": s3_server}.items():
        monkeypatch.setenv(name, value)
    place = Place()
    place.client.create_bucket(Bucket=place.bucket)
    yield place
    place.client.close()


class Proxy:
    """Passes bytes on to a server; after `up` bytes to it, or `down` bytes from it, it stays silent and connected."""

    def __init__(self, address):
        self.up = self.down = float("inf")
        self.silent = threading.Event()
        self.asked = b""
        self._passed = {"up": 0, "down": 0}
        self._server = address
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            self._open += [client, server]
            threading.Thread(target=self._pump, args=(client, server, "up"), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, "down"), daemon=True).start()

    def _pump(self, source, sink, way):
        try:
            while data := source.recv(16_384):
                if way == "up":
                    self.asked += data
                room = getattr(self, way) - self._passed[way]
                data = data[: int(max(0, min(len(data), room)))]
                self._passed[way] += len(data)
                sink.sendall(data)
                if self._passed[way] >= getattr(self, way):
                    self.silent.set()
                    return
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        for end in self._open:
            end.close()


@pytest.fixture
def proxy(s3_server):
    host, _, port = s3_server.removeprefix("http://").rpartition(":")
    proxy = Proxy((host, int(port)))
    yield proxy
    proxy.close()


@pytest.fixture
def nobody():
    """An address on this machine where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def silence():
    """An address on this machine that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def child():
    """Starts `python -c code *arguments`; every process is ended when the test is."""
    started = []

    def start(code, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def files(tmp_path):
    """Writes `{name: bytes}` to files of any names and gives `{name: path}`."""

    def write(contents, folder="sources"):
        (tmp_path / folder).mkdir(exist_ok=True)
        paths = {name: tmp_path / folder / f"{number}.source" for number, name in enumerate(contents)}
        for name, path in paths.items():
            path.write_bytes(contents[name])
        return paths

    return write
