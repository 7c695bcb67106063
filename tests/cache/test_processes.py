"""Several processes on one cache: computed once, nobody waits for the dead, nothing half is ever seen (D2, D5; A7 for results)."""

import contextlib
import random
import signal
import threading
import time

import pytest

from unbroken.cache import Inputs, ResultCache
from unbroken.cache.alone import LOCKS, alone
from unbroken.cache.entry import read_entry, write_entry
from unbroken.cache.upkeep import held_entries, pin
from unbroken.errors import NotFound, StoppedEarly
from unbroken.store.durable import is_leftover
from unbroken.store.memory import MemoryBackend
from unbroken.testing.backends import RecordingBackend
from unbroken.testing.power_loss import crash_states
from unbroken.testing.walks import Walk, same_rows, uninterrupted

ASK = """
walk = Walk(seconds=float(sys.argv[4]), diary=Path(sys.argv[2]))
print("ready", flush=True)
answer = walk.ask(cache, int(sys.argv[3]))
assert same_rows(answer.result, uninterrupted(int(sys.argv[3])))
print(answer.how)
"""


@pytest.fixture
def diary(tmp_path):
    return tmp_path / "diary"


def calls(diary):
    return [int(line) for line in diary.read_text(encoding="utf-8").split()] if diary.exists() else []


def waited_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def test_several_processes_compute_once(start, diary):
    """D4: four at once on one key: one computes, all have it."""
    running = [start(ASK, diary, 40, 1.0) for _ in range(4)]
    ended = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * 4, ended
    assert sorted(out.split()[1] for out, _ in ended) == ["computed", "hit", "hit", "hit"]
    assert calls(diary) == [40]


def test_processes_that_want_more_extend_what_the_first_computes(start, diary):
    """D2: different lengths of one key at once: no step is computed twice."""
    running = [start(ASK, diary, steps, 0.3) for steps in (20, 50, 80)]
    ended = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * 3, ended
    assert sum(calls(diary)) == 80


def test_another_takes_over_from_one_that_is_killed(start, cache, diary, lines):
    """A5's rule for results: SIGKILL in the middle of the computation; who waited computes, and says whom it waited for."""
    first = start(ASK, diary, 40, 600.0)
    waited_for(lambda: calls(diary) == [40])
    second = start(ASK, diary, 40, 0.0)
    assert second.stdout.readline() == "ready\n"
    time.sleep(0.3)
    assert calls(diary) == [40], "it did not wait"
    first.send_signal(signal.SIGKILL)
    out, err = second.communicate(timeout=60)
    assert (out, second.returncode) == ("computed\n", 0), err
    assert calls(diary) == [40, 40]
    assert Walk().ask(cache, 40).how == "hit"


def test_who_waits_says_for_whom(start, cache, diary, lines):
    """Nothing silent: a process that seems to hang names the one that computes."""
    other = start(ASK, diary, 40, 1.5)
    waited_for(lambda: calls(diary) == [40])
    assert Walk().ask(cache, 40).how == "hit"
    (line,) = [line for line in lines.all() if "Waiting" in line]
    assert f"Waiting for process {other.pid} on " in line
    assert line.endswith(f", which computes config {Walk().inputs().short}")


def test_threads_compute_once(cache):
    """D4: the same within one process."""
    from concurrent.futures import ThreadPoolExecutor

    walk = Walk(seconds=0.2)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: walk.ask(cache, 30), range(4)))
    assert walk.computed == [30]
    assert all(same_rows(answer.result, uninterrupted(30)) for answer in answers)


def test_locks_leave_nothing_behind(cache):
    """A cache of thousands of results has no thousands of lock files."""
    for seed in range(5):
        Walk(seed).ask(cache, 3)
    assert list((cache.folder / LOCKS).iterdir()) == []


HOLD = """
from unbroken.cache.alone import alone
from unbroken.store import lock
import time
locking = lock._lock
# between opening the file and locking it, another process removes it
lock._lock = lambda descriptor: (time.sleep(0.003), locking(descriptor))
for _ in range(40):
    with alone(cache.folder, "f" * 32, lambda owner: None) as problem:
        assert problem is None
        place = Path(sys.argv[2])
        with place.open("x"):
            pass
        place.unlink()
"""


def test_a_lock_whose_file_goes_away_still_excludes(start, tmp_path):
    """Three processes that take, remove and make the lock file again: never two inside."""
    running = [start(HOLD, tmp_path / "inside") for _ in range(3)]
    for process in running:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err


SAVE = """
from unbroken.store.durable import LocalBackend
from unbroken.testing.backends import KillingBackend
cache.backend = KillingBackend(LocalBackend(cache.folder), sys.argv[2], int(sys.argv[3]))
Walk(width=3000).ask(cache, 60)
"""


@pytest.mark.parametrize(
    ("operation", "nth"), [("create", 1), ("write", 1), ("write", 2), ("sync", 1), ("replace", 1), ("sync_folder", 1)]
)
def test_a_kill_at_any_write_leaves_a_complete_entry_or_none(start, cache, operation, nth):
    """Promise 2: before, half-way through and after the writes; the next one computes it and removes what was left."""
    walk = Walk(width=3000)
    process = start(SAVE, operation, nth)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, err
    answer = walk.ask(cache, 60)
    assert answer.how == ("hit" if operation == "sync_folder" else "computed")
    assert same_rows(answer.result, uninterrupted(60, width=3000))
    assert not [path.name for path in cache.folder.iterdir() if is_leftover(path.name)]


SAVE_ON = """
import itertools
for seed in itertools.count():
    Walk(seed, width=2000).ask(cache, 100)
    print(seed, flush=True)
"""


def test_kills_at_random_moments_of_saving(start, cache):
    """Promise 2: SIGKILL while one entry after the other is saved: what has a name is whole, and what was said to be there is."""
    rng = random.Random(5)
    for _ in range(4):
        process = start(SAVE_ON)
        saved = -1
        for _ in range(3):
            saved = int(process.stdout.readline())
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=60)
        saved = int(rest.split()[-1]) if rest.split() else saved
        assert saved >= 2
        for seed in range(saved + 1):
            found = cache.find(Walk(seed, width=2000).inputs(), 100)
            assert same_rows(found, uninterrupted(100, seed, width=2000)), seed
        for entry in held_entries(cache.folder):
            read_entry(cache.backend, entry.file)


def test_power_loss_leaves_a_complete_entry_or_none():
    """Promise 2: any state of the disk that POSIX allows after the power went; what was acknowledged is there."""
    recording = RecordingBackend(MemoryBackend())
    inputs, result = Walk().inputs(), Walk().compute(5)
    name = write_entry(recording, inputs, result)
    recording.acknowledge(name)
    states = list(crash_states(recording.operations))
    assert len(states) > 10
    for state in states:
        found = None
        with contextlib.suppress(NotFound):
            found = read_entry(state.backend, name)[1]
        if found is None:
            assert name not in state.acknowledged, state.place
        else:
            assert same_rows(found, result)


PRUNE = """
from unbroken.cache.upkeep import prune
while not Path(sys.argv[2]).exists():
    pass
prune(cache.folder, int(sys.argv[3]))
"""


def test_two_processes_prune_at_once(start, cache, tmp_path):
    """D4: both get there, nobody removes more than the limit asks for, and the pinned one stays."""
    for seed in range(30):
        Walk(seed).ask(cache, 3)
    held = held_entries(cache.folder)
    pin(cache.folder, held[0].file)
    limit = sum(entry.size for entry in held[20:])
    go = tmp_path / "go"
    running = [start(PRUNE, go, limit) for _ in range(3)]
    go.touch()
    for process in running:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert {entry.file for entry in held_entries(cache.folder)} == {held[0].file, *(e.file for e in held[21:])}


def test_saving_while_others_prune_and_ask(start, folder, diary):
    """D4: processes with a limit of a few entries, all over one folder: every answer is right, whatever was evicted meanwhile."""
    script = """
import random
cache.limit_bytes = 40_000
rng = random.Random(int(sys.argv[2]))
for _ in range(40):
    seed, steps = rng.randrange(6), rng.randrange(1, 50)
    assert same_rows(Walk(seed).ask(cache, steps).result, uninterrupted(steps, seed))
"""
    running = [start(script, number) for number in range(3)]
    for process in running:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert sum(entry.size for entry in held_entries(folder)) < 60_000
    assert not (folder / "quarantine").exists()


def test_who_waits_can_leave(tmp_path):
    """C4: a signal reaches a comparison that waits for another one's training."""
    left, inputs = threading.Event(), Inputs("waiting", "baseline", {"a": 1})
    timer = threading.Timer(0.3, left.set)
    timer.start()
    with alone(tmp_path, inputs.fingerprint, lambda owner: None), pytest.raises(StoppedEarly):
        ResultCache(tmp_path, left=left).get_or_compute(inputs, lambda: None)
    timer.join()
