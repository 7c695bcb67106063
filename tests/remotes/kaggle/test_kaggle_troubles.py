"""What the service, the network and other machines do wrong, and how the remote survives it or says it in one line (D5)."""

import threading
import time

import pytest

from unbroken.errors import RemoteError, RemoteRefused, RemoteUnreachable
from unbroken.remotes.contract import Item, Put
from unbroken.remotes.kaggle.pushing import Pushing
from unbroken.testing.kaggle import Fault

CALLS = [
    "GetDataset",
    "GetDatasetStatus",
    "StartBlobUpload",
    "upload",
    "ListDatasetFiles",
    "DownloadDataset",
    "storage",
]

DOUBTS = {
    "error": Fault(status=503),
    "silence": Fault(hangs=True),
    "broken off": Fault(answer_bytes=0),
    "page": Fault(status=200, page=True),
}


def one_line(refusal, *words):
    text = str(refusal.value)
    assert "\n" not in text
    assert all(word in text for word in words), text
    return text


class TestPassingTroubles:
    @pytest.mark.parametrize("status", [429, 502])
    @pytest.mark.parametrize("route", CALLS)
    def test_errors_that_pass_are_survived(self, remote, second, files, service, fetched, route, status):
        remote.put(files(a=b"a"))
        service.fail_next(route, status, times=3)
        second.put(files(b=b"b"))
        service.fail_next(route, status, times=3)
        assert fetched(second, "b") == b"b"
        assert [item.name for item in remote.items()] == ["a", "b"]

    @pytest.mark.parametrize("status", [200, 503])
    @pytest.mark.parametrize("route", [call for call in CALLS if call not in ("upload", "StartBlobUpload")])
    def test_pages_instead_of_answers_are_survived(self, remote, second, files, service, fetched, route, status):
        """The client would save such a page under the file's name."""
        remote.put(files(a=b"a", b=5000))
        service.next(route, Fault(status=status, page=True), times=2)
        second.put(files(c=b"c"))
        service.next(route, Fault(status=status, page=True), times=2)
        assert fetched(second, "b") == files(b=5000)["b"].read_bytes()
        assert [item.name for item in remote.items()] == ["a", "b", "c"]

    def test_the_service_is_waited_for_as_long_as_it_asks_within_bounds(self, remote, service, monkeypatch):
        waits = []
        monkeypatch.setattr("unbroken.remotes.kaggle.session.time.sleep", waits.append)
        service.next("GetDataset", Fault(status=429, retry_after=0))
        service.next("GetDataset", Fault(status=429, retry_after=3600))
        assert remote.items() == []
        assert waits == [0, 0.05]

    def test_slow_answers_are_waited_for(self, remote, second, files, service, fetched):
        service.next("*", Fault(delay=0.03), times=1000)
        remote.put(files(a=1000))
        assert fetched(second, "a") == files(a=1000)["a"].read_bytes()

    @pytest.mark.parametrize("route", ["GetDataset", "DownloadDataset", "storage"])
    def test_connections_that_break_off_are_survived(self, remote, second, files, service, fetched, route):
        remote.put(files(a=1000))
        service.next(route, Fault(answer_bytes=5), times=2)
        assert [item.name for item in second.items()] == ["a"]
        assert fetched(second, "a") == files(a=1000)["a"].read_bytes()


class TestLastingTroubles:
    @pytest.mark.parametrize("route", CALLS)
    def test_errors_that_stay_are_said_after_a_few_tries(self, remote, second, files, service, route):
        remote.put(files(a=b"a"))
        service.requests.clear()
        service.fail_next(route, 503, times=1000)
        with pytest.raises(RemoteError) as refusal:
            second.put(files(b=b"b"))
        one_line(refusal, "kaggle-dataset:ada/rl-cache", "status 503", "again")
        assert service.requests[route] == 5

    def test_pages_that_stay_are_said(self, remote, second, files, service, tmp_path):
        remote.put(files(a=1000))
        second.items()
        target = tmp_path / "target"
        target.write_bytes(b"earlier")
        service.next("storage", Fault(status=200, page=True), times=1000)
        with pytest.raises(RemoteError) as refusal:
            second.fetch("a", target)
        one_line(refusal, "something else than the file", "error page")
        assert target.read_bytes() == b"earlier"
        service.heal()
        second.fetch("a", target)
        assert target.read_bytes() == files(a=1000)["a"].read_bytes()

    def test_an_index_that_is_none_is_said(self, remote, second, files, service):
        remote.put(files(a=1000))
        service.next("storage", Fault(status=200, page=True), times=1000)
        with pytest.raises(RemoteError) as refusal:
            second.items()
        one_line(refusal, "the answer is not one of Kaggle")

    @pytest.mark.parametrize("route", [*CALLS, "CreateDatasetVersion"])
    def test_silence_ends_after_the_time_out_and_is_said(self, remote, machine, files, service, route):
        remote.put(files(a=b"a"))
        service.next(route, Fault(hangs=True), times=1000)
        with pytest.raises(RemoteUnreachable) as refusal:
            machine(timeout=0.3).put(files(b=b"b"))
        one_line(refusal, "Kaggle does not answer within 0.3 s")

    def test_silence_in_the_middle_of_a_download_is_said_and_what_came_is_kept(
        self, remote, machine, files, service, tmp_path
    ):
        remote.put(files(a=1_000_000))
        impatient = machine(timeout=1.0)
        impatient.items()
        service.next("storage", Fault(answer_bytes=600_000, hangs=True, executed=True))
        with pytest.raises(RemoteUnreachable) as refusal:
            impatient.fetch("a", tmp_path / "a")
        one_line(refusal, "within 1 s")
        assert (tmp_path / ".a.part").stat().st_size >= 500_000
        impatient.fetch("a", tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == files(a=1_000_000)["a"].read_bytes()

    def test_no_connection_is_said_at_once(self, remote, files, service):
        service.stop()
        for action in (remote.items, lambda: remote.put(files(a=b"a"))):
            with pytest.raises(RemoteUnreachable) as refusal:
                action()
            one_line(refusal, "no connection to Kaggle (time-out 20 s)")

    def test_an_error_message_of_the_service_is_one_short_line_without_secrets(self, remote, service):
        said = f"bad\nkey {service.key} " + "long " * 100
        service.routes["datasets.DatasetApiService/GetDataset"] = lambda call: _refuse(said)
        with pytest.raises(RemoteRefused) as refusal:
            remote.items()
        text = one_line(refusal, "does not accept the credentials", "KAGGLE_USERNAME", "bad key ***")
        assert service.key not in text
        assert len(text) < 600


class TestRefusals:
    def test_wrong_credentials(self, remote, files, monkeypatch):
        monkeypatch.setenv("KAGGLE_KEY", "a-wrong-key")
        for action in (remote.items, lambda: remote.put(files(a=b"a"))):
            with pytest.raises(RemoteRefused) as refusal:
                action()
            text = one_line(refusal, "KAGGLE_USERNAME and KAGGLE_KEY", "KAGGLE_API_TOKEN", "kaggle.json")
            assert "a-wrong-key" not in text

    @pytest.mark.parametrize("route", CALLS)
    def test_what_is_forbidden_is_said(self, remote, second, files, service, route):
        remote.put(files(a=b"a"))
        service.fail_next(route, 403, times=1000)
        with pytest.raises(RemoteRefused) as refusal:
            second.put(files(b=b"b"))
        one_line(refusal, "Kaggle forbids it")

    def test_a_missing_dataset_may_be_reported_as_forbidden(self, remote, files, service):
        service.behaviour.missing_status = 403
        assert remote.items() == []
        assert remote.put(files(a=b"a")) == Put(written=("a",))

    @pytest.mark.parametrize("missing_status", [403, 404])
    def test_somebody_elses_dataset(self, machine, files, service, missing_status):
        service.behaviour.missing_status = missing_status
        other = machine(url="kaggle-dataset:grace/rl-cache")
        with pytest.raises(RemoteRefused) as refusal:
            other.put(files(a=b"a"))
        one_line(refusal, "Kaggle forbids it", "belong to you")

    def test_an_error_inside_an_answer_is_said_and_nothing_is_sent_again(self, remote, files, service):
        remote.put(files(a=b"a"))
        uploads = len(service.uploads)
        service.next("CreateDatasetVersion", Fault(error="You have exceeded\nyour private quota"), times=1000)
        with pytest.raises(RemoteError) as refusal:
            remote.put(files(b=b"b"))
        one_line(refusal, "does not take the new version: You have exceeded your private quota")
        assert len(service.uploads) == uploads + 3


class TestCreationInDoubt:
    @pytest.mark.parametrize("fault", DOUBTS.values(), ids=DOUBTS)
    @pytest.mark.parametrize("executed", [True, False])
    @pytest.mark.parametrize("first", [True, False])
    def test_it_looks_before_it_pushes_again(self, machine, files, service, versions, fault, executed, first):
        fault = Fault(**{**fault.__dict__, "executed": executed or fault.answer_bytes is not None})
        remote = machine(timeout=1.0 if fault.hangs else 20.0)
        if not first:
            remote.put(files(a=b"a"))
        uploads = service.requests["upload"]
        service.next("CreateDataset" if first else "CreateDatasetVersion", fault)
        service.behaviour.hidden_seconds = service.behaviour.processing_seconds = 0.05
        assert remote.put(files(b=100_000)) == Put(written=("b",))
        assert len(versions()) == (1 if first else 2)
        assert remote.items()[-1] == Item("b", 100_000)
        packs = 1 if first else 2
        asked = 0 if fault.executed else packs
        assert service.requests["upload"] == uploads + packs + 1 + (asked + 1 if asked else 0), "whether they are there"

    def test_uploads_of_another_process_that_a_version_has_used_up_are_sent_again(
        self, machine, files, service, tmp_path
    ):
        """Two processes of one machine share the workspace."""
        workspace = tmp_path / "workspace"
        service.next("CreateDataset", Fault(status=403))
        with pytest.raises(RemoteError):
            machine(workspace=workspace).put(files(a=1000))
        for blob in service.uploads:
            blob.used = True
        assert machine(workspace=workspace).put(files(a=1000)) == Put(written=("a",))

    def test_a_workspace_cleared_in_the_middle_is_said(self, remote, files, monkeypatch):
        monkeypatch.setattr("unbroken.remotes.kaggle.pushing.Kept.has", lambda kept, blob: False)
        with pytest.raises(RemoteError) as refusal:
            remote.put(files(a=b"a"))
        one_line(refusal, "was cleared while a put was using it: run the same command again")

    def test_uploads_that_were_used_up_after_all_are_sent_again(self, remote, files, service, versions):
        remote.put(files(a=b"a"))
        create = service.routes["datasets.DatasetApiService/CreateDatasetVersion"]
        calls = []

        def lose(call):
            calls.append(call)
            answer = create(call)
            if len(calls) == 1:
                service.remove_version("ada", "rl-cache", 2)
                return _unavailable()
            return answer

        service.routes["datasets.DatasetApiService/CreateDatasetVersion"] = lose
        assert remote.put(files(b=b"b")) == Put(written=("b",))
        assert len(calls) == 3


class TestUploads:
    def test_a_torn_upload_goes_on(self, remote, files, service):
        service.next("upload", Fault(request_bytes=600_000))
        service.next("upload", Fault(status=503))
        service.next("upload", Fault(request_bytes=0))
        remote.put(files(a=1_000_000))
        assert service.uploads[0].starts == [0, 600_000]
        assert remote.items() == [Item("a", 1_000_000)]

    def test_an_upload_torn_again_and_again_goes_on_while_something_arrives(self, remote, files, service):
        for _ in range(12):
            for fault in (Fault(request_bytes=70_000), Fault(status=500), Fault()):
                service.next("upload", fault)
        remote.put(files(a=1_000_000))
        assert len(service.uploads[0].starts) == 13
        assert remote.items() == [Item("a", 1_000_000)]

    def test_a_put_that_failed_goes_on_with_its_upload(self, machine, files, service, tmp_path):
        workspace = tmp_path / "workspace"
        service.next("upload", Fault(request_bytes=600_000))
        service.next("upload", Fault(status=500), times=4)
        with pytest.raises(RemoteError):
            machine(workspace=workspace).put(files(a=1_000_000))
        machine(workspace=workspace).put(files(a=1_000_000))
        assert service.uploads[0].starts == [0, 600_000]
        assert len(service.uploads) == 2

    def test_an_upload_that_has_expired_begins_again(self, machine, files, service, tmp_path):
        workspace = tmp_path / "workspace"
        service.next("upload", Fault(request_bytes=600_000))
        service.next("upload", Fault(status=500), times=4)
        with pytest.raises(RemoteError):
            machine(workspace=workspace).put(files(a=1_000_000))
        service.uploads[0].expired = True
        machine(workspace=workspace).put(files(a=1_000_000))
        assert service.uploads[1].starts == [0]


class TestDownloads:
    def test_a_torn_download_goes_on(self, remote, second, files, service, fetched):
        remote.put(files(a=1_000_000))
        second.items()
        service.answered.clear()
        service.next("storage", Fault(answer_bytes=600_000))
        assert fetched(second, "a") == files(a=1_000_000)["a"].read_bytes()
        assert service.answered["storage"] < 1_500_000

    def test_the_old_contents_for_a_put_are_downloaded_in_parts_too(self, remote, second, files, service, fetched):
        remote.put(files(a=1_000_000))
        service.next("storage", Fault())
        service.next("storage", Fault(answer_bytes=600_000), times=1)
        second.put(files(b=b"b"))
        assert fetched(remote, "a") == files(a=1_000_000)["a"].read_bytes()

    @pytest.mark.parametrize("serves_ranges", [True, False])
    @pytest.mark.parametrize("zips_files", ["never", "always"])
    def test_files_may_come_whole_and_in_zips(self, remote, second, files, service, fetched, serves_ranges, zips_files):
        service.behaviour.serves_ranges, service.behaviour.zips_files = serves_ranges, zips_files
        remote.put(files(a=300_000, b=b"b" * 10_000, c=300_000))
        second.put(files(d=b"d"))
        for name, source in files(a=300_000, b=b"b" * 10_000, c=300_000, d=b"d").items():
            assert fetched(second, name) == source.read_bytes()

    def test_damage_on_the_way_is_noticed(self, remote, second, files, service, tmp_path):
        remote.put(files(a=1000))
        second.items()
        service.next("storage", Fault(damages=True, executed=True), times=2)
        second.fetch("a", tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == files(a=1000)["a"].read_bytes()

    def test_damage_that_stays_is_said(self, remote, second, files, service, tmp_path, versions):
        remote.put(files(a=1000))
        damaged = {n: c if n.endswith("json") else c[:-1] + bytes([c[-1] ^ 1]) for n, c in versions()[1].items()}
        service.replace_files("ada", "rl-cache", damaged)
        with pytest.raises(RemoteError) as refusal:
            second.fetch("a", tmp_path / "a")
        one_line(refusal, "of version 1 is damaged there")
        assert list(tmp_path.glob("*a*")) == [tmp_path / "sources"] or not (tmp_path / "a").exists()

    def test_a_version_deleted_since_it_was_seen_is_no_loss(self, remote, second, files, service, fetched):
        remote.put(files(a=1000))
        second.items()
        remote.put(files(b=b"b"))
        service.remove_version("ada", "rl-cache", 1)
        assert fetched(second, "a") == files(a=1000)["a"].read_bytes()


class TestTwoMachines:
    def test_versions_that_pass_over_each_other_are_put_together(
        self, remote, second, files, versions, fetched, monkeypatch
    ):
        remote.put(files(a=b"a"))
        meanwhile(monkeypatch, second, lambda: remote.put(files(b=b"b", both=b"first")))
        assert second.put(files(c=b"c", both=b"second")) == Put(written=("c",), present=("both",))
        assert sorted(versions()) == [1, 2, 3, 4]
        for machine in (remote, second):
            assert [item.name for item in machine.items()] == ["a", "b", "both", "c"]
            assert fetched(machine, "both") == b"first"
        assert len(versions()[4]) == len(versions()[3]) + 1, "the newest version alone has everything"

    def test_two_machines_may_make_the_dataset_at_once(self, remote, second, files, versions, monkeypatch):
        meanwhile(monkeypatch, second, lambda: remote.put(files(a=b"a")))
        assert second.put(files(b=b"b")) == Put(written=("b",))
        assert [item.name for item in remote.items()] == ["a", "b"]
        assert sorted(versions()) == [1, 2]

    def test_two_machines_may_make_a_dataset_at_once_that_shows_late(self, remote, second, files, service, versions):
        service.behaviour.hidden_seconds = 0.4
        making = threading.Thread(target=remote.put, args=(files(a=b"a"),))
        making.start()
        while not versions():
            time.sleep(0.005)
        assert second.put(files(b=b"b")) == Put(written=("b",))
        making.join()
        assert [item.name for item in remote.items()] == ["a", "b"]

    def test_a_title_that_stays_in_use_is_said(self, machine, files, service):
        said = 'The requested title "rl-cache" is already in use by a dataset.'
        service.next("CreateDataset", Fault(error=said), times=1000)
        with pytest.raises(RemoteError) as refusal:
            machine(processing=0.5).put(files(a=b"a"))
        one_line(refusal, said)

    def test_nothing_is_lost_if_the_one_that_passed_over_another_dies(
        self, remote, second, machine, files, versions, fetched, monkeypatch
    ):
        remote.put(files(a=b"a"))
        meanwhile(monkeypatch, second, lambda: remote.put(files(b=b"b")))
        look = Pushing._looked
        monkeypatch.setattr(
            Pushing, "_looked", lambda self, *a: look(self, *a) if self._workspace.folder != second._folder else _die()
        )
        with pytest.raises(KeyboardInterrupt):
            second.put(files(c=b"c"))
        third = machine()
        assert [item.name for item in third.items()] == ["a", "b", "c"]
        assert [fetched(third, name) for name in "abc"] == [b"a", b"b", b"c"]
        assert third.put(files(d=b"d")) == Put(written=("d",))
        assert sorted(versions()) == [1, 2, 3, 4]
        service_view = machine()
        assert [item.name for item in service_view.items()] == ["a", "b", "c", "d"]

    def test_many_machines_at_once(self, machine, files, service):
        service.behaviour.processing_seconds = 0.05
        sources = files(**{f"object{n}": b"%d" % n for n in range(4)})
        threads = [threading.Thread(target=machine().put, args=({name: source},)) for name, source in sources.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [item.name for item in machine().items()] == sorted(sources)


def meanwhile(monkeypatch, machine, action):
    """Let something happen while `machine` is about to make its version."""
    create = Pushing._create
    due = [action]

    def create_after(self, *arguments):
        if due and self._workspace.folder == machine._folder:
            due.pop()()
        return create(self, *arguments)

    monkeypatch.setattr(Pushing, "_create", create_after)


def _die():
    raise KeyboardInterrupt


def _refuse(message):
    from unbroken.testing.kaggle.messages import Refusal

    return Refusal(401, message).answer


def _unavailable():
    from unbroken.testing.kaggle.messages import Refusal

    return Refusal(503).answer
