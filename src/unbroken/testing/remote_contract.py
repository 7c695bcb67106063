"""The tests that every remote has to pass.

Inherit from `RemoteContract` in a pytest module and give it two fixtures: `remote`, whose place is empty, and `second`, another
object for the same place as another machine would have it, with a workspace of its own.
"""

import gzip
import io
import random
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from unbroken.errors import NotFound, UsageError
from unbroken.remotes.contract import Item, Put, Remote

_LONG = "a folder/" + "long-" * 30 + "name.json"


class RemoteContract:
    """Inherit as `class TestMine(RemoteContract)` with the fixtures `remote` and `second`.

    `exclusive = False` is for a place that has no way to decide between two machines that put one name in the same instant: then
    both may believe that theirs was written, and still exactly one content must be there, whole and the same for everybody.
    """

    exclusive = True

    def test_an_empty_place_lists_nothing(self, remote: Remote) -> None:
        assert remote.items() == []
        assert remote.items("cache/") == []
        assert remote.put({}) == Put()
        assert remote.url

    def test_bytes_come_back_on_another_machine(self, remote: Remote, second: Remote, tmp_path: Path) -> None:
        contents = _contents()
        assert remote.put(_files(tmp_path / "from", contents)) == Put(written=tuple(contents))
        assert second.items() == [Item(name, len(contents[name])) for name in sorted(contents)]
        for machine in (second, remote):
            for name, content in contents.items():
                assert _fetched(machine, name, tmp_path) == content, name
        assert {name: _source(tmp_path / "from", name).read_bytes() for name in contents} == contents

    def test_items_are_sorted_and_chosen_by_prefix(self, remote: Remote, tmp_path: Path) -> None:
        names = ["b/x", "a", "b/ab", "b/a/c", "ab", "b.d"]
        remote.put(_files(tmp_path, {name: name.encode() for name in names}))
        assert remote.items() == [Item(name, len(name)) for name in sorted(names)]
        for prefix in ("a", "b", "b/", "b/a", "b/a/", "b/ab", "c", "b/a/c/"):
            expected = [Item(name, len(name)) for name in sorted(names) if name.startswith(prefix)]
            assert remote.items(prefix) == expected, prefix

    def test_what_is_there_stays(self, remote: Remote, second: Remote, tmp_path: Path) -> None:
        assert remote.put(_files(tmp_path / "1", {"x/a": b"first"})) == Put(written=("x/a",))
        again = _files(tmp_path / "2", {"new": b"new", "x/a": b"another content"})
        assert second.put(again) == Put(written=("new",), present=("x/a",))
        assert second.put(again) == Put(present=("new", "x/a"))
        assert remote.items() == [Item("new", 3), Item("x/a", 5)]
        assert _fetched(remote, "x/a", tmp_path) == b"first"
        assert _fetched(remote, "new", tmp_path) == b"new"

    def test_fetch_replaces_its_target_and_leaves_nothing_beside_it(self, remote: Remote, tmp_path: Path) -> None:
        remote.put(_files(tmp_path / "from", {"x/a.bin": b"content"}))
        target = _folder(tmp_path / "to") / "other name é.bin"
        target.write_bytes(b"a much longer earlier content")
        remote.fetch("x/a.bin", target)
        assert target.read_bytes() == b"content"
        assert _names(target.parent) == [target.name]

    def test_a_missing_object_is_not_found(self, remote: Remote, tmp_path: Path) -> None:
        target = _folder(tmp_path / "to") / "a"
        target.write_bytes(b"kept")
        _refusal(lambda: remote.fetch("none", target), NotFound)
        remote.put(_files(tmp_path / "from", {"x/a": b"a"}))
        for name in ("none", "x", "x/a/b", "x/none", "y/a"):
            error = _refusal(lambda name=name: remote.fetch(name, target), NotFound)  # type: ignore[misc]
            assert name in str(error)
        assert target.read_bytes() == b"kept"
        assert _names(target.parent) == ["a"]

    def test_names_stay_inside(self, remote: Remote, tmp_path: Path) -> None:
        source = _files(tmp_path / "from", {"ok": b"ok"})["ok"]
        target = _folder(tmp_path / "to") / "a"
        for name in ("", "../a", "/a", "x/../../a", "x//a", ".", "a\\b", "C:/a", "a/", "a\0"):
            _refusal(lambda name=name: remote.put({"ok": source, name: source}), UsageError)  # type: ignore[misc]
            _refusal(lambda name=name: remote.fetch(name, target), UsageError)  # type: ignore[misc]
        assert _names(target.parent) == []
        assert {item.name for item in remote.items()} <= {"ok"}

    def test_a_fetch_goes_on_from_what_is_there(self, remote: Remote, tmp_path: Path) -> None:
        content = random.Random(1).randbytes(100_000)
        remote.put(_files(tmp_path / "from", {"x/a.bin": content}))
        target = _folder(tmp_path / "to") / "a.bin"
        part = target.parent / ".a.bin.part"
        for left_over in (content[:60_000], content, b"", b"?" * 100_001):
            target.unlink(missing_ok=True)
            part.write_bytes(left_over)
            remote.fetch("x/a.bin", target)
            assert target.read_bytes() == content, f"after a part of {len(left_over)} bytes"
            assert _names(target.parent) == ["a.bin"]

    def test_a_missing_source_harms_nothing(self, remote: Remote, second: Remote, tmp_path: Path) -> None:
        remote.put(_files(tmp_path, {"earlier": b"earlier"}))
        files = _files(tmp_path, {"z": b"z", "m": b"m", "a": b"a"})
        files["m"].unlink()
        error = _refusal(lambda: remote.put(files), FileNotFoundError)
        assert str(files["m"]) in str(error)
        assert {item.name for item in second.items()} in ({"earlier"}, {"earlier", "z"})
        files["m"].write_bytes(b"again")
        remote.put(files)
        assert [item.name for item in second.items()] == ["a", "earlier", "m", "z"]
        assert _fetched(second, "m", tmp_path) == b"again"
        assert _fetched(second, "earlier", tmp_path) == b"earlier"

    def test_what_is_named_last_is_visible_last(self, remote: Remote, second: Remote, tmp_path: Path) -> None:
        order = [f"{letter}/{letter}" for letter in "zmakb"]
        files = _files(tmp_path, {name: random.Random(name).randbytes(400_000) for name in order})
        with ThreadPoolExecutor(1) as pool:
            putting = pool.submit(remote.put, files)
            seen = [second.items()]
            while not putting.done():
                seen.append(second.items())
            assert putting.result() == Put(written=tuple(order))
        seen.append(second.items())
        for items in seen:
            names = {item.name for item in items}
            assert names == set(order[: len(names)])
            assert all(item.size == 400_000 for item in items)
        assert len(seen[-1]) == len(order)

    def test_two_machines_at_once_lose_nothing(self, remote: Remote, second: Remote, tmp_path: Path) -> None:
        machines = {"one": remote, "two": second}
        rounds = range(3)
        with ThreadPoolExecutor(2) as pool:
            done = {
                who: pool.submit(_put_rounds, machine, _batches(tmp_path, who, rounds))
                for who, machine in machines.items()
            }
            puts = {who: future.result() for who, future in done.items()}
        own = {f"{who}/{n}": f"{who} {n}".encode() for who in machines for n in rounds}
        shared = [f"shared/{n}" for n in rounds]
        for machine in machines.values():
            assert [item.name for item in machine.items()] == sorted([*own, *shared])
            assert {name: _fetched(machine, name, tmp_path) for name in own} == own
        for name in shared:
            content = _fetched(remote, name, tmp_path)
            assert content in (b"shared by one", b"shared by two")
            assert _fetched(second, name, tmp_path) == content
            if self.exclusive:
                assert {who for who in puts if name in puts[who].written} == {content.decode().split()[-1]}
        for who, put in puts.items():
            assert {name for name in own if name.startswith(who)} <= set(put.written)
            assert set(shared) <= {*put.written, *put.present}


def _contents() -> dict[str, bytes]:
    text = b'{"text": "line\\n"}\r\nline\n' * 50
    return {
        "empty.bin": b"",
        "random.bin": random.Random(0).randbytes(3_000_000),
        "cache/a b é.json": text,
        "cache/deep/er/names.csv": b"a,b\r\n1,2\r\n",
        _LONG: b"{}",
        "archive.zip": _zipped({"inside.txt": b"inside", "folder/more.txt": text}),
        "cache/one.zip": _zipped({"one.zip": b"an entry named like the archive"}),
        "text.txt.gz": gzip.compress(text, mtime=0),
        "not really.zip": b"no archive",
        "no suffix": text,
    }


def _zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _batches(folder: Path, who: str, rounds: Iterable[int]) -> list[dict[str, Path]]:
    contents = [{f"{who}/{n}": f"{who} {n}".encode(), f"shared/{n}": f"shared by {who}".encode()} for n in rounds]
    return [_files(folder / who / str(n), content) for n, content in enumerate(contents)]


def _put_rounds(remote: Remote, batches: list[dict[str, Path]]) -> Put:
    puts = [remote.put(batch) for batch in batches]
    return Put(
        written=tuple(name for put in puts for name in put.written),
        present=tuple(name for put in puts for name in put.present),
    )


def _files(folder: Path, contents: dict[str, bytes]) -> dict[str, Path]:
    files = {name: _source(folder, name) for name in contents}
    for name, path in files.items():
        _folder(path.parent)
        path.write_bytes(contents[name])
    return files


def _source(folder: Path, name: str) -> Path:
    return folder / f"source of {name.replace('/', '+')}"


def _fetched(remote: Remote, name: str, folder: Path) -> bytes:
    target = _folder(folder / "fetched") / "target"
    remote.fetch(name, target)
    content = target.read_bytes()
    target.unlink()
    return content


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _refusal(action: Callable[[], object], kind: type[Exception]) -> Exception:
    try:
        action()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}")
