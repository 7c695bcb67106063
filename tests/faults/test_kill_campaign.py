"""Real kills, in the full run one at least at every place, with all that a campaign checks after each (A5, A6, A7, A10)."""

import os
import sys

import pytest

from unbroken.errors import UsageError
from unbroken.testing.campaign import KINDS, OFF_POLICY, PLACES, run_campaign
from unbroken.testing.kill_at import Killer, Spot

KILLS = 40
ANY = [place for place in PLACES if place not in OFF_POLICY]
SHARES = {kind: [*ANY[k :: len(KINDS)], *(sorted(OFF_POLICY) if kind == "dqn" else [])] for k, kind in enumerate(KINDS)}
FEW = ["restore", "checkpoint.write", "segment.replace", "timer"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")


@pytest.mark.parametrize(
    ("kind", "places"),
    [
        pytest.param("dqn", FEW, id="dqn, few"),
        *(pytest.param(kind, SHARES[kind], id=kind, marks=pytest.mark.full) for kind in KINDS),
    ],
)
def test_nothing_is_lost_wherever_the_process_is_killed(tmp_path, kind, places):
    """A5, A6, A7: after every kill all checkpoints verify, at the end the run equals its undisturbed twin."""
    report = run_campaign(len(places), tmp_path, 0, (kind,), places=places, say=print)
    assert report.violations == []
    assert [place for place in places if report.kills[place] < 1] == []


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
