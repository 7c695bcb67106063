"""`--follow`: whatever a training saves is pushed meanwhile, and a remote that is away holds up nothing (D5, A10, A11)."""

import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from unbroken.errors import IncompatibleRun, NotFound, RemoteRefused, RemoteUnreachable
from unbroken.syncing.following import StopSwitch, follow, is_carried
from unbroken.syncing.syncing import Pair, RemoteAhead
from unbroken.testing.remotes import Faults, FaultyRemote


class Following:
    """`follow` in a thread of its own."""

    def __init__(self, machine, remote, every=0.05):
        self.stop = StopSwitch()
        self.code = self.error = None
        self._pair = Pair(machine.folder, remote, "run")
        self._every = every
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        try:
            self.code = follow(self._pair, self._every, self.stop)
        except Exception as error:
            self.error = error

    def ended(self):
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.code


@pytest.fixture
def following():
    started = []

    def start(*arguments, **words):
        started.append(Following(*arguments, **words))
        return started[-1]

    yield start
    for one in started:
        one.stop.set()
        one.ended()


@pytest.fixture
def faulty(place):
    return FaultyRemote(place)


def until(condition):
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_follows_to_the_target(machine, carry, place, following, lines):
    """D5: begun before the training is, it pushes what comes and ends when the target is reached and everything is there."""
    laptop, rented = machine("laptop"), machine("rented")
    followed = following(laptop, place)
    carry(laptop, "ppo", 512)
    assert followed.ended() == 0
    assert len(lines.holding("waiting for it")) >= 1
    assert "is complete" in lines.holding("[SYNC]")[-1]
    rented.sync()
    assert rented.verify() == laptop.verify()
    assert rented.files() == {name: content for name, content in laptop.files().items() if name in rented.files()}
    assert rented.sync().action == laptop.sync().action == "equal"


def test_a_remote_that_is_away_for_a_while(machine, carry, faulty, following, lines):
    """D5, A10: one warning, the training ends as always, and what was missed is pushed when the remote answers again."""
    laptop, rented = machine("laptop"), machine("rented")
    faulty.faults = Faults(unreachable=range(1, 1_000_000))
    followed = following(laptop, faulty)
    assert carry(laptop, "ppo", 256).exit_code == 0
    assert followed.code is None
    until(lambda: len(faulty.calls) >= 4)
    faulty.faults = Faults()
    assert followed.ended() == 0
    assert len(lines.warnings) == 1
    assert "no answer within 0 s, by plan; it is tried again, and training goes on" in lines.warnings[0]
    assert lines.holding("in step again")
    assert rented.sync().step == 256


def test_stopped_before_everything_was_there(machine, faulty, following):
    """D5: exit code 75 says that the same command has to go on, 0 that everything is there."""
    laptop = machine("laptop", "ppo", 128)
    faulty.faults = Faults(unreachable=range(1, 1_000_000))
    followed = following(laptop, faulty, every=30)
    followed.stop.set()
    assert followed.ended() == 75
    faulty.faults = Faults()
    followed = following(laptop, faulty, every=30)
    followed.stop.set()
    assert followed.ended() == 0


@pytest.mark.parametrize("error", [RemoteRefused("other credentials"), None])
def test_what_waiting_does_not_heal(error, machine, faulty, following, carry):
    """D5: refused credentials and another training there end it at once."""
    if error is None:
        other = machine("other")
        carry(other, "ppo", 64)
        other.sync()
    else:
        faulty.faults = Faults(errors={1: error})
    followed = following(machine("laptop", "ppo", 128), faulty)
    followed.ended()
    assert isinstance(followed.error, RemoteRefused if error else IncompatibleRun)


HOLDER = """
import sys
from pathlib import Path
from unbroken.store.lock import ExclusiveLock

with ExclusiveLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def carrier():
    """`carrier(machine)` is a process that holds the run's lock, as a training does."""
    started = []

    def hold(machine):
        words = [sys.executable, "-c", HOLDER, machine.folder.lock_path]
        process = subprocess.Popen(list(map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def test_another_machine_is_ahead(machine, faulty, following, carrier, lines):
    """D5, A9: it is said once for each state there that the remote is further than the training here, which goes on."""
    late, later = machine("late", "ppo", 256), machine("later", "ppo", 384)
    late.sync()
    laptop = machine("laptop", "ppo", 128)
    before = laptop.files()
    carrier(laptop)
    followed = following(laptop, faulty)
    until(lambda: len(faulty.calls) >= 9)
    assert len(lines.warnings) == 1
    assert "folder:place is at step 256 of run run" in lines.warnings[0]
    assert "what is trained here is not being saved there; --as NAME saves it under another name" in lines.warnings[0]
    later.sync()
    until(lambda: len(lines.warnings) == 2)
    assert "folder:place is at step 384 of run run" in lines.warnings[1]
    followed.stop.set()
    assert followed.ended() == 75
    assert laptop.files() == before


def test_what_is_behind_is_not_replaced_when_its_training_ends(machine, faulty, following, carrier, lines):
    """D5, A9: killed, a training leaves what it has saved; following it ends with a word, not with the other state."""
    machine("late", "ppo", 256).sync()
    laptop = machine("laptop", "ppo", 128)
    before = laptop.files()
    training = carrier(laptop)
    followed = following(laptop, faulty)
    until(lambda: len(faulty.calls) >= 9)
    assert followed.error is None
    training.kill()
    training.wait()
    followed.ended()
    assert isinstance(followed.error, RemoteAhead)
    assert followed.error.exit_code == 65
    assert laptop.files() == before
    assert lines.holding("is complete") == []


def test_a_training_that_stays_behind_ends_with_a_word(machine, trainer, command, place_files):
    """D5, A9: as above, with the command and a training that reaches its target."""
    machine("late", "dqn", 384).sync()
    there = place_files()
    laptop = machine("laptop", "dqn", 128)
    training = trainer(laptop, "dqn", 320)
    assert training.wait_for("Resuming from checkpoint"), training.last_lines()
    follower = command(laptop, "--follow", "--every", "0.1s", background=True)
    assert training.wait(60) == 0, training.last_lines()
    assert follower.wait(60) == 65, follower.last_lines()
    assert laptop.step == 320
    assert laptop.archived() == []
    assert place_files() == there


def test_a_run_that_is_not_here_comes_first(machine, place, following):
    """D5: a new machine that follows has nothing that could be lost."""
    machine("late", "ppo", 256).sync()
    rented = machine("rented")
    assert following(rented, place).ended() == 0
    assert rented.step == 256


def test_a_first_pull_that_broke_off_goes_on(machine, faulty, following):
    """D5, A10: what an interrupted pull has left is no run yet."""
    machine("late", "ppo", 256).sync()
    rented = machine("rented")
    faulty.faults = Faults(errors={6: RemoteUnreachable("nobody there")})
    assert following(rented, faulty).ended() == 0
    assert len(faulty.calls) > 9
    assert rented.step == 256


def test_a_run_that_is_removed_does_not_come_back(machine, place, following):
    """D5, A9: who removes a run that is followed does not want it back."""
    laptop = machine("laptop", "ppo", 256)
    laptop.folder.store(
        {**laptop.folder.stored(), "config": {**laptop.folder.stored()["config"], "total_timesteps": 512}}
    )
    followed = following(laptop, place)
    until(lambda: place.items("runs/run/records/"))
    time.sleep(0.1)
    shutil.rmtree(laptop.path)
    followed.ended()
    assert isinstance(followed.error, NotFound)
    assert "was removed here while it was followed" in str(followed.error)
    assert not laptop.path.exists()


def test_errors_that_change_are_said_again(machine, faulty, following, lines):
    """A10: one warning for one reason."""
    laptop = machine("laptop", "ppo", 128)
    errors = {number: RemoteUnreachable("silence" if number < 4 else "no route") for number in range(1, 6)}
    faulty.faults = Faults(errors=errors)
    assert following(laptop, faulty, every=0.01).ended() == 0
    assert [("silence" in line, "no route" in line) for line in lines.warnings] == [(True, False), (False, True)]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM")
def test_the_machine_goes_away(machine, trainer, command):
    """D5, A11: SIGTERM to both, as at a preemption: the last checkpoint of the training is pushed before the follower ends."""
    laptop, rented = machine("laptop"), machine("rented")
    follower = command(laptop, "--follow", "--every", "600s", background=True)
    training = trainer(laptop, "dqn", 1_000_000)
    assert follower.wait_for("waiting for it"), follower.last_lines()
    assert training.wait_for("checkpoint_256_steps.zip"), training.last_lines()
    assert is_carried(laptop.folder)
    follower.signal(signal.SIGTERM)
    training.signal(signal.SIGTERM)
    assert training.wait(60) == 75, training.last_lines()
    assert follower.wait(60) == 0, follower.last_lines()
    assert not is_carried(laptop.folder)
    assert "[SYNC] Stopped: everything of run run is at folder:" in follower.lines[-1]
    assert rented.sync().step == laptop.step
    assert rented.verify() == laptop.verify()
