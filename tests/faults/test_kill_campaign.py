"""Real kills, in the full run one at least at every place, with all that a campaign checks after each (A5, A6, A7, A10).

The full suite kills every other family of trainings too, at random moments: large and image replay buffers, HER, SUMO, PyTorch
without Stable-Baselines3, and a loop written by hand.
"""

import os
import sys
from pathlib import Path

import pytest

from unbroken.errors import UsageError
from unbroken.learners.replay_segments import MERGE
from unbroken.testing.campaign import KINDS, OFF_POLICY, PLACES, TIMER, run_campaign
from unbroken.testing.kill_at import Killer, Spot
from unbroken.testing.trainings import Training, settings

KILLS = 40
ANY = [place for place in PLACES if place not in OFF_POLICY]
FEW = ["restore", "checkpoint.write", "segment.replace", "timer"]
SHARES = {
    kind.name: [*ANY[k :: len(KINDS)], *(sorted(OFF_POLICY) if kind.off_policy else [])] for k, kind in enumerate(KINDS)
}
HERE = Path(__file__).parent
WORLDS = os.pathsep.join(filter(None, [str(HERE.parent / "resume" / "support"), os.environ.get("PYTHONPATH")]))
SAVED_EVERY = 40


def dqn(steps, *words, save_every=100, buffer_size=400):
    chosen = settings(learning_starts="100", buffer_size=str(buffer_size))
    return ("--algo", "dqn", "--steps", str(steps), "--save-every", str(save_every), *chosen, *words)


def world(name, made, *words, **others):
    """Trained with DQN in an environment of the exactness matrix."""
    given = (*words, "--set", "scenario=world", "--set", f"environment.kwargs={{world: {made}}}")
    # sumo-rl lists the lanes that leave a signal in the order of a set, which differs from process to process
    variables = {"PYTHONPATH": WORLDS, "LIBSUMO_AS_TRACI": "1", "PYTHONHASHSEED": "0"}
    return Training(name, "matrix_worlds:make", given, "world", off_policy=True, variables=variables, **others)


FAMILIES = [
    Training(
        "a million rows",
        words=dqn(6000, "--eval-every", "500", save_every=SAVED_EVERY, buffer_size=1_000_000),
        off_policy=True,
        span=2.0,
        passes=10,
    ),
    Training(
        "stacked Atari frames",
        "ALE/Pong-v5",
        (
            *dqn(800, *settings(policy_kwargs="{features_extractor_kwargs: {features_dim: 16}}"), save_every=50),
            "--set", "policy=CnnPolicy", "--set", "environment.frame_stack=4",
            "--set", "environment.kwargs={frameskip: 1}",
            "--set", "environment.wrappers=[stable_baselines3.common.atari_wrappers:AtariWrapper]",
        ),
        "ALE-Pong-v5",
        off_policy=True,
        span=2.5,
    ),
    world("SUMO", "SUMO", *dqn(1000, save_every=25), span=1.5),
    world(
        "HER",
        "goal",
        *dqn(4000, *settings(
            replay_buffer_class="stable_baselines3:HerReplayBuffer",
            replay_buffer_kwargs="{n_sampled_goal: 2, goal_selection_strategy: future}",
        )),
        "--set", "policy=MultiInputPolicy",
        span=1.0,
    ),
    Training("plain PyTorch", words=("--algo", "ppo-torch", "--steps", "8000", *settings(n_steps="64")), span=0.8),
    Training(
        "a loop by hand",
        str(HERE.parents[1] / "examples" / "cleanrl_style_ppo.py"),
        ("--total-timesteps", "20000", "--save-every", "500"),
        "run",
        script=True,
        span=0.8,
        # never seeded by the script and never sampled by it
        unseeded=("action_space[",),
        results=("agent.pt",),
    ),
]  # fmt: skip

ALSO_AT = {
    # segments are written at every save there, and collected only after a merge
    "a million rows": sorted(OFF_POLICY - {"collect.before"}),
    "plain PyTorch": [
        "checkpoint.write",
        "checkpoint.replace",
        "checkpoint.sync_folder",
        "best.write",
        "final.replace",
    ],
}
"""Where else than at random moments."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")


@pytest.mark.parametrize(
    ("kind", "places"),
    [
        pytest.param(KINDS[1], FEW, id="dqn, few"),
        *(pytest.param(kind, SHARES[kind.name], id=kind.name, marks=pytest.mark.full) for kind in KINDS),
    ],
)
def test_nothing_is_lost_wherever_the_process_is_killed(tmp_path, kind, places):
    """A5, A6, A7: after every kill all checkpoints verify, at the end the run equals its undisturbed twin."""
    report = run_campaign(len(places), tmp_path, 0, (kind,), places=places, say=print)
    assert report.violations == []
    assert [place for place in places if report.kills[place] < 1] == []


@pytest.mark.full
@pytest.mark.parametrize("kind", FAMILIES, ids=lambda kind: kind.name)
def test_nothing_is_lost_at_random_moments_of_any_family(tmp_path, kind):
    """A5, A6, A7, A10: as above, with the buffers, environments and loops that the ordinary campaign does not have."""
    places = (TIMER, *ALSO_AT.get(kind.name, ()))
    report = run_campaign(9 + len(places), tmp_path, 0, (kind,), places=places, say=print)
    assert report.violations == []
    assert report.kills.total() >= 10
    if kind.name == "a million rows":
        spans = [path.stem.rpartition("_")[2].split("-") for path in tmp_path.glob("run-0/killed/run/replay/*.zip")]
        assert any(int(end) - int(first) >= MERGE * SAVED_EVERY for first, end in spans), "no segments were merged"


def test_the_shares_are_the_whole():
    assert sorted(place for share in SHARES.values() for place in share) == sorted(PLACES)
    assert set(FEW) <= set(PLACES)
    assert len(PLACES) >= KILLS


def test_a_place_that_does_not_exist_is_refused():
    for text in ("checkpoint.wrlte", "env-step:0", "env-step:x"):
        with pytest.raises(UsageError, match="env-step"):
            Spot.read(text)


def test_a_killer_kills_at_the_nth_passing_only(monkeypatch):
    deaths = []
    monkeypatch.setattr("unbroken.testing.kill_at.kill_this_process", lambda: deaths.append(os.getpid()))
    killer = Killer([Spot.read("encode:2")])
    for place in ("encode", "capture", "capture"):
        killer.reach(place)
    assert deaths == []
    killer.reach("encode")
    killer.reach("encode")
    assert len(deaths) == 1
