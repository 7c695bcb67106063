"""Drive Stable-Baselines3 training between cuts: the callback that saves, and checkpoints as SB3 zips with the whole state.

A checkpoint is an ordinary SB3 zip; the members under `exact/` hold what SB3's own save leaves out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from unbroken import logs
from unbroken.capture.buffers import Pieces
from unbroken.capture.callbacks import AtStart, Callbacks, at_start
from unbroken.capture.normalization import normalization_json
from unbroken.capture.sb3 import Cut, ModelSnapshot, SnapshotMemory, capture_model, export_members, restore_model
from unbroken.journal.journal import Journal
from unbroken.keeper import Keeper, Snapshot, reason_of
from unbroken.learners import traced
from unbroken.learners.protocol import LeaveTraining as LeaveTraining
from unbroken.learners.replay_segments import ReplaySegments
from unbroken.learners.stored import Stored, is_small, write_state
from unbroken.startup import paused_collection
from unbroken.stopping import StopNow, StopRequest
from unbroken.store.checkpoint_file import CheckpointWriter
from unbroken.store.segments import FACT, Segment

NORMALIZATION = "exact/normalization.json"


def write_members(writer: CheckpointWriter, snapshot: ModelSnapshot) -> None:
    """Write a snapshot as the members of a checkpoint, without the rows that are kept apart."""
    for name, content in snapshot.sb3_members():
        writer.write_member(name, content, deflate=is_small(len(content)))
    write_state(writer, snapshot.state)


def write_export(writer: CheckpointWriter, model: BaseAlgorithm) -> None:
    """Write the members of a plain SB3 zip: for use, not for resuming. Of normalised observations the statistics, as JSON."""
    for name, content in export_members(model):
        writer.write_member(name, content)
    normalization = normalization_json(model.get_env())
    if normalization is not None:
        writer.write_member(NORMALIZATION, normalization)


class KeeperCallback(BaseCallback):
    """Calls the keeper at every cut of a training, restores a checkpoint's second half, and leaves when asked to.

    `facts` gives what belongs into a checkpoint's manifest beside the state, read at the cut.
    """

    def __init__(self, keeper: Keeper, stop: StopRequest, facts: Callable[[BaseAlgorithm], Mapping[str, Any]]) -> None:
        super().__init__()
        self.keeper = keeper
        self.stop = stop
        self.facts = facts
        self.pending: Stored | None = None
        self.stateless: tuple[BaseCallback, ...] = ()
        self.on_cut: Callable[[], None] = lambda: None
        self.on_capture: Callable[[ModelSnapshot], None] = lambda snapshot: None
        self._root: BaseCallback = self
        self._rollouts = 0
        self._not_restored: list[str] = []
        self._gaps: tuple[str, ...] = ()
        self._gaps_said = False
        self._at_start: AtStart | None = None
        self._replay = ReplaySegments(keeper.repository.segments)
        self._memory: SnapshotMemory | None = None
        self.journal: Journal | None = None

    def callbacks(self) -> Callbacks:
        """The callbacks whose state belongs to the training."""
        return Callbacks(self._root, (self, *self.stateless), self._at_start)

    def begin_from(
        self, model: BaseAlgorithm, stored: Stored, root: BaseCallback | None = None, gaps: Sequence[str] = ()
    ) -> None:
        """Restore before `learn()`; the rest follows at the first cut. What did not fit is said.

        `gaps` is what the checkpoint's manifest says it does not hold: later checkpoints keep saying it.
        """
        self._gaps = tuple(gaps)
        for gap in self._gaps:
            logs.warn_checkpoint(f"the checkpoint does not hold {gap}: that part starts anew")
        self._not_restored = []
        self._restore(model, stored, Callbacks(root, (self, *self.stateless)), stored.rows())
        self._replay.begin(model, stored.segments, (stored.state.get("replay_buffer") or {}).get("count"))
        self._gaps_said = True
        self.pending = stored if stored.cut == "rollout" else None
        self.keeper.begins_at(model.num_timesteps)

    def _restore(self, model: BaseAlgorithm, stored: Stored, callbacks: Callbacks, rows: Pieces) -> None:
        """Put the stored state into the model. A script's callbacks are known only in the second of two times."""
        for problem in restore_model(model, stored.state, stored.tensors, stored.variables, callbacks, rows):
            if problem not in self._not_restored:
                self._not_restored.append(problem)
                logs.warn_checkpoint(f"not restored: {problem}")

    def snapshot(self, cut: Cut) -> Snapshot:
        """Capture the training now, as something the keeper can save before the next one."""
        if self._memory is None or self._memory.model is not self.model:
            self._memory = SnapshotMemory(self.model, self._replay.counter)
        # a capture makes thousands of small objects and no garbage: a collection in it would only look at all of torch's
        with paused_collection():
            return self._snapshot(cut, self._memory)

    def lasting_snapshot(self, cut: Cut) -> Snapshot:
        """As `snapshot`, but good for as long as it is held, whatever is captured after it."""
        return self._snapshot(cut, SnapshotMemory(self.model, self._replay.counter), at_once=True)

    def _snapshot(self, cut: Cut, memory: SnapshotMemory, *, at_once: bool = False) -> Snapshot:
        captured = self.captured(cut, memory)
        if at_once and captured.rows is not None:
            _ = captured.rows.arrays
        self.on_capture(captured)
        facts = {**self.facts(self.model), "missing": list(dict.fromkeys([*self._gaps, *captured.missing]))}
        committed = self._journaled(captured.step, facts)
        if captured.rows is None:
            return Snapshot(captured.step, cut, lambda writer: write_members(writer, captured), facts, committed)
        segments: list[Segment] = []
        rows = captured.rows

        def fill(writer: CheckpointWriter) -> dict[str, Any]:
            # on disk before the checkpoint that names them
            segments[:] = self._replay.write(rows)
            write_members(writer, captured)
            return {FACT: [segment.plain() for segment in segments]}

        def both() -> None:
            self._replay.commit(rows, segments)
            committed()

        return Snapshot(captured.step, cut, fill, facts, both)

    def _journaled(self, step: int, facts: dict[str, Any]) -> Callable[[], None]:
        """Note in the facts what the journal goes on from; returns what it is to be told when that is committed."""
        journal = self.journal
        if journal is None:
            return lambda: None
        capture_id = facts["journal"] = journal.captured(step)
        return lambda: journal.committed(capture_id)

    def captured(self, cut: Cut, memory: SnapshotMemory | None = None) -> ModelSnapshot:
        """The state of the training now; with a memory, good until the next one with it."""
        iteration = self._iteration_offset() + max(self._rollouts - 1, 0) if cut == "rollout" else 0
        captured = capture_model(self.model, cut, self.callbacks(), iteration, memory)
        continuation = getattr(self.model, "_unbroken", None)
        captured.state["calls"] = continuation.plain() if continuation else None
        return captured

    def save_end(self) -> bool:
        """Save at the return of `learn()` and wait for it; returns whether it was committed."""
        traced.at_cut(self, "end")
        return self.keeper.save(lambda: self.snapshot("end"), wait=True)

    def _iteration_offset(self) -> int:
        continuation = getattr(self.model, "_unbroken", None)
        return continuation.iteration if continuation else 0

    def _on_training_start(self) -> None:
        # learn() passes its own locals: the root callback is among them
        self._root = self.locals.get("callback") or self
        self._replay.counter.began(self.model.num_timesteps)
        self._rollouts = 0
        with contextlib.suppress(Exception):
            # whatever the user's code raises here, a capture will raise and say
            self._at_start = at_start(self.model, Callbacks(self._root, (self, *self.stateless)))
        traced.began(self)

    def _on_rollout_start(self) -> None:
        self._rollouts += 1
        if self.pending is not None:
            stored, self.pending = self.pending, None
            # a script may have added to the buffer after the first time; else its rows are right and need not be read again
            rows = stored.rows() if self._replay.counter.is_behind(self.model) else ()
            self._restore(self.model, stored, self.callbacks(), rows)
            traced.at_cut(self, "rollout")
            # the checkpoint restored is of this very cut
            self._keep(lambda: False)
            return
        self._say_gaps()
        self.on_cut()
        traced.at_cut(self, "rollout")
        self._keep(
            lambda: self.keeper.at_cut(self.model.num_timesteps, lambda: self.snapshot("rollout"), self.stop),
        )

    def _keep(self, at_cut: Callable[[], bool]) -> None:
        """Do what is due at a cut, unless the training only comes by it again on its way through a journal."""
        journal = self.journal
        if (journal is None or not journal.at_cut(self.model.num_timesteps)) and at_cut():
            raise LeaveTraining
        if journal is not None:
            journal.after_cut()

    def _say_gaps(self) -> None:
        """At the start of a training, and not hours later with its first checkpoint: what none of them will hold.

        A training that goes on from a checkpoint has heard it, and its replay buffer may be large.
        """
        if self._gaps_said:
            return
        self._gaps_said = True
        try:
            if self.journal is None:
                self.on_capture(capture_model(self.model, "rollout", self.callbacks()))
            else:
                base = self.lasting_snapshot("rollout")
                self.journal.commit_later(lambda: self.keeper.save(lambda: base, wait=True))
        except Exception as error:  # noqa: BLE001 - capturing runs the user's code, and no save may end a training
            logs.warn_checkpoint(f"as it stands now, no checkpoint can be captured: {reason_of(error)}")

    def _on_step(self) -> bool:
        if self.stop.grace_is_over:
            raise StopNow("the grace time is over")
        self._replay.counter.about_to_add(self.model)
        traced.stepped(self)
        return True
