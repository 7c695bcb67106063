"""The Kaggle dataset as a remote (D5): the contract, how objects lie there, what a put costs, and who may read and write."""

import os
import sys
import threading
import time

import pytest

from unbroken.errors import MissingExtra, NotFound, RemoteError, UsageError
from unbroken.remotes.contract import Item, Put
from unbroken.testing.kaggle.messages import as_json
from unbroken.testing.remote_contract import RemoteContract

OWNER, SLUG = "ada", "rl-cache"
INDEX = "unbroken-index.json"


class TestContract(RemoteContract):
    """With a service that takes a moment for each version and lists one file a page."""

    @pytest.fixture(autouse=True)
    def _slow(self, service):
        service.behaviour.processing_seconds = 0.05
        service.behaviour.page_limit = 1


class TestLayout:
    def test_files_are_few_flat_and_plain(self, remote, files, versions):
        remote.put(files(**{f"cache__{n}.zip": b"%d" % n for n in range(30)}))
        assert len(versions()[1]) == 2
        assert all("/" not in name and name.endswith((".bin", ".json")) for name in versions()[1])

    def test_equal_contents_are_stored_once(self, remote, second, files, versions, fetched):
        remote.put(files(a=b"same" * 1000, b=b"same" * 1000))
        second.put(files(c=b"same" * 1000))
        assert sum(len(content) for name, content in versions()[2].items() if name != INDEX) == 4000
        assert [fetched(second, name) for name in "abc"] == [b"same" * 1000] * 3

    def test_many_puts_leave_few_files(self, remote, files, versions, monkeypatch):
        monkeypatch.setattr("unbroken.remotes.kaggle.index.MOST_PACKS", 3)
        for n in range(5):
            remote.put(files(**{f"object{n}": 10}))
        assert [len(files) for files in versions().values()] == [2, 3, 4, 2, 3]

    def test_the_dataset_is_private(self, remote, files, service):
        remote.put(files(a=b"a"))
        assert service.is_private(OWNER, SLUG)

    @pytest.mark.parametrize("length", [6, 50])
    def test_a_name_is_a_title_that_the_service_accepts(self, machine, files, length):
        remote = machine(url=f"kaggle-dataset:{OWNER}/{'x' * length}")
        remote.put(files(a=b"a"))
        assert remote.items() == [Item("a", 1)]


class TestCost:
    def test_every_version_holds_everything_and_old_contents_come_from_the_workspace(
        self, remote, files, service, versions
    ):
        remote.put(files(a=50_000))
        indexes_only = service.requests["storage"]
        remote.put(files(b=70_000))
        remote.put(files(c=b""))
        sizes = [
            sorted(len(content) for name, content in files.items() if name != INDEX) for files in versions().values()
        ]
        assert sizes == [[50_000], [50_000, 70_000], [50_000, 70_000]]
        assert service.requests["storage"] == indexes_only + 2

    def test_what_a_machine_has_fetched_it_need_not_fetch_again_to_put(self, remote, second, files, service, fetched):
        remote.put(files(a=50_000))
        second.fetch("a", files(b=b"")["b"])
        service.requests.clear()
        second.put(files(c=b"c"))
        assert service.requests["storage"] == 1, "the index of its own version"
        assert [item.name for item in remote.items()] == ["a", "c"]

    def test_a_machine_without_the_old_contents_downloads_them_once(self, remote, second, files, service, fetched):
        remote.put(files(a=50_000, b=60_000))
        second.put(files(c=b"c"))
        assert fetched(remote, "b") == files(b=60_000)["b"].read_bytes()
        assert service.requests["storage"] == 2 + 1 + 1 + 1, "the index of 1 by both, the pack, the index of 2, b"

    def test_damage_in_the_workspace_costs_a_download(self, remote, second, files, tmp_path, fetched):
        remote.put(files(a=50_000))
        for path in tmp_path.glob("workspace */objects/*"):
            path.write_bytes(b"?" + path.read_bytes()[1:])
        remote.put(files(b=b"b"))
        assert fetched(second, "a") == files(a=50_000)["a"].read_bytes()

    def test_what_is_there_is_not_sent(self, remote, second, files, service, versions):
        remote.put(files(a=b"a", b=b"b"))
        uploads = len(service.uploads)
        assert second.put(files(a=b"other", b=b"other")) == Put(present=("a", "b"))
        assert len(service.uploads) == uploads
        assert list(versions()) == [1]


class TestProcessing:
    @pytest.mark.parametrize("announces_early", [False, True])
    def test_a_put_waits_and_others_see_the_old_version_meanwhile(
        self, remote, second, files, service, fetched, announces_early
    ):
        service.behaviour.announces_early = announces_early
        for earlier, name in ([], "a"), (["a"], "b"):
            service.behaviour.processing_seconds = float("inf")
            thread = threading.Thread(target=remote.put, args=(files(**{name: name.encode()}),))
            created = service.requests["CreateDataset"] + service.requests["CreateDatasetVersion"]
            thread.start()
            while service.requests["CreateDataset"] + service.requests["CreateDatasetVersion"] == created:
                time.sleep(0.005)
            assert [item.name for item in second.items()] == earlier
            assert all(fetched(second, old) == old.encode() for old in earlier)
            assert thread.is_alive()
            service.finish_processing()
            thread.join()
            assert [item.name for item in second.items()] == [*earlier, name]

    def test_a_put_waits_for_the_version_of_another_machine(self, remote, second, files, service, versions):
        service.behaviour.processing_seconds = 0.3
        threads = [threading.Thread(target=remote.put, args=(files(a=b"a"),))]
        threads[0].start()
        while not versions():
            time.sleep(0.005)
        second.put(files(b=b"b"))
        threads[0].join()
        assert len(versions()) == 2
        assert [item.name for item in remote.items()] == ["a", "b"]

    def test_a_version_that_shows_late_is_waited_for(self, remote, second, files, service, versions):
        service.behaviour.hidden_seconds = 0.2
        for number, name in enumerate("abc", 1):
            assert remote.put(files(**{name: b"content"})) == Put(written=(name,))
            assert len(second.items()) == len(versions()) == number

    def test_a_long_wait_is_said_once(self, remote, files, service, caplog):
        service.behaviour.processing_seconds = float("inf")
        with caplog.at_level("INFO", "unbroken"):
            thread = threading.Thread(target=remote.put, args=(files(a=b"a"),))
            thread.start()
            while not caplog.records:
                time.sleep(0.005)
            service.finish_processing()
            thread.join()
        (record,) = caplog.records
        assert (
            "[REMOTE] kaggle-dataset:ada/rl-cache: waiting until Kaggle has processed a version" in record.getMessage()
        )

    def test_the_wait_has_an_end(self, machine, files, service):
        service.behaviour.processing_seconds = float("inf")
        remote = machine(processing=0.2)
        with pytest.raises(
            RemoteError, match=r"has not finished a version after 0\.2 s: run the same command again later"
        ):
            remote.put(files(a=b"a"))
        service.finish_processing()
        assert remote.put(files(a=b"a")) == Put(present=("a",))

    def test_a_version_that_cannot_be_processed_is_reported_and_pushed_again(self, remote, second, files, service):
        remote.put(files(a=b"a"))
        service.fail_processing()
        with pytest.raises(RemoteError, match="could not process"):
            remote.put(files(b=b"b"))
        assert [item.name for item in second.items()] == ["a"]
        assert remote.put(files(b=b"b")) == Put(written=("b",))
        assert [item.name for item in second.items()] == ["a", "b"]

    def test_a_first_version_that_cannot_be_processed_is_followed_by_another(self, remote, second, files, service):
        service.behaviour.mends_failures = True
        service.fail_processing()
        with pytest.raises(RemoteError, match="could not process"):
            remote.put(files(a=b"a"))
        assert second.items() == []
        assert remote.put(files(b=b"b")) == Put(written=("b",))
        assert second.items() == [Item("b", 1)]

    def test_a_first_version_that_bars_all_others_is_said_with_the_way_out(self, remote, second, files, service):
        service.fail_processing()
        with pytest.raises(RemoteError, match="could not process"):
            remote.put(files(a=b"a"))
        for machine in (remote, second):
            with pytest.raises(
                RemoteError, match=r"could not process the first version.*delete the dataset"
            ) as refusal:
                machine.put(files(a=b"a"))
            assert "\n" not in str(refusal.value)
        service.remove_dataset(OWNER, SLUG)
        assert remote.put(files(a=b"a")) == Put(written=("a",))

    def test_a_version_that_shows_late_after_one_that_failed(self, remote, second, files, service):
        remote.put(files(a=b"a"))
        service.fail_processing()
        with pytest.raises(RemoteError, match="could not process"):
            remote.put(files(b=b"b"))
        service.behaviour.hidden_seconds = 0.03
        assert second.put(files(c=b"c")) == Put(written=("c",))


class TestOthersFiles:
    def test_files_of_others_are_not_pushed_away(self, remote, files, service, versions):
        service.behaviour.page_limit = 1
        remote.put(files(a=b"a"))
        service.replace_files(OWNER, SLUG, {**versions()[1], "zoo.csv": b"1,2"})
        with pytest.raises(RemoteError, match=r"holds files of others, such as 'zoo\.csv'.*name a dataset"):
            remote.put(files(b=b"b"))
        assert list(versions()) == [1]
        assert remote.items() == [Item("a", 1)]

    @pytest.mark.parametrize("times", [1, 3, 1000])
    @pytest.mark.parametrize("status", [404, 403])
    def test_they_are_seen_also_if_they_are_not_listed_at_once(self, remote, machine, files, service, status, times):
        remote.put(files(a=b"a"))
        service.replace_files(OWNER, SLUG, {"zoo.csv": b"1,2"})
        service.fail_next("ListDatasetFiles", status, times)
        with pytest.raises(RemoteError) as refusal:
            machine().put(files(b=b"b"))
        assert "\n" not in str(refusal.value)
        assert list(service.versions(OWNER, SLUG).values()) == [{"zoo.csv": b"1,2"}]

    def test_an_empty_listing_is_not_believed(self, remote, machine, files, service, versions):
        remote.put(files(a=b"a"))
        service.routes["datasets.DatasetApiService/ListDatasetFiles"] = lambda call: as_json({"datasetFiles": []})
        with pytest.raises(RemoteError, match="nothing is shown of version 1: run the same command again later"):
            machine().put(files(b=b"b"))
        assert list(versions()) == [1]

    def test_a_version_made_by_hand_hides_nothing(self, remote, second, files, service, versions, fetched):
        remote.put(files(a=b"a"))
        remote.put(files(b=b"b"))
        service.replace_files(OWNER, SLUG, {name: content for name, content in versions()[2].items() if name != INDEX})
        assert remote.items() == [Item("a", 1), Item("b", 1)]
        assert second.items() == [Item("a", 1)]
        assert second.put(files(c=b"c")) == Put(written=("c",))
        assert second.items() == [Item("a", 1), Item("c", 1)]

    def test_a_file_that_the_service_does_not_keep_is_reported(self, remote, files, monkeypatch):
        """As if it took packs for archives."""
        keep_indexes = {INDEX}.__contains__
        monkeypatch.setattr(
            "unbroken.testing.kaggle.datasets.unpacked", lambda files: {n: files[n] for n in files if keep_indexes(n)}
        )
        with pytest.raises(RemoteError, match=r"has not kept unbroken-[0-9a-f]+\.bin of version 1 as it was sent"):
            remote.put(files(a=b"a"))

    def test_a_file_that_the_service_cuts_is_reported(self, remote, files, monkeypatch):
        monkeypatch.setattr(
            "unbroken.testing.kaggle.datasets.unpacked",
            lambda files: {n: c if n == INDEX else c[:-1] for n, c in files.items()},
        )
        with pytest.raises(RemoteError, match="sends something else than the file"):
            remote.put(files(a=b"abc"))

    def test_listed_sizes_of_packed_forms_are_no_damage(self, remote, second, files, service, fetched):
        service.behaviour.lists_packed_sizes = True
        assert remote.put(files(a=1000, b=1000)) == Put(written=("a", "b"))
        assert fetched(second, "b") == files(b=1000)["b"].read_bytes()


class TestAddress:
    @pytest.mark.parametrize(
        "url",
        [
            "kaggle-dataset:",
            "kaggle-dataset:ada",
            "kaggle-dataset:ada/",
            "kaggle-dataset:ada/ab",
            "kaggle-dataset:ada/short",
            "kaggle-dataset:ada/rl-cache/3",
            "kaggle-dataset:ada/rl cache",
            "kaggle-dataset:../rl-cache",
            f"kaggle-dataset:ada/{'x' * 51}",
            "kaggle:ada/rl-cache",
        ],
    )
    def test_a_wrong_address_is_one_line(self, machine, url):
        with pytest.raises(UsageError, match="write kaggle-dataset:OWNER/SLUG") as refusal:
            machine(url=url)
        assert "\n" not in str(refusal.value)

    @pytest.mark.parametrize("user", ["ada:THEKEY@", "ada:THE@KEY@", "ada:THE/KEY@"])
    def test_a_key_in_the_address_is_not_shown(self, machine, user):
        with pytest.raises(UsageError, match=f"'kaggle-dataset:{OWNER}/{SLUG}' names no Kaggle dataset") as refusal:
            machine(url=f"kaggle-dataset:{user}{OWNER}/{SLUG}")
        assert "KEY" not in str(refusal.value)
        assert "THE" not in str(refusal.value)

    def test_a_dataset_that_was_never_pushed_has_nothing(self, remote, tmp_path):
        assert remote.items() == []
        with pytest.raises(NotFound, match="has no a"):
            remote.fetch("a", tmp_path / "a")


class TestTheClient:
    def test_without_the_package_the_extra_is_named(self, remote, monkeypatch):
        for name in [name for name in sys.modules if name.split(".")[0] == "kagglesdk"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "kagglesdk", None)
        with pytest.raises(MissingExtra, match=r"pip install 'unbroken\[kaggle\]'"):
            remote.items()

    def test_nothing_is_printed_and_nothing_written_outside_the_workspace(
        self, remote, files, service, capfd, fetched, tmp_path
    ):
        service.fail_next("GetDataset", 503)
        remote.put(files(a=b"a"))
        fetched(remote, "a")
        with pytest.raises(NotFound):
            remote.fetch("b", tmp_path / "b")
        assert capfd.readouterr() == ("", "")
        assert list(service.home.iterdir()) == []

    def test_no_secret_is_kept_or_sent_to_the_storage(self, remote, files, service, tmp_path, fetched):
        service.fail_next("CreateDataset", 403)
        with pytest.raises(RemoteError):
            remote.put(files(a=100_000))
        kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        (uploads,) = tmp_path.glob("workspace */uploads")
        assert list(uploads.iterdir())
        assert os.name == "nt" or uploads.stat().st_mode & 0o077 == 0
        assert not any(service.key.encode() in content for content in kept)
        remote.put(files(a=100_000))
        fetched(remote, "a")
        assert service.leaks == []
