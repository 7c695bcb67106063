"""Sections: the package's own, and the page about their keys."""

import re
from pathlib import Path

import pytest

from unbroken.errors import UsageError
from unbroken.validation.comparing import ScenarioPlan, kind_of, rule_of
from unbroken.validation.sections import ScenarioPart, Section, chosen_section, load_sections
from unbroken.validation.verdict import describe, digest

PAGE = Path(__file__).parents[2] / "docs" / "formats" / "sections.md"


def test_the_section_of_the_requirements_is_there(tmp_path):
    """C3, C4: three scenarios, targets of 15, 12 and 10 %, 600 and 3,600 s, five trainings, twenty seeds, all playable."""
    section = load_sections()["7.6"]
    parts = section.scenarios
    assert {name: part.target_percent for name, part in parts.items()} == {
        "traffic_light_control": 15,
        "ramp_metering": 12,
        "adaptive_speed_control": 10,
    }
    for name, part in parts.items():
        assert (part.horizon.quick, part.horizon.full) == (600, 3600)
        for mode, trainings, seeds in (("quick", 1, 4), ("full", 5, 20)):
            plan = ScenarioPlan.of(section, name, mode, None)
            assert (len(plan.specs()), len(plan.seeds)) == (trainings, seeds)
            kind_of(plan).check()
        assert {spec.config.total_timesteps for spec in ScenarioPlan.of(section, name, "quick", None).specs()} == {
            5_000
        }
        assert (
            min(spec.config.total_timesteps for spec in ScenarioPlan.of(section, name, "full", None).specs()) > 300_000
        )


def test_every_key_is_on_the_page_and_its_example_can_be_run(tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    for key in (*Section.model_fields, *ScenarioPart.model_fields):
        assert f"`{key}`" in text, key
    path = tmp_path / "sections.yaml"
    path.write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1], encoding="utf-8")
    section = chosen_section(load_sections(path), "mine", [])
    kind_of(ScenarioPlan.of(section, "poles", "full", None)).check()


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("baseline: webster", "baseline: webstr", "did you mean 'webster'?"),
        ("metric: total_delay", "metric: total", "is none of"),
        ("full: 3600", "full: 3601", "multiple of 60 s"),
        ("full: 3600", "full: 7200", "at most 3600 s"),
        ("target_percent: 15", "target_percent: 15\n      drain: 20", "multiple of 15 s"),
        ("target_percent: 15", "target_percent: 15\n      better: lower", "leave them out"),
        ('"7.6":', '"a/b":', "not a plain folder name"),
    ],
)
def test_what_our_simulator_cannot_play_is_said(tmp_path, before, after, expected):
    own = (Path(PAGE).parents[2] / "src/unbroken/validation/sections.yaml").read_text(encoding="utf-8")
    path = tmp_path / "sections.yaml"
    path.write_text(own.replace(before, after), encoding="utf-8")
    with pytest.raises(UsageError, match=re.escape(expected)):
        check_all(load_sections(path)["7.6"])


def check_all(section):
    for name in section.scenarios:
        kind_of(ScenarioPlan.of(section, name, "full", None)).check()


def test_the_rule_says_all_that_it_judges(tmp_path):
    """C4: what decides the verdict stands in the rule and its digest before anything runs; changed later it is another rule."""
    own = (Path(load_sections.__code__.co_filename).parent / "sections.yaml").read_text(encoding="utf-8")

    def rule(before="", after="", seeds=None, mode="full"):
        assert before in own
        path = tmp_path / "sections.yaml"
        path.write_text(own.replace(before, after) if before else own, encoding="utf-8")
        plan = ScenarioPlan.of(load_sections(path)["7.6"], "traffic_light_control", mode, seeds)
        return rule_of(plan, kind_of(plan))

    assert describe(rule()).startswith(
        "Judged is total delay in veh h (less is better) in traffic_light_control, over 3,600 s with demand and 900 s after it, "
        "on 20 seeds (2000 to 2019), by the best model of 5 trainings (ppo, "
    )
    changes = [
        rule("metric: total_delay", "metric: stops"),
        rule("full: 3600", "full: 1800"),
        rule("target_percent: 15", "target_percent: 15\n      drain: 600"),
        rule("target_percent: 15", "target_percent: 15\n      model: final"),
        rule("target_percent: 15", "target_percent: 15\n      agent: {total_timesteps: 1000}"),
        rule("first: 2000", "first: 2001"),
        rule("full: 5}", "full: 6}"),
        rule(seeds=10),
        rule(mode="quick"),
    ]
    assert len({digest(one) for one in (rule(), *changes)}) == len(changes) + 1


def test_a_quick_training_is_no_longer_than_a_full_one(tmp_path):
    text = re.search(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    path = tmp_path / "sections.yaml"
    path.write_text(text.replace("total_timesteps: 20000", "total_timesteps: 2000"), encoding="utf-8")
    section = load_sections(path)["mine"]
    for mode in ("quick", "full"):
        (target,) = {spec.config.total_timesteps for spec in ScenarioPlan.of(section, "poles", mode, None).specs()}
        assert target == 2000
