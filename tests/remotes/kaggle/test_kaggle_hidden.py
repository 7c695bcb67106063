"""What the service does not show for a moment is not taken for gone: no machine drops another one's objects (D5)."""

import json
import threading
import time

import pytest

from unbroken.errors import RemoteError
from unbroken.remotes.contract import Put
from unbroken.remotes.kaggle.dataset import DatasetCalls
from unbroken.remotes.kaggle.pushing import Pushing

OWNER, SLUG = "ada", "rl-cache"
READS = ["GetDataset", "GetDatasetStatus", "ListDatasetFiles", "DownloadDataset", "storage"]


def names(machine):
    return [item.name for item in machine.items()]


class TestNotFound:
    @pytest.mark.parametrize("times", [1, 3])
    @pytest.mark.parametrize("route", READS)
    def test_a_passing_404_hides_nothing(self, remote, machine, files, service, fetched, route, times):
        remote.put(files(a=b"a"))
        remote.put(files(b=b"b"))
        other = machine()
        fetched(other, "a")
        service.fail_next(route, 404, times)
        assert names(other) == ["a", "b"]
        service.heal()
        service.fail_next(route, 404, times)
        assert fetched(machine(), "b") == b"b"

    @pytest.mark.parametrize("times", [1, 3])
    @pytest.mark.parametrize("route", READS)
    def test_a_passing_404_makes_nobody_drop_a_name(self, remote, machine, files, service, fetched, route, times):
        remote.put(files(a=b"a"))
        remote.put(files(b=b"b"))
        service.fail_next(route, 404, times)
        assert machine().put(files(c=b"c")) == Put(written=("c",))
        service.heal()
        for reader in (remote, machine()):
            assert names(reader) == ["a", "b", "c"]
            assert fetched(reader, "b") == b"b"

    @pytest.mark.parametrize("route", ["DownloadDataset", "storage"])
    def test_contents_that_are_not_sent_for_a_moment(self, remote, machine, files, service, fetched, route):
        remote.put(files(a=1000))
        reader, writer = machine(), machine()
        for machine_ in (reader, writer):
            machine_.items()
        service.fail_next(route, 404, times=4)
        assert fetched(reader, "a") == files(a=1000)["a"].read_bytes()
        service.fail_next(route, 404, times=4)
        assert writer.put(files(b=b"b")) == Put(written=("b",))
        assert service.faults_left == {}

    def test_one_404_about_a_dataset_that_is_there(self, remote, machine, files, service):
        remote.put(files(a=b"a"))
        service.fail_next("GetDataset", 404)
        assert names(machine()) == ["a"]

    def test_a_dataset_that_this_machine_knows_is_not_gone_at_once(self, remote, machine, files, service, tmp_path):
        """Also in another process, and also where both calls say so."""
        remote.put(files(a=b"a"))
        (workspace,) = tmp_path.glob("workspace *")
        for known in (remote, machine(workspace=workspace)):
            for route in ("GetDataset", "GetDatasetStatus"):
                service.fail_next(route, 404, times=2)
            assert names(known) == ["a"]
            assert service.faults_left == {}

    def test_a_dataset_that_was_deleted_is_gone_and_made_anew(self, remote, machine, files, service):
        remote.put(files(a=b"a"))
        remote.put(files(b=b"b"))
        service.remove_dataset(OWNER, SLUG)
        assert names(remote) == []
        machine().put(files(c=b"c"))
        assert remote.put(files(d=b"d")) == Put(written=("d",))
        assert names(remote) == names(machine()) == ["c", "d"]

    @pytest.mark.parametrize("route", ["DownloadDataset", "storage"])
    def test_an_index_that_is_listed_and_not_sent_is_an_error(self, remote, machine, files, service, versions, route):
        remote.put(files(a=b"a"))
        remote.put(files(b=b"b"))
        service.fail_next(route, 404, times=1000)
        other = machine()
        for action in (other.items, lambda: other.put(files(c=b"c"))):
            with pytest.raises(RemoteError, match=r"version 2 .*unbroken-index\.json.*again") as refusal:
                action()
            assert "\n" not in str(refusal.value)
        assert list(versions()) == [1, 2]

    def test_a_current_version_of_which_nothing_is_shown_is_an_error(self, remote, machine, files, service, versions):
        remote.put(files(a=b"a"))
        remote.put(files(b=b"b"))
        service.hide_version(OWNER, SLUG, 2)
        other = machine()
        for action in (other.items, lambda: other.put(files(c=b"c"))):
            with pytest.raises(RemoteError, match=r"nothing is shown of version 2.*again"):
                action()
        assert list(versions()) == [1, 2]
        service.hide_version(OWNER, SLUG, 2, hidden=False)
        assert names(other) == ["a", "b"]

    def test_files_that_show_late_after_the_version_is_ready(self, remote, second, machine, files, service, fetched):
        service.behaviour.lag_seconds = 0.05
        for number, name in enumerate("abcd"):
            assert (remote, second)[number % 2].put(files(**{name: name.encode()})) == Put(written=(name,))
            assert names(machine()) == list("abcd"[: number + 1])
        assert [fetched(machine(), name) for name in "abcd"] == [b"a", b"b", b"c", b"d"]

    def test_a_version_hidden_from_those_who_continue_it_comes_back(
        self, remote, second, machine, files, service, fetched, meanwhile
    ):
        """It lies between versions that were made at once, and nobody can see it while two more are made."""
        remote.put(files(a=b"a"))
        meanwhile(second, lambda: (remote.put(files(b=b"b")), service.hide_version(OWNER, SLUG, 2)))
        second.put(files(c=b"c"))
        for name in "de":
            machine().put(files(**{name: name.encode()}))
        assert names(machine()) == ["a", "c", "d", "e"]
        service.hide_version(OWNER, SLUG, 2, hidden=False)
        last = machine()
        assert names(last) == ["a", "b", "c", "d", "e"]
        assert last.put(files(f=b"f")) == Put(written=("f",))
        service.hide_version(OWNER, SLUG, 2)
        assert names(machine()) == list("abcdef")
        assert fetched(machine(), "b") == b"b"


class TestAnnouncedEarly:
    """A version's number may be given while it is still being processed."""

    def test_a_version_announced_between_two_questions_is_waited_for(
        self, remote, second, machine, files, service, versions, meanwhile, monkeypatch
    ):
        remote.put(files(a=b"a"))
        service.behaviour.announces_early, service.behaviour.processing_seconds = True, 0.5
        putting = threading.Thread(target=remote.put, args=(files(b=b"b"),))
        asked, me = DatasetCalls._status, threading.get_ident()

        def asked_before_it_shows(calls):
            said = asked(calls)
            if threading.get_ident() == me and not putting.ident:
                putting.start()
                while len(versions()) < 2:
                    time.sleep(0.005)
            return said

        monkeypatch.setattr(DatasetCalls, "_status", asked_before_it_shows)
        meanwhile(second, putting.join)
        assert second.put(files(c=b"c")) == Put(written=("c",))
        assert names(machine()) == ["a", "b", "c"]
        assert json.loads(versions()[3]["unbroken-index.json"])["base"] == 2

    def test_a_version_that_fails_after_it_was_announced(self, remote, second, machine, files, service, fetched):
        remote.put(files(a=b"a"))
        service.behaviour.announces_early = True
        service.fail_processing()
        assert remote.put(files(b=b"b")) == Put(written=("b",))
        service.fail_processing()
        assert second.put(files(c=b"c")) == Put(written=("c",))
        assert names(machine()) == ["a", "b", "c"]
        assert [fetched(machine(), name) for name in "abc"] == [b"a", b"b", b"c"]

    @pytest.mark.parametrize("lag", [0.0, 0.03])
    def test_what_was_told_to_be_written_is_seen_by_everybody_from_then_on(self, machine, files, service, lag):
        service.behaviour.announces_early = True
        service.behaviour.hidden_seconds, service.behaviour.processing_seconds = 0.01, 0.03
        service.behaviour.lag_seconds = lag
        told = set()
        putters = [threading.Thread(target=put_each, args=(machine(), files, who, told)) for who in ("one", "two")]
        for putter in putters:
            putter.start()
        while any(putter.is_alive() for putter in putters):
            before = set(told)
            assert before <= set(names(machine()))
        assert set(names(machine())) == told == {f"{who}/{n}" for who in ("one", "two") for n in range(4)}


class TestTogether:
    def test_each_version_of_two_made_at_once_is_seen_by_everybody(self, remote, second, machine, files, meanwhile):
        """The first machine has its word that it is written before the other one's version passes over it."""
        remote.put(files(a=b"a"))
        seen = []
        meanwhile(second, lambda: seen.append(remote.put(files(b=b"b"))), lambda: seen.append(names(machine())))
        assert second.put(files(c=b"c")) == Put(written=("c",))
        assert seen == [Put(written=("b",)), ["a", "b", "c"]]


def put_each(machine, files, who, told):
    for n in range(4):
        told.update(machine.put(files(**{f"{who}__{n}": f"{who} {n}".encode()})).written)


@pytest.fixture
def meanwhile(monkeypatch):
    """Let something happen right before a machine makes its version, and something right after it."""

    def arrange(machine, before, after=lambda: None):
        create = Pushing._create
        due = [(before, after)]

        def create_between(self, *arguments):
            if not due or self._workspace.folder != machine._folder:
                return create(self, *arguments)
            first, then = due.pop()
            first()
            objection = create(self, *arguments)
            then()
            return objection

        monkeypatch.setattr(Pushing, "_create", create_between)

    return arrange
