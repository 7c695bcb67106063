"""Pictures show the numbers of the findings, on axes that can be compared (C3)."""

import subprocess
import sys
from dataclasses import replace

import matplotlib as mpl
import numpy as np

from unbroken.testing.comparisons import sample_comparison, with_pictures
from unbroken.validation import figures
from unbroken.validation.figures import draw_curves, draw_improvement, draw_queues, pictures
from unbroken.validation.results import Curve
from unbroken.validation.verdict import judge

SAMPLE = with_pictures(sample_comparison())
FINDING = judge(SAMPLE, "full")


def lines_of(axes):
    return [(np.array(line.get_xdata(), dtype=float), np.array(line.get_ydata(), dtype=float)) for line in axes.lines]


def test_one_picture_of_all_and_three_of_each_scenario():
    other = replace(SAMPLE, scenario="ramp metering")
    drawn = pictures([SAMPLE, other], [FINDING, replace(FINDING, scenario="ramp metering")])
    assert [(one.name, one.scenario) for one in drawn] == [
        ("improvement.png", None),
        *(
            (f"{kind}-traffic_light_control.png", "traffic_light_control")
            for kind in ("learning", "space-time", "queues")
        ),
        *((f"{kind}-ramp-metering.png", "ramp metering") for kind in ("learning", "space-time", "queues")),
    ]
    for one in drawn:
        assert one.png.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(one.png) > 10_000
        assert len(one.alt) > 20


def test_nothing_is_drawn_of_what_is_not_there():
    assert [one.name for one in pictures([sample_comparison()], [FINDING])] == ["improvement.png"]


def test_names_of_files_are_harmless_and_differ(hostile, coarse):
    scenarios = [hostile, f"{hostile}!", "../../etc", "a/b:c", "é"]
    comparisons = [replace(SAMPLE, scenario=name, space_time=(), queues=()) for name in scenarios]
    names = [one.name for one in pictures(comparisons, [replace(FINDING, scenario=name) for name in scenarios])]
    assert len(set(names)) == len(names) == 6
    for name in names:
        assert not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
        assert not name.startswith(".")


def test_improvement_shows_values_intervals_target_and_trainings():
    (axes,) = draw_improvement([FINDING]).axes
    drawn = lines_of(axes)
    for one in FINDING.against:
        assert any(np.array_equal(x, [one.improvement.low, one.improvement.high]) for x, _ in drawn)
        assert any(np.array_equal(x, [one.improvement.value]) for x, _ in drawn)
        assert any(np.array_equal(x, one.trainings) for x, _ in drawn)
    targets = [y for x, y in drawn if np.array_equal(x, [15.0, 15.0])]
    (row,) = [y for x, y in drawn if np.array_equal(x, [FINDING.ruled.improvement.value])]
    assert len(targets) == 1
    assert targets[0].min() < row[0] < targets[0].max()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["webster", "actuated", "max_pressure"]


def test_improvement_of_a_quick_comparison_says_so():
    assert draw_improvement([judge(SAMPLE, "quick")]).get_suptitle() == "quick comparison: it proves nothing"
    assert draw_improvement([FINDING]).get_suptitle() == ""


def test_curves_mark_where_legs_begin():
    curve = Curve(3, (1000, 2000, 3000), (1.0, 2.0, 4.0), legs=(0, 1500, 2500))
    (axes,) = draw_curves(replace(SAMPLE, curves=(curve,))).axes
    (line, marks, _) = lines_of(axes)
    assert line[0].tolist() == [1.0, 2.0, 3.0]
    assert marks[0].tolist() == [1.5, 2.5]
    assert marks[1].tolist() == [1.5, 3.0]


def test_space_time_shows_best_rules_and_agent_on_the_same_scales():
    chosen = figures._chosen(SAMPLE, FINDING)
    assert [one.arm for one in chosen] == ["actuated", "webster", "agent"]
    figure = figures.draw_space_time(chosen, FINDING)
    panels = [axes for axes in figure.axes if axes.collections and axes.get_title()]
    assert [axes.get_title().split("\n")[0] for axes in panels] == ["actuated", "webster", "agent"]
    assert {axes.collections[0].get_clim() for axes in panels} == {(0.0, 1.0)}
    assert {(axes.get_xlim(), axes.get_ylim()) for axes in panels} == {((0.0, 75.0), (0.0, 1.2))}
    for axes, one in zip(panels, chosen, strict=True):
        assert np.array_equal(np.asarray(axes.collections[0].get_array()), one.field.T)


def test_space_time_of_unequal_fields_keeps_the_same_axes():
    first, second, agent = figures._chosen(SAMPLE, FINDING)
    short = replace(agent, field=agent.field[:50, :20], times_s=agent.times_s[:51], distances_m=agent.distances_m[:21])
    panels = figures.draw_space_time([first, second, short], FINDING).axes[:3]
    assert {(axes.get_xlim(), axes.get_ylim()) for axes in panels} == {((0.0, 75.0), (0.0, 1.2))}


def test_space_time_takes_a_seed_that_all_have():
    first, second, third, agent = SAMPLE.space_time
    fields = (first, second, third, replace(agent, seed=7), replace(first, seed=7), replace(second, seed=7))
    chosen = figures._chosen(replace(SAMPLE, space_time=fields), FINDING)
    assert {one.seed for one in chosen} == {7}
    assert len(chosen) == 3


def test_space_time_where_the_best_baseline_is_the_rules(coarse):
    comparison = with_pictures(sample_comparison(means={"webster": 200.0, "worse": 300.0}))
    finding = judge(comparison, "full")
    assert [one.arm for one in figures._chosen(comparison, finding)] == ["webster", "agent"]
    pictures([comparison], [finding])


def test_queues_have_a_line_for_each_arm_the_agent_thickest():
    (axes,) = draw_queues(SAMPLE, FINDING).axes
    assert {line.get_label() for line in axes.lines} == {"webster", "actuated", "max_pressure", "agent"}
    thickest = max(axes.lines, key=lambda line: line.get_linewidth())
    assert thickest.get_label() == "agent"
    looks = {(line.get_color(), str(line.get_linestyle())) for line in axes.lines}
    assert len(looks) == 4


def test_names_are_no_formulas_and_all_are_in_the_legend(coarse):
    names = {"$x": 200.0, "_hidden": 300.0, "a_{b}$\\frac$": 250.0, "long " * 20: 260.0}
    comparison = with_pictures(sample_comparison("$\\alpha", names))
    finding = judge(comparison, "full")
    assert len(pictures([comparison], [finding])) == 4
    (legend,) = draw_queues(comparison, finding).legends
    assert len(legend.get_texts()) == 5


def test_bits_do_not_depend_on_the_users_settings(coarse):
    plain = [one.png for one in pictures([SAMPLE], [FINDING])]
    with mpl.rc_context(
        {"text.usetex": True, "font.size": 30, "lines.linewidth": 9, "savefig.dpi": 20, "figure.dpi": 20}
    ):
        assert [one.png for one in pictures([SAMPLE], [FINDING])] == plain


def test_what_is_not_imported():
    """No window, nothing heavy, and no matplotlib before the first picture."""
    code = (
        "import sys; from unbroken.testing.comparisons import sample_comparison\n"
        "from unbroken.validation import report, verdict\n"
        "print('matplotlib' in sys.modules)\n"
        "c = sample_comparison(); report.pictures([c], [verdict.judge(c, 'full')])\n"
        "print(*({'matplotlib', 'matplotlib.pyplot', 'tkinter', 'scipy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["False", "matplotlib"]
