"""A report as one page: no scripts, nothing from elsewhere, made for a phone first. All text of others is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from unbroken.validation.figures import Picture
from unbroken.validation.heading import Heading
from unbroken.validation.results import Arm, Comparison
from unbroken.validation.statistics import Estimate
from unbroken.validation.tables import plain
from unbroken.validation.verdict import Against, Finding, describe, digest
from unbroken.validation.wording import (
    QUICK,
    counted,
    listed,
    number,
    number_interval,
    percent,
    percent_interval,
    share,
)

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.4rem; line-height: 1.25 } h2 { font-size: 1.15rem; margin-top: 2rem } h3 { font-size: 1rem; margin-top: 1.5rem }
.box { padding: .7rem 1rem; border-radius: .5rem; margin: .6rem 0; color: #fff; background: #565b63 }
.box strong { display: block; font-size: 1.05rem } .met { background: #14683a } .missed { background: #9b1c1c }
.quick { background: #7a4d00; font-size: 1.1rem }
.rule { border-left: .25rem solid var(--line); padding-left: .8rem; margin: .6rem 0 }
.wide { overflow-x: auto; margin: .6rem 0 }
table { border-spacing: 0; font-size: .875rem; font-variant-numeric: tabular-nums; overflow-wrap: normal }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; vertical-align: top }
thead th { vertical-align: bottom; white-space: normal; min-width: 4.5rem }
th:first-child { text-align: left; position: sticky; left: 0; background: Canvas } .ruled { font-weight: 600 }
small { opacity: .75 } td small { display: block }
figure { margin: 1rem 0 } figcaption { font-size: .875rem }
img { display: block; width: 100%; max-width: 36rem; height: auto; padding: .4rem; box-sizing: border-box;
  background: #fff; border-radius: .4rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .6rem 0 } dd { margin: 0 }
dt { font-weight: 600 } dd dl { margin: 0 }
pre { white-space: pre-wrap; background: var(--soft); padding: .7rem; border-radius: .4rem } ul { padding-left: 1.2rem }
@media (max-width: 30rem) { dl { grid-template-columns: 1fr } dd { margin-left: .8rem } dt { margin-top: .3rem } }
@media print { .wide { overflow: visible } .box { print-color-adjust: exact } figure { break-inside: avoid } }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_HOW_TO_READ = (
    "In brackets are 95 % bootstrap intervals: trainings and seeds are drawn again with replacement, and what is compared has met "
    "the same seeds. + means that the agents are better. The interquartile mean leaves out the best and the worst quarter of the "
    "trainings. The last column says on how many pairs of training and seed the agent is better than the baseline on that seed. "
    "* marks the baseline of the rule."
)


def html_page(
    comparisons: Sequence[Comparison],
    findings: Sequence[Finding],
    heading: Heading,
    pictures: Sequence[Picture],
    refused: Mapping[str, str] | None = None,
) -> str:
    """The whole report. `pictures` are embedded; their alternative texts are their captions. `refused` says why by scenario."""
    title = f"Section {heading.section}: {heading.title}"
    overall = [picture for picture in pictures if picture.scenario is None]
    parts = [
        f"<h1>{_safe(title)}</h1>",
        _quick(heading),
        f"<p>{_safe(heading.question)}</p>" if heading.question else "",
        "<h2>Verdicts</h2>",
        *(_verdict(one) for one in findings),
        *(_box("missed", f"{name}: not compared, it cannot be trusted", why) for name, why in (refused or {}).items()),
        *map(_figure, overall),
        f"<h2>Rules, fixed before anything ran</h2>{_rules(findings)}",
        f"<h2>Numbers</h2><p>{_safe(_HOW_TO_READ)}</p>",
    ]
    for comparison, finding in zip(comparisons, findings, strict=True):
        own = [picture for picture in pictures if picture.scenario == comparison.scenario]
        parts += [_scenario(comparison, finding), *map(_figure, own), _compared(comparison, finding)]
    parts += [_notes(heading), _repeat(heading), _made(heading)]
    return _document(title, heading, "\n".join(part for part in parts if part))


def _document(title: str, heading: Heading, body: str) -> str:
    mark = " (quick, proves nothing)" if heading.mode == "quick" else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_safe(title + mark)}</title><style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _quick(heading: Heading) -> str:
    if heading.mode != "quick":
        return ""
    return (
        f'<p class="box quick"><strong>{_safe(QUICK)}</strong>Few seeds, short horizons and perhaps half-trained agents: it shows '
        "that the machinery runs. Only <code>--mode full</code> judges.</p>"
    )


def _verdict(finding: Finding) -> str:
    kind = {"met": "met", "missed": "missed"}.get(finding.verdict, "open")
    head = f"{finding.scenario}: {finding.verdict}"
    lines = [finding.reason]
    if finding.verdict == "not judged" and finding.ruled.improvement is not None:
        lines.append(f"Seen against {finding.rule.baseline}: {percent_interval(finding.ruled.improvement)} %.")
    lines.append(_strongest(finding))
    return _box(kind, head, " ".join(filter(None, lines)))


def _box(kind: str, head: str, text: str) -> str:
    return f'<p class="box {kind}"><strong>{_safe(head)}</strong>{_safe(text)}</p>'


def _strongest(finding: Finding) -> str:
    """What the rule does not ask for and a reader should know: the best baseline, where it is another one."""
    best = finding.strongest
    if best.baseline == finding.rule.baseline:
        return ""
    if best.improvement is None:
        gap = number_interval(best.difference)
        return f"The strongest baseline is {best.baseline}; agents less {best.baseline}: {gap} {finding.metric.unit}."
    value, low, high = best.improvement.value, best.improvement.low, best.improvement.high
    word = "better" if value >= 0.0 else "worse"
    unclear = ", not clear of 0" if low <= 0.0 <= high else ""
    return f"The strongest baseline is {best.baseline}: against it the agents are {abs(value):.1f} % {word}{unclear}."


def _rules(findings: Iterable[Finding]) -> str:
    """Each rule once, with the scenarios that it is for."""
    scenarios: dict[str, list[str]] = {}
    texts = {}
    for finding in findings:
        key = digest(finding.rule)
        texts[key] = describe(finding.rule)
        scenarios.setdefault(key, []).append(finding.scenario)
    return "".join(
        f'<p class="rule"><b>{_safe(", ".join(scenarios[key]))}.</b> {_safe(text)} <small>digest {key[:16]}</small></p>'
        for key, text in texts.items()
    )


def _scenario(comparison: Comparison, finding: Finding) -> str:
    metric = finding.metric
    better = "less is better" if metric.lower_is_better else "more is better"
    heads = (
        "",
        f"{metric.label}, {metric.unit}" if metric.unit else metric.label,
        "agents better by, %",
        "interquartile mean over trainings, %",
        "agents less baseline" + (f", {metric.unit}" if metric.unit else ""),
        "agents better on",
    )
    rows = [_row("agents", (number_interval(finding.agent), "", "", "", ""))]
    rows += [_row(_star(one, finding), _cells(one), _ruled(one, finding)) for one in finding.against]
    return (
        f"<h3>{_safe(finding.scenario)}: {_safe(metric.label)} ({better})</h3>"
        f"{_table(heads, rows)}{_trainings(finding)}{_measures(comparison)}"
    )


def _star(one: Against, finding: Finding) -> str:
    return f"{one.baseline} *" if one.baseline == finding.rule.baseline else one.baseline


def _ruled(one: Against, finding: Finding) -> str:
    return ' class="ruled"' if one.baseline == finding.rule.baseline else ""


def _cells(one: Against) -> tuple[str, ...]:
    percentages = (_percentage(one.improvement), _percentage(one.interquartile))
    return (number_interval(one.mean), *percentages, number_interval(one.difference), share(one.probability))


def _percentage(estimate: Estimate | None) -> str:
    return "no % of it" if estimate is None else percent_interval(estimate)


def _trainings(finding: Finding) -> str:
    if not finding.ruled.trainings:
        return ""
    each = zip(finding.training_seeds, finding.ruled.trainings, strict=True)
    listed = ", ".join(f"{percent(value)} (seed {seed})" for seed, value in each)
    return f"<p>Trainings one by one, in % against {_safe(finding.rule.baseline)}: {_safe(listed)}.</p>"


def _measures(comparison: Comparison) -> str:
    """Means of all measures by arm, agents together; nothing where there are none."""
    names = list(dict.fromkeys(name for arm in comparison.arms for play in arm.plays for name in play.measures))
    if not names:
        return ""
    groups: dict[str, list[Arm]] = {}
    for arm in comparison.arms:
        groups.setdefault("agents" if arm.is_agent else arm.name, []).append(arm)
    rows = [_row(group, [_mean(arms, name) for name in names]) for group, arms in groups.items()]
    return f"<p>Further measures, means over seeds (and trainings):</p>{_table(('', *names), rows)}"


def _mean(arms: Iterable[Arm], name: str) -> str:
    values = [play.measures[name] for arm in arms for play in arm.plays if name in play.measures]
    return number(float(np.mean(values))) if values else "-"


def _compared(comparison: Comparison, finding: Finding) -> str:
    """What was compared with what, and the facts that the comparison carries."""
    play = comparison.arms[0].plays[0]
    clock = play.seconds is not None
    facts = {
        "agents": f"{counted(len(finding.training_seeds), 'training')}, seeds {listed(finding.training_seeds)}",
        "baselines": ", ".join(one.baseline for one in finding.against),
        "seeds of demand": f"{len(finding.seeds):,}: {listed(finding.seeds)}; the same for every arm, "
        + ("what arrived compared by digest" if clock else "the first observation compared by digest"),
        "decisions": f"{play.n_decisions:,} for every arm"
        if clock
        else f"{play.n_decisions:,} at most; episodes may end before",
        **({} if not clock else {"judged over": f"{play.seconds:,.10g} s of simulated time, every arm"}),
        **dict(comparison.facts or {}),
        **({"notes": list(finding.notes)} if finding.notes else {}),
    }
    return f"<h3>What was compared: {_safe(finding.scenario)}</h3>{_facts(plain(facts))}"


def _facts(value: Any) -> str:
    """Plain data as nested lists."""
    if isinstance(value, Mapping):
        return "<dl>" + "".join(f"<dt>{_safe(key)}</dt><dd>{_facts(one)}</dd>" for key, one in value.items()) + "</dl>"
    if isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        return "<ul>" + "".join(f"<li>{_inline(one)}</li>" for one in value) + "</ul>"
    if isinstance(value, list):
        return "<br>".join(map(_inline, value)) or "none"
    return _inline(value)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_safe(key)}: {_inline(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_inline, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return _safe(f"{value:.6g}" if isinstance(value, float) else value)


def _notes(heading: Heading) -> str:
    if not heading.notes:
        return ""
    return "<h2>Notes</h2><ul>" + "".join(f"<li>{_safe(note)}</li>" for note in heading.notes) + "</ul>"


_BESIDE = (
    "Beside this page: <code>metrics.json</code> (everything), <code>metrics.csv</code> (a row for each arm, training and seed), "
    "<code>table.tex</code> and the pictures as PNG."
)


def _repeat(heading: Heading) -> str:
    return f"<h2>To repeat this</h2><pre>{html.escape(heading.command)}</pre><p>{_BESIDE}</p>"


def _made(heading: Heading) -> str:
    facts = {"made": heading.made, **({"on": heading.machine} if heading.machine else {}), **heading.versions}
    return f"<h2>Made with</h2>{_facts(plain(facts))}"


def _figure(picture: Picture) -> str:
    content = base64.b64encode(picture.png).decode("ascii")
    text = _safe(picture.alt)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{content}"><figcaption>{text}</figcaption></figure>'


def _table(heads: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f'<th scope="col">{_safe(name)}</th>' for name in heads)
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _row(name: str, cells: Iterable[str], attributes: str = "") -> str:
    inner = "".join(f"<td>{_stacked(cell)}</td>" for cell in cells)
    return f'<tr{attributes}><th scope="row">{_safe(name)}</th>{inner}</tr>'


def _stacked(cell: str) -> str:
    """The interval below its number: narrow enough for a phone."""
    value, bracket, rest = cell.partition(" [")
    return f"{_safe(value)}<small>{_safe(bracket.strip() + rest)}</small>" if bracket else _safe(cell)


def _safe(text: str) -> str:
    """Escaped, and no line break between a number and its %."""
    return html.escape(text).replace(" %", "\N{NO-BREAK SPACE}%")
