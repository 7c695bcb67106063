"""The stand-in of the service: the real, unmodified client works with it, and it misbehaves as the real service does."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace

import pytest
import requests

from unbroken.testing.kaggle import Fault
from unbroken.testing.kaggle.messages import Answer, as_json

API = "/api/v1/datasets.DatasetApiService/"

PRELUDE = """
import json, sys
from pathlib import Path
from kaggle.api.kaggle_api_extended import KaggleApi

folder = Path(sys.argv[1])
api = KaggleApi()
api.authenticate()

def prepare(name, **files):
    place = folder / name
    place.mkdir()
    about = {"id": "ada/real-client", "title": "real-client", "licenses": [{"name": "CC0-1.0"}]}
    (place / "dataset-metadata.json").write_text(json.dumps(about))
    return place
"""


@pytest.fixture
def client(service, tmp_path):
    """Run a program over the real client, as a process of its own."""

    def run(program):
        command = [sys.executable, "-c", PRELUDE + program, tmp_path]
        environment = {**os.environ, **service.environment()}
        child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert child.returncode == 0, child.stderr
        return child.stdout

    return run


@pytest.fixture
def session(service):
    """HTTP as the client speaks it, but without the client."""
    with requests.Session() as session:
        session.trust_env = False
        session.proxies = {"http": service.address}
        yield session


@pytest.fixture
def call(service, session):
    """Call the API; redirects are not followed."""

    def post(rpc, login=(service.user, service.key), **fields):
        path = rpc if rpc.startswith("/") else API + rpc
        return session.post(f"http://localhost{path}", json=fields, auth=login, allow_redirects=False)

    return post


@pytest.fixture
def send(call, session):
    """Upload a file; its token."""

    def upload(name, content):
        begun = call(
            "/api/v1/blobs.BlobApiService/StartBlobUpload", type="DATASET", name=name, contentLength=len(content)
        )
        assert session.put(begun.json()["createUrl"], data=content).status_code == 200
        return begun.json()["token"]

    return upload


def test_the_real_client_makes_lists_and_downloads_datasets(client, service, tmp_path):
    client("""
place = prepare("one")
(place / "a.txt").write_text("a" * 1000)
(place / "inner").mkdir()
assert api.dataset_create_new(str(place), quiet=True).status == "Ok"
assert api.dataset_status("ada/real-client") == "ready"
place = prepare("two")
for n in range(25):
    (place / f"{n}.txt").write_text(str(n))
assert api.dataset_create_version(str(place), "second", quiet=True).status == "Ok"
page = api.dataset_list_files("ada/real-client")
assert len(page.files) == 20 and page.next_page_token
page = api.dataset_list_files("ada/real-client", page_token=page.next_page_token)
assert len(page.files) == 5 and not page.next_page_token
assert "a.txt" in str(api.dataset_list_files("ada/real-client/1").files)
api.dataset_download_files("ada/real-client", path=str(folder / "all"), unzip=True)
api.dataset_download_files("ada/real-client/1", path=str(folder / "first"), unzip=True)
api.dataset_download_file("ada/real-client", "7.txt", path=str(folder / "single"))
""")
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == sorted(f"{n}.txt" for n in range(25))
    assert [path.read_text() for path in (tmp_path / "first").iterdir()] == ["a" * 1000]
    assert [path.name for path in (tmp_path / "single").iterdir()] == ["7.txt.zip"], "in a zip unless asked for raw"
    assert {n: len(files) for n, files in service.versions("ada", "real-client").items()} == {1: 1, 2: 25}
    assert service.leaks == []


def test_the_real_client_with_a_token_asks_who_it_is(client, service, monkeypatch):
    monkeypatch.setattr(service, "environment", lambda: {**signed_out, "KAGGLE_API_TOKEN": service.token})
    signed_out = type(service).environment(service, signed_in=False)
    assert client("print(api.config_values['username'])").strip() == service.user


def test_the_real_client_goes_on_with_a_torn_upload(client, service):
    receive = service.routes["upload"]

    def lose_some(call):
        service.routes["upload"] = receive
        receive(replace(call, body=call.body[:40_000]))
        return Answer(503)

    service.routes["upload"] = lose_some
    client("""
place = prepare("one")
(place / "a.txt").write_text("a" * 100_000)
assert api.dataset_create_new(str(place), quiet=True).status == "Ok"
""")
    assert service.uploads[0].starts == [0, 40_000]
    assert service.versions("ada", "real-client")[1]["a.txt"] == b"a" * 100_000


def test_the_real_client_saves_an_error_page_as_the_file(client, service, tmp_path):
    """Why the remote checks for itself."""
    service.next("storage", Fault(status=200, page=True))
    client("""
place = prepare("one")
(place / "a.txt").write_text("a" * 100_000)
api.dataset_create_new(str(place), quiet=True)
api.dataset_download_file("ada/real-client", "a.txt", path=str(folder / "single"))
""")
    (saved,) = (tmp_path / "single").iterdir()
    assert b"<!DOCTYPE html>" in saved.read_bytes()


def test_the_real_client_reads_what_the_remote_has_pushed(client, remote, files, versions, tmp_path):
    remote.put(files(a__b=1000))
    client("api.dataset_download_files('ada/rl-cache', path=str(folder / 'all'), unzip=True)")
    assert {path.name: path.read_bytes() for path in (tmp_path / "all").iterdir()} == versions()[1]


def test_nobody_gets_in_without_the_right_key(call, service):
    for login in (None, (service.user, "wrong"), ("grace", service.key)):
        answer = call("ListDatasets", login=login)
        assert (answer.status_code, answer.json()) == (401, {"code": 401, "message": "Unauthenticated"})
    assert call("ListDatasets").json() == {"datasets": []}


def test_what_is_not_there(call):
    about = {"ownerSlug": "ada", "datasetSlug": "nothing"}
    for rpc in (
        "GetDataset",
        "GetDatasetStatus",
        "GetDatasetMetadata",
        "ListDatasetFiles",
        "DownloadDataset",
        "NoSuchCall",
    ):
        assert call(rpc, **about).status_code == 404
    answer = call("CreateDatasetVersion", **about, body={})
    assert answer.status_code == 200
    assert answer.json()["status"] == "error"
    assert call("GetDataset", ownerSlug="grace", datasetSlug="nothing").status_code == 404


def test_a_version_takes_uploads_once(call, send):
    about = {"ownerSlug": "ada", "slug": "rl-cache", "title": "rl-cache", "isPrivate": True}
    token = send("a.txt", b"a")
    unknown = call("CreateDataset", **about, files=[{"token": "unknown"}])
    assert "resolve" in unknown.json()["error"]
    assert call("CreateDataset", **about, files=[{"token": token}]).json()["status"] == "Ok"
    version = {"ownerSlug": "ada", "datasetSlug": "rl-cache", "body": {"files": [{"token": token}]}}
    assert "resolve" in call("CreateDatasetVersion", **version).json()["error"]
    assert "in use" in call("CreateDataset", **about, files=[{"token": send("b.txt", b"b")}]).json()["error"]


def test_the_first_version_bars_the_second_while_it_is_processed(call, send, service):
    service.behaviour.processing_seconds = float("inf")
    about = {"ownerSlug": "ada", "datasetSlug": "rl-cache"}
    create = {"ownerSlug": "ada", "slug": "rl-cache", "title": "rl-cache"}
    call("CreateDataset", **create, files=[{"token": send("a.txt", b"a")}])
    version = {**about, "body": {"files": [{"token": send("b.txt", b"b")}]}}
    assert call("CreateDatasetVersion", **version).status_code == 403
    assert call("GetDatasetStatus", **about).json() == {"status": "BLOBS_RECEIVED"}
    assert call("ListDatasetFiles", **about).status_code == 404
    service.finish_processing()
    assert call("GetDatasetStatus", **about).json() == {"status": "READY"}
    assert call("CreateDatasetVersion", **version).json()["status"] == "Ok"
    assert call("GetDatasetStatus", **about).json() == {"status": "BLOBS_RECEIVED"}
    assert call("GetDataset", **about).json()["currentVersionNumber"] == 1
    assert [file["name"] for file in call("ListDatasetFiles", **about).json()["datasetFiles"]] == ["a.txt"]


def test_files_show_late_after_the_version_is_ready(call, send, service):
    service.behaviour.lag_seconds = float("inf")
    about = {"ownerSlug": "ada", "datasetSlug": "rl-cache"}
    create = {"ownerSlug": "ada", "slug": "rl-cache", "title": "rl-cache"}
    call("CreateDataset", **create, files=[{"token": send("a.txt", b"a")}])
    assert call("GetDatasetStatus", **about).json() == {"status": "READY"}
    assert call("GetDataset", **about).json()["currentVersionNumber"] == 1
    asked = {"ListDatasetFiles": 200, "DownloadDataset": 302}
    assert [call(rpc, **about).status_code for rpc in asked] == [404, 404]
    service.hide_version("ada", "rl-cache", 1, hidden=False)
    assert {rpc: call(rpc, **about).status_code for rpc in asked} == asked


def test_archives_are_unpacked_and_folders_refused(call, send, service):
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as archive:
        member = tarfile.TarInfo("in.txt")
        member.size = 2
        archive.addfile(member, io.BytesIO(b"in"))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("deep/in.txt", b"in")
    contents = {
        "a.zip": packed.getvalue(),
        "b.tar.gz": tar.getvalue(),
        "c.txt.gz": gzip.compress(b"c"),
        "d.zip": b"none",
    }
    tokens = [{"token": send(name, content)} for name, content in contents.items()]
    assert call("CreateDataset", ownerSlug="ada", slug="rl-cache", title="rl-cache", files=tokens).json()["error"] == ""
    found = service.versions("ada", "rl-cache")[1]
    assert found == {"a/deep/in.txt": b"in", "b/in.txt": b"in", "c.txt": b"c", "d.zip": b"none"}
    begin = "/api/v1/blobs.BlobApiService/StartBlobUpload"
    assert call(begin, type="DATASET", name="a/b.txt", contentLength=1).status_code == 400


def test_files_are_sent_in_parts(call, send, session):
    create = {"ownerSlug": "ada", "slug": "rl-cache", "title": "rl-cache"}
    call("CreateDataset", **create, files=[{"token": send("a.bin", b"0123456789")}])
    answer = call("DownloadDataset", ownerSlug="ada", datasetSlug="rl-cache", fileName="a.bin", raw=True)

    def get(**headers):
        return session.get(answer.headers["Location"], headers=headers)

    whole = get()
    assert (whole.content, whole.headers["Accept-Ranges"]) == (b"0123456789", "bytes")
    part = get(Range="bytes=3-5")
    assert (part.status_code, part.content, part.headers["Content-Range"]) == (206, b"345", "bytes 3-5/10")
    assert get(Range="bytes=8-").content == b"89"
    assert get(Range="bytes=10-").status_code == 416
    assert get(**{"Range": "bytes=3-5", "If-Range": '"another"'}).content == b"0123456789"
    assert get(**{"Range": "bytes=3-5", "If-Range": whole.headers["ETag"]}).content == b"345"


def test_faults_come_up_once_and_are_counted(call, service):
    service.fail_next("ListDatasets", 503)
    service.next("*", Fault(status=429, retry_after=7))
    assert call("ListDatasets").status_code == 503
    limited = call("ListDatasets")
    assert (limited.status_code, limited.headers["Retry-After"]) == (429, "7")
    assert call("ListDatasets").status_code == 200
    service.fail_next("GetDataset", 500, times=2)
    assert service.faults_left == {"GetDataset": 2}
    service.heal()
    assert service.faults_left == {}


def test_further_calls_are_entries_of_a_table(call, service):
    service.routes["kernels.KernelsApiService/GetKernelSessionStatus"] = lambda call: as_json(
        {"status": call.fields["a"]}
    )
    answer = call("/api/v1/kernels.KernelsApiService/GetKernelSessionStatus", a="RUNNING")
    assert json.loads(answer.content) == {"status": "RUNNING"}
