"""Rows of replay buffers are written once and come back as they were, whatever was added, failed, merged or forgotten (A6, A10)."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

import unbroken
from unbroken.capture.buffers import capture_replay_buffer, restore_replay_buffer
from unbroken.capture.codec import decode, encode
from unbroken.capture.frames import join, split
from unbroken.capture.replay_rows import row_arrays
from unbroken.errors import DamagedFile
from unbroken.learners import replay_segments
from unbroken.learners.replay_segments import ReplaySegments, stored_rows
from unbroken.learners.sb3 import FACT
from unbroken.store.memory import MemoryBackend
from unbroken.store.repository import CheckpointRepository

BOX = gymnasium.spaces.Box(-1, 1, (3,))
IMAGE = gymnasium.spaces.Box(0, 255, (2, 16, 16), np.uint8)
ACTIONS = gymnasium.spaces.Discrete(4)


def vector(**words):
    return ReplayBuffer(23, BOX, ACTIONS, "cpu", **words)


def copies(**words):
    return ReplayBuffer(23 * 3, BOX, ACTIONS, "cpu", n_envs=3, **words)


def economical():
    return vector(optimize_memory_usage=True, handle_timeout_termination=False)


def images():
    return ReplayBuffer(11, IMAGE, ACTIONS, "cpu")


def dictionary():
    return DictReplayBuffer(17, gymnasium.spaces.Dict({"a": BOX, "picture": IMAGE}), ACTIONS, "cpu")


BUFFERS = [vector, copies, economical, images, dictionary]


class Training:
    """What of a model the capture of its buffer looks at, and saves of it in a repository."""

    def __init__(self, make, repository):
        self.make = make
        self.repository = repository
        self.numbers = np.random.default_rng(0)
        self.segments = ReplaySegments(repository.segments)
        self.model = SimpleNamespace(replay_buffer=make(), num_timesteps=0)
        self.model.n_envs = self.model.replay_buffer.n_envs
        self.saved = self.captured = None

    def add(self, count):
        for _ in range(count):
            first, second = (self._observation() for _ in range(2))
            n = self.model.n_envs
            values = self.numbers.integers(0, 4, (n, 1)), self.numbers.normal(size=n), self.numbers.random(n) < 0.1
            # as SB3 does: the step is counted, callbacks are called, the row is stored
            self.model.num_timesteps += n
            self.segments.counter.about_to_add(self.model)
            self.model.replay_buffer.add(first, second, *values, [{} for _ in range(n)])

    def save(self, *, fails=False, meanwhile=0):
        """With `meanwhile`, training adds so many rows between the capture and the writing."""
        missing = []
        state, rows = capture_replay_buffer(self.model, missing, self.segments.counter)
        assert missing == []
        self.captured = contents(self.model.replay_buffer)
        step = self.model.num_timesteps
        self.add(meanwhile)
        named = []

        def fill(writer):
            if rows is not None:
                named[:] = self.segments.write(rows)
            if fails:
                raise OSError("no space")
            return {FACT: [segment.plain() for segment in named]}

        try:
            record = self.repository.save(step, fill)
        except OSError:
            return
        if rows is not None:
            self.segments.commit(rows, named)
        encoded = encode(state)
        self.saved = (decode(encoded.document, b"".join(bytes(p) for p in encoded.block())), record, named)
        for old in self.repository.records()[:-2]:
            self.repository.remove(old)
        self.repository.collect_segments()

    def resumed(self):
        """A new training, from what was saved last."""
        state, record, named = self.saved
        other = Training(self.make, self.repository)
        problems = []
        pieces = stored_rows(self.repository.backend, record.path)
        restore_replay_buffer(other.model, state, pieces, problems)
        assert problems == []
        other.model.num_timesteps = self.model.num_timesteps
        other.segments.begin(other.model, named, state.get("count"))
        other.numbers = self.numbers
        return other

    def _observation(self):
        def sample(space):
            if space.dtype == np.uint8:
                return self.numbers.integers(0, 2, (self.model.n_envs, *space.shape)).astype(np.uint8) * 255
            return self.numbers.normal(size=(self.model.n_envs, *space.shape)).astype(space.dtype)

        space = self.model.replay_buffer.observation_space
        return (
            {key: sample(part) for key, part in space.items()}
            if isinstance(space, gymnasium.spaces.Dict)
            else sample(space)
        )


def contents(buffer):
    """All that training can read of a buffer: with an unused row, its observation alone."""
    used = buffer.buffer_size if buffer.full else buffer.pos
    found = {"pos": buffer.pos, "full": buffer.full}
    for name, value in vars(buffer).items():
        for key, array in value.items() if isinstance(value, dict) else [("", value)]:
            if isinstance(array, np.ndarray) and not array.dtype.hasobject:
                found[f"{name}{key}"] = array[:used].tobytes()
    if buffer.optimize_memory_usage and not buffer.full:
        found["ahead"] = buffer.observations[buffer.pos].tobytes()
    return found


def repository():
    return CheckpointRepository(MemoryBackend(), "x_checkpoint")


operation = st.one_of(
    st.integers(0, 60).map(lambda count: ("add", count)),
    st.integers(1, 60).map(lambda count: ("slow", count)),
    st.sampled_from([("save", 0), ("save", 0), ("fail", 0), ("resume", 0), ("forget", 0)]),
)


@pytest.mark.parametrize("make", BUFFERS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(operations=st.lists(operation, max_size=25))
def test_every_save_brings_back_the_buffer(make, operations):
    training = Training(make, repository())
    merge, replay_segments.MERGE = replay_segments.MERGE, 3
    try:
        for name, count in [*operations, ("save", 0)]:
            if name == "add":
                training.add(count)
            elif name == "forget":
                training.segments.counter.forget()
            elif name == "resume" and training.saved is not None:
                training.save()
                training = training.resumed()
            elif name in ("save", "fail"):
                training.save(fails=name == "fail")
            elif name == "slow":
                # A10: what is added while the writer is slow does not get into what was captured before
                training.save(meanwhile=count)
                assert contents(training.resumed().model.replay_buffer) == training.captured
            if name == "save":
                assert contents(training.resumed().model.replay_buffer) == contents(training.model.replay_buffer)
    finally:
        replay_segments.MERGE = merge


def test_a_row_is_written_once():
    """A10: 20 saves of 10 new rows each in a large buffer write 200 rows."""
    training = Training(lambda: ReplayBuffer(10_000, BOX, ACTIONS, "cpu"), repository())
    for _ in range(20):
        training.add(10)
        training.save()
    spans = [(segment.first, segment.end) for segment in training.saved[2]]
    assert spans == [(10 * k, 10 * k + 10) for k in range(20)]


def test_many_segments_become_few_and_are_rewritten_seldom():
    training = Training(lambda: ReplayBuffer(100_000, BOX, ACTIONS, "cpu"), repository())
    most, written = 0, 0
    for _ in range(150):
        before = {segment.file for segment in training.saved[2]} if training.saved else set()
        training.add(3)
        training.save()
        most = max(most, len(training.saved[2]))
        written += sum(s.end - s.first for s in training.saved[2] if s.file not in before)
    assert most <= 2 * replay_segments.MERGE
    assert written <= 2.2 * 450


def test_a_failed_save_is_not_remembered_as_done():
    training = Training(vector, repository())
    training.add(5)
    training.save()
    training.add(5)
    training.save(fails=True)
    training.add(5)
    training.save()
    assert [(segment.first, segment.end) for segment in training.saved[2]] == [(0, 5), (5, 15)]


@pytest.mark.parametrize("how", ["by hand", "another buffer", "counted anew"])
def test_rows_that_no_step_accounts_for_are_all_written_again(how):
    """Prefilled by hand, loaded from a file, or a `learn()` that begins to count anew: nothing is taken for granted."""
    training = Training(vector, repository())
    training.add(12)
    training.save()
    if how == "by hand":
        training.add(4)
        training.model.num_timesteps -= 4
    elif how == "another buffer":
        other = Training(vector, training.repository)
        other.numbers = np.random.default_rng(5)
        other.add(12)
        training.model.replay_buffer = other.model.replay_buffer
    else:
        training.model.num_timesteps = 0
        training.segments.counter.began(0)
        training.model.replay_buffer.dones[11] = True
        training.add(0)
    training.save()
    assert contents(training.resumed().model.replay_buffer) == contents(training.model.replay_buffer)
    assert len(training.saved[2]) == 1


class Relabelling(ReplayBuffer):
    """A user's class may change any row at any time."""


def test_a_class_of_the_users_is_written_whole():
    training = Training(lambda: Relabelling(23, BOX, ACTIONS, "cpu"), repository())
    training.add(12)
    training.save()
    training.model.replay_buffer.rewards[3] = 7
    training.save()
    assert training.saved[2] == []
    assert contents(training.resumed().model.replay_buffer) == contents(training.model.replay_buffer)


class Remembering(ReplayBuffer):
    """Has an attribute of the name that HER uses for something else."""

    def __init__(self, *arguments, **words):
        super().__init__(*arguments, **words)
        self.infos = []


def test_an_attribute_of_a_users_buffer_is_state_whatever_its_name():
    training = Training(lambda: Remembering(23, BOX, ACTIONS, "cpu"), repository())
    training.add(3)
    training.model.replay_buffer.infos.append(7)
    training.save()
    assert training.resumed().model.replay_buffer.infos == [7]


def test_a_damaged_segment_is_not_taken_for_another_shape():
    training = Training(vector, repository())
    training.add(3)
    training.save()
    training.repository.backend.remove(f"replay/{training.saved[2][0].file}")
    with pytest.raises(DamagedFile, match="which is not there"):
        training.resumed()


def test_a_gap_between_segments_never_passes_for_a_buffer():
    training = Training(vector, repository())
    training.add(5)
    training.save()
    training.segments._named.clear()
    training.add(5)
    with pytest.raises(TypeError, match="hold the rows of the replay buffer to"):
        training.save()
    training.save()
    assert contents(training.resumed().model.replay_buffer) == contents(training.model.replay_buffer)


def test_a_frame_is_stored_once():
    """Issue 3: stacked frames and next observations repeat planes."""
    planes = np.random.default_rng(0).integers(0, 256, (104, 84, 84), dtype=np.uint8)
    stacked = np.stack([planes[k : k + 4] for k in range(101)])[:, None]
    arrays = {"observations": stacked[:100], "next_observations": stacked[1:], "rewards": np.zeros((100, 1))}
    described, tables = split(arrays)
    assert tables["84x84"].shape == (104, 84, 84)
    back = join(described, tables)
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize(
    ("spans", "expected", "without_next"),
    [
        ([(5, 15)], [*range(5, 15)], []),
        ([(5, 9), (10, 15)], [*range(5, 9), *range(10, 15)], [8]),
        ([(3, 7)], [*range(3, 7)], [6]),
        ([(2, 8), (6, 15)], [*range(2, 15)], []),
        ([], [], []),
    ],
    ids=["the newest", "a gap", "the middle", "overlapping", "none"],
)
@pytest.mark.parametrize("make", [vector, copies, dictionary, economical])
def test_the_rows_that_are_there_are_put_as_if_there_were_no_others(make, spans, expected, without_next):
    """Architecture, "Lone zip": what is sampled of 15 rows; an economical buffer has no next observation before a gap."""
    training = Training(make, CheckpointRepository(MemoryBackend(), "x"))
    training.add(15)
    state, rows = capture_replay_buffer(training.model, [], training.segments.counter)
    arrays = rows.arrays
    expected = [row for row in expected if make is not economical or row not in without_next]
    pieces = [(first, {name: array[first:end] for name, array in arrays.items()}) for first, end in spans]
    other, problems = make(), []
    restore_replay_buffer(
        SimpleNamespace(replay_buffer=other), {**state, "count": None, "partial": 15}, pieces, problems
    )
    assert problems == []
    assert (other.pos, other.full) == (len(expected), False)
    for name, array in row_arrays(training.model.replay_buffer).items():
        assert (row_arrays(other)[name][: other.pos] == array[expected]).all(), name
    if make is economical and spans and spans[-1][1] == 15:
        assert (other.observations[other.pos] == training.model.replay_buffer.observations[15]).all()


def test_rows_copied_while_the_training_samples_over_steps_are_those_of_the_cut(monkeypatch):
    """SB3 marks the newest row as truncated while it samples, and takes the mark away again: the writer may copy in between."""
    training = Training(
        lambda: NStepReplayBuffer(50, BOX, ACTIONS, "cpu", n_steps=3), CheckpointRepository(MemoryBackend(), "c")
    )
    training.add(20)
    buffer = training.model.replay_buffer
    buffer.dones[19] = 0.0
    expected = {name: array[:20].copy() for name, array in row_arrays(buffer).items()}
    _, rows = capture_replay_buffer(training.model, [], training.segments.counter)
    found, normalized = {}, buffer._normalize_reward

    def in_the_middle(rewards, env=None):
        assert buffer.timeouts[19, 0] == 1.0
        found.update(rows.arrays)
        return normalized(rewards, env)

    monkeypatch.setattr(buffer, "_normalize_reward", in_the_middle)
    buffer.sample(4)
    assert buffer.timeouts[19, 0] == 0.0
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_returns_over_steps_do_not_reach_over_rows_that_are_missing():
    """Architecture, "Lone zip": with `--allow-partial` the rows on both sides of a gap become neighbours."""
    make = lambda: NStepReplayBuffer(50, BOX, ACTIONS, "cpu", n_steps=3, gamma=1.0)  # noqa: E731
    training = Training(make, CheckpointRepository(MemoryBackend(), "c"))
    training.add(30)
    buffer = training.model.replay_buffer
    buffer.dones[:], buffer.rewards[:, 0] = 0.0, np.arange(50)
    described, rows = capture_replay_buffer(training.model, [], training.segments.counter)
    pieces = [
        (first, {name: array[first:end] for name, array in rows.arrays.items()}) for first, end in ((0, 10), (20, 25))
    ]
    other = Training(make, training.repository)
    restore_replay_buffer(other.model, {**described, "partial": described["count"]}, pieces, [])
    buffer = other.model.replay_buffer
    other.add(5)
    assert buffer._get_samples(np.array([7, 8, 9]))[4].flatten().tolist() == [7 + 8 + 9, 8 + 9, 9]
    assert buffer._get_samples(np.array([12, 13, 14]))[4].flatten().tolist() == [22 + 23 + 24, 23 + 24, 24]


def test_rows_that_no_checkpoint_can_hold_are_named(tmp_path, monkeypatch, capsys):
    """A4, A10: structured arrays of a user's buffer are said to be missing; checkpoints with them could not be read."""
    (tmp_path / "noted_buffers.py").write_text(
        "import numpy as np\nfrom stable_baselines3.common.buffers import ReplayBuffer\n"
        "class Noted(ReplayBuffer):\n    def __init__(self, *arguments, **options):\n"
        "        super().__init__(*arguments, **options)\n"
        "        self.notes = np.zeros(self.buffer_size, [('a', 'i4'), ('b', 'f8')])\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = {"learning_starts": 30, "buffer_size": 100, "replay_buffer_class": "noted_buffers:Noted"}
    for steps in (64, 128):
        outcome = unbroken.train(
            "CartPole-v1",
            algo="dqn",
            steps=steps,
            runs_dir=tmp_path / "runs",
            run="noted",
            device="cpu",
            settings={"self_test": False, "hyperparameters": settings},
        )
        assert (outcome.step, outcome.exit_code) == (steps, 0)
    assert "not captured: replay_buffer.notes" in capsys.readouterr().out
