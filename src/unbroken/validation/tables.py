"""A report's numbers as files: `metrics.json` (all of it), `metrics.csv` (a row for each play), `table.tex` (for a paper)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

import numpy as np

from unbroken.validation.heading import Heading
from unbroken.validation.results import Arm, Comparison, Play
from unbroken.validation.statistics import Estimate
from unbroken.validation.verdict import Against, Finding
from unbroken.validation.wording import QUICK, counted, number, percent

FORMAT = "unbroken validation 1"
_FIXED = (
    "scenario",
    "arm",
    "training_seed",
    "seed",
    "metric",
    "unit",
    "value",
    "n_decisions",
    "seconds",
    "imbalance",
    "demand",
    "digest",
)


def metrics_json(comparisons: Sequence[Comparison], findings: Sequence[Finding], heading: Heading) -> dict[str, Any]:
    """Everything but the space-time fields, as plain data that strict JSON can hold: what is not finite is None.

    Raises:
        TypeError: `facts` or `versions` hold something that is not plain data.
    """
    scenarios = [_scenario(one, finding) for one, finding in zip(comparisons, findings, strict=True)]
    return dict(plain({"format": FORMAT, **asdict(heading), "scenarios": scenarios}))


def _scenario(comparison: Comparison, finding: Finding) -> dict[str, Any]:
    return {
        **finding.plain(),
        "arms": [_arm(arm) for arm in comparison.arms],
        "curves": [asdict(curve) for curve in comparison.curves],
        "queues": [asdict(queues) for queues in comparison.queues],
        "facts": comparison.facts or {},
    }


def _arm(arm: Arm) -> dict[str, Any]:
    plays = [{**vars(play), "measures": dict(play.measures)} for play in arm.plays]
    return {"name": arm.name, "training_seed": arm.training_seed, "plays": plays}


def plain(value: Any) -> Any:
    """`value` as dictionaries with text keys, lists, text, numbers and None; TypeError if it holds anything else."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{value!r} is no plain data: give text, numbers, lists or dictionaries")


def metrics_csv(comparisons: Iterable[Comparison]) -> str:
    """One row for each arm, training and seed; numbers read back as the same bits. Measures that an arm has not are empty."""
    rows = [(one, arm, play) for one in comparisons for arm in one.arms for play in arm.plays]
    columns = {name: _column(name) for _, _, play in rows for name in play.measures}
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_FIXED, *columns.values()], restval="", lineterminator="\n")
    writer.writeheader()
    for comparison, arm, play in rows:
        measures = {columns[name]: _exact(value) for name, value in play.measures.items()}
        writer.writerow({**_fixed(comparison, arm, play), **measures})
    return text.getvalue()


def _column(measure: str) -> str:
    return f"measure_{measure}" if measure in _FIXED else measure


def _fixed(comparison: Comparison, arm: Arm, play: Play) -> dict[str, Any]:
    return {
        "scenario": comparison.scenario,
        "arm": arm.name,
        "training_seed": "" if arm.training_seed is None else arm.training_seed,
        "seed": play.seed,
        "metric": comparison.metric.name,
        "unit": comparison.metric.unit,
        "value": _exact(play.value),
        "n_decisions": play.n_decisions,
        "seconds": _exact(play.seconds),
        "imbalance": _exact(play.imbalance),
        "demand": play.demand,
        "digest": play.digest,
    }


def _exact(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def latex_table(findings: Sequence[Finding], heading: Heading, refused: Mapping[str, str] | None = None) -> str:
    r"""A `tabular` with booktabs' lines, to be read in with `\input`; needs `\usepackage{booktabs}` and nothing else.

    `refused` says by scenario why it was not compared. Letters beyond those of Western Europe need XeLaTeX or LuaLaTeX, which the
    file then says itself.
    """
    body = "\n\\midrule\n".join("\n".join(_latex_rows(one)) for one in findings)
    last = [rf"\midrule {_spanning(f'{name}: not compared')}" for name in refused or {}]
    last += [rf"\midrule {_spanning(QUICK)}"] if heading.mode == "quick" else []
    lines = [
        r"% \usepackage{booktabs}; intervals are 95 % bootstrap intervals over trainings and seeds",
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r" & metric & \multicolumn{3}{c}{the agents are better by} \\",
        r"\cmidrule(lr){3-5}",
        r" & mean & mean, \% & interquartile mean, \% & probability \\",
        r"\midrule",
        body,
        *last,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    text = "\n".join(lines) + "\n"
    beyond = any(ord(letter) > 0xFF or letter in _ABSENT for letter in text)
    return ("% letters that pdflatex's fonts have not: compile with xelatex or lualatex\n" if beyond else "") + text


def _latex_rows(finding: Finding) -> Iterable[str]:
    metric = finding.metric
    facts = f"{counted(len(finding.training_seeds), 'training')}, {counted(len(finding.seeds), 'seed')}"
    measured = f"{metric.label} in {metric.unit}" if metric.unit else metric.label
    head = rf"\emph{{{latex(finding.scenario)}}}, {latex(measured)}, {facts}: {finding.verdict}"
    yield rf"\multicolumn{{5}}{{l}}{{{head}}} \\"
    yield rf"agents & {_value(finding.agent)} & & & \\"
    for one in finding.against:
        yield _latex_row(one, f"{latex(one.baseline)}{'$^*$' if one.baseline == finding.rule.baseline else ''}")
    rule = finding.rule
    asked = f"of the rule: {rule.target_percent:g} % and an interval above {rule.interval_above_percent:g} % asked for"
    yield _spanning(f"* {asked}")


def _latex_row(one: Against, name: str) -> str:
    cells = [_value(one.mean), _percent(one.improvement), _percent(one.interquartile), f"{one.probability.value:.2f}"]
    return rf"{name} & {' & '.join(cells)} \\"


def _spanning(text: str) -> str:
    return rf"\multicolumn{{5}}{{l}}{{\footnotesize {latex(text)}}} \\"


def _value(estimate: Estimate) -> str:
    return _bracketed(*(number(x, estimate.value) for x in (estimate.value, estimate.low, estimate.high)))


def _percent(estimate: Estimate | None) -> str:
    return "--" if estimate is None else _bracketed(*map(percent, (estimate.value, estimate.low, estimate.high)))


def _bracketed(value: str, low: str, high: str) -> str:
    # braces: a bracket after the end of a row would be read as an argument of the \\ there
    text = f"${value}$" if low == high else f"${value}$ {{[${low}$, ${high}$]}}"
    return text.replace("$, $", "\0").replace(",", "{,}").replace("\0", "$, $")


_ABSENT = "«»ÐÞðþ"  # of Latin-1, from the fonts that LaTeX begins with
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    '"': r"{''}",
    "-": "{-}",
    "*": "$^*$",
    "[": "{[}",
    "]": "{]}",
}


def latex(text: str) -> str:
    """`text` so that LaTeX prints it as it is; line ends and control characters become spaces."""
    return "".join(_LATEX.get(letter, letter) if letter.isprintable() else " " for letter in text)
