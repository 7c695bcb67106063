"""Numbers as JSON, CSV and LaTeX: complete, exact, escaped (C3, C4)."""

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unbroken.testing.comparisons import sample_comparison, with_pictures
from unbroken.validation.results import Arm, Curve
from unbroken.validation.tables import latex, latex_table, metrics_csv, metrics_json, plain
from unbroken.validation.verdict import digest, judge


def as_json(comparisons, heading):
    findings = [judge(one, heading.mode) for one in comparisons]
    text = json.dumps(metrics_json(comparisons, findings, heading), allow_nan=False)
    return json.loads(text)


def test_json_has_everything(heading):
    comparison = with_pictures(sample_comparison())
    content = as_json([comparison], heading)
    assert (content["section"], content["mode"], content["versions"]) == ("7.6", "full", {"python": "3.11.7"})
    assert content["command"] == heading.command
    (scenario,) = content["scenarios"]
    assert scenario["verdict"] == "met"
    assert scenario["rule"]["baseline"] == "webster"
    assert scenario["rule"]["digest"] == digest(comparison.rule)
    assert [(arm["name"], arm["training_seed"]) for arm in scenario["arms"]][2:4] == [
        ("max_pressure", None),
        ("agent", 0),
    ]
    for arm, written in zip(comparison.arms, scenario["arms"], strict=True):
        for play, row in zip(arm.plays, written["plays"], strict=True):
            assert row == {**vars(play), "measures": dict(play.measures)}
    assert len(scenario["against"]) == 3
    assert [tuple(curve["legs"]) for curve in scenario["curves"]] == [one.legs for one in comparison.curves]
    assert scenario["queues"][0]["longest_m"] == comparison.queues[0].longest_m.tolist()
    assert scenario["facts"] == comparison.facts


def test_json_has_no_nan(heading):
    """An evaluation that failed and a fact that is not finite become null: readers of strict JSON read on."""
    comparison = replace(
        sample_comparison(),
        curves=(Curve(0, (1, 2), (float("nan"), 1.0), (0,)),),
        facts={"a": float("inf"), "b": np.float32("nan")},
    )
    (scenario,) = as_json([comparison], heading)["scenarios"]
    assert scenario["curves"][0]["values"] == [None, 1.0]
    assert scenario["facts"] == {"a": None, "b": None}


def test_plain_data():
    value = {1: (np.float64(0.5), np.arange(2)), "p": Path("a") / "b", "n": None, "t": np.bool_(True)}
    assert plain(value) == {"1": [0.5, [0, 1]], "p": "a/b", "n": None, "t": True}
    with pytest.raises(TypeError, match="no plain data"):
        plain({"x": object()})


def test_csv_reads_back_bit_for_bit(hostile):
    comparisons = [sample_comparison(), sample_comparison(hostile, {f"b {hostile}": 1 / 3, "x": 2.5}, (0.1, 0.2))]
    rows = list(csv.DictReader(io.StringIO(metrics_csv(comparisons), newline="")))
    expected = [(one, arm, play) for one in comparisons for arm in one.arms for play in arm.plays]
    assert len(rows) == len(expected) == 8 * 20 + 4 * 20
    for row, (comparison, arm, play) in zip(rows, expected, strict=True):
        assert (row["scenario"], row["arm"], row["seed"]) == (comparison.scenario, arm.name, str(play.seed))
        assert row["training_seed"] == ("" if arm.training_seed is None else str(arm.training_seed))
        assert float(row["value"]) == play.value
        assert {name: float(row[name]) for name in play.measures} == play.measures
        assert (row["demand"], row["digest"]) == (play.demand, play.digest)
        assert (int(row["n_decisions"]), float(row["seconds"]), float(row["imbalance"])) == (300, 4500.0, 1e-10)


def test_csv_with_measures_of_some_arms_and_names_of_its_own_columns():
    comparison = sample_comparison(seeds=range(1))
    plays = (replace(comparison.arms[0].plays[0], measures={"seed": 7.0}, seconds=None, imbalance=None),)
    comparison = replace(comparison, arms=(Arm("webster", plays), *comparison.arms[1:]))
    first, second, *_ = csv.DictReader(io.StringIO(metrics_csv([comparison])))
    assert (first["seed"], first["measure_seed"], first["cars_veh_h"]) == ("0", "7.0", "")
    assert (first["seconds"], first["imbalance"]) == ("", "")
    assert second["measure_seed"] == ""
    assert second["cars_veh_h"] != ""


def test_latex_escapes_by_hand():
    assert latex("a_b & 50% #1 $x$") == r"a\_b \& 50\% \#1 \$x\$"
    assert latex(r"\input{x}") == r"\textbackslash{}input\{x\}"
    assert latex("~^") == r"\textasciitilde{}\textasciicircum{}"
    assert latex("a\nb\tc\x00") == "a b c "
    assert latex("plain é") == "plain é"


def test_latex_table_says_what_was_found(heading):
    text = latex_table([judge(sample_comparison(), "full")], heading)
    (row,) = re.findall(r"^webster.*$", text, re.M)
    finding = judge(sample_comparison(), "full")
    assert f"${finding.ruled.improvement.value:+.1f}$" in row
    assert f"{finding.ruled.improvement.low:+.1f}" in row
    assert row.count("&") == 4
    assert r"webster$^*$ &" in row
    assert ": met" in text
    assert "proves nothing" not in text


def test_latex_table_of_a_quick_comparison_says_so(heading):
    quick = replace(heading, mode="quick")
    assert "proves nothing" in latex_table([judge(sample_comparison(), "quick")], quick)


def test_latex_rows_are_balanced_whatever_the_names(heading, hostile):
    text = latex_table([judge(sample_comparison(hostile, {hostile: 3.0, "b_2": 1e6}), "full")], heading)
    bare = re.sub(r"\\[\\%&#$_{}]", "", text.split("\n", 1)[1])
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert "%" not in bare
    assert "#" not in bare
    assert r"\input" not in text
    for line in text.splitlines():
        cells = re.sub(r"\\[%&#$_{}]", "", line).count("&")
        assert cells in (0, 2 if "metric &" in line else 4)


def test_latex_table_names_letters_that_pdflatex_has_not(heading):
    assert latex_table([judge(sample_comparison("Gbɛ"), "full")], heading).startswith("% letters")
    assert not latex_table([judge(sample_comparison("Abomey-Calavi é"), "full")], heading).startswith("% letters")


@pytest.mark.full
def test_latex_compiles(heading, hostile, tmp_path):
    assert shutil.which("pdflatex"), "apt-get install texlive-latex-recommended"
    findings = [
        judge(sample_comparison(), "full"),
        judge(sample_comparison(hostile, {hostile: 3.0, "b": 9.0}), "full"),
    ]
    (tmp_path / "table.tex").write_text(latex_table(findings, replace(heading, mode="quick")), encoding="utf-8")
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table.tex}\end{document}"
    (tmp_path / "paper.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
