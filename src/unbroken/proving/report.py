"""What a proof has found, as lines for the console and as one self-contained page."""

from __future__ import annotations

import html
from collections.abc import Iterable

from unbroken.logs import human_seconds
from unbroken.proving.comparing import Difference
from unbroken.proving.proof import DIVERGED, IDENTICAL, NOT_DETERMINISTIC, NOTHING_PROVED, Proof

_SENTENCES = {
    IDENTICAL: "Killed and resumed, the training went the same way as undisturbed, bit for bit, wherever both were compared.",
    DIVERGED: "After a kill the resumed training went another way than the undisturbed one.",
    NOT_DETERMINISTIC: "Two undisturbed trainings differ already: it is not deterministic, so kills prove nothing.",
    NOTHING_PROVED: "No kill met the training after its first checkpoint: nothing was resumed. "
    "Save more often, train longer, or make the model with resume_or_create.",
}
_SHOWN = 5
_WIDEST = 110
_LEFT_OUT = "Wall-clock values (time/fps, time/time_elapsed, Monitor's episode times) are left out by name."

Row = tuple[str, str]


def text_report(proof: Proof) -> str:
    """Lines for the console."""
    lines = ["", f"verdict:              {proof.verdict.upper()}", f"  {_SENTENCES[proof.verdict]}", ""]
    lines += [f"{name + ':':<22}{value}" for name, value in summary(proof)]
    for head, rows in sections(proof):
        lines += ["", f"{head}:", *(f"  {row}" for row in rows)]
    if proof.kills:
        lines += [
            "",
            f"{'kill':>6}  {'at step':>9}  {'resumed at':>10}  {'repeated':>18}  {'until it went on':>16}  during",
        ]
        lines += [f"{k:>6}  {'  '.join(cells)}" for k, cells in enumerate(_kill_cells(proof), start=1)]
    return "\n".join(lines)


def summary(proof: Proof) -> list[Row]:
    """Facts in one line each."""
    kills = proof.kills
    seconds = [kill.seconds_repeated + kill.seconds_to_resume for kill in kills]
    lost = f"{sum(seconds) / len(seconds):.1f} s for each kill" if seconds else "-"
    if seconds:
        again = sum(kill.seconds_repeated for kill in kills) / len(kills)
        lost += (
            f" ({again:.1f} s of training done again, {sum(seconds) / len(seconds) - again:.1f} s to start and resume)"
        )
    compared = proof.compared
    rows = [
        ("command", proof.command),
        ("steps", f"{proof.steps:,}, undisturbed in {human_seconds(proof.training_seconds)}"),
        ("deterministic", _determinism(proof)),
    ]
    if kills:
        rows += [
            ("kills (SIGKILL)", f"{len(kills)} of {proof.wish.kills}, {_in_rollout(proof)} of them in mid-rollout"),
            ("steps repeated", f"{sum(kill.steps_repeated for kill in kills):,}"),
            ("time lost", lost),
        ]
    return [
        *rows,
        ("compared", f"{compared.steps:,} steps, {compared.logged:,} logged values, {compared.cuts} whole states"),
        ("components", ", ".join(sorted(compared.components)) or "-"),
        ("whole proof", human_seconds(proof.seconds)),
    ]


def _determinism(proof: Proof) -> str:
    if proof.verdict == NOT_DETERMINISTIC:
        return "NO: undisturbed trainings differ"
    return f"yes: the first {proof.repeated_until:,} steps ran twice, undisturbed, and were the same"


def _in_rollout(proof: Proof) -> int:
    return sum(kill.during == "in mid-rollout" for kill in proof.kills)


def sections(proof: Proof) -> list[tuple[str, list[str]]]:
    """What a reader looks for next: divergence, causes, notes, what was not covered."""
    found = []
    if proof.divergence is not None:
        found.append(("first divergence", _divergence_lines(proof)))
    if proof.causes:
        found.append(("likely cause", list(_cause_lines(proof))))
    if proof.notes:
        found.append(("notes", proof.notes))
    return [*found, ("not covered", [*proof.not_covered, _LEFT_OUT])]


def _divergence_lines(proof: Proof) -> list[str]:
    found = proof.divergence
    assert found is not None
    where = f"step {found.step:,}, {found.when}"
    if proof.verdict == DIVERGED:
        where += f"; leg {found.leg}, which resumed at step {found.began_at:,}"
    by_component = {one.component: one for one in reversed(found.differences)}
    shown = [one for one in found.differences if by_component[one.component] is one][:_SHOWN]
    lines = [where, *(line for one in shown for line in _difference_lines(one, proof))]
    more = len(found.differences) - len(shown)
    return [*lines, f"and {more:,} more values there"] if more > 0 else lines


def _difference_lines(one: Difference, proof: Proof) -> Iterable[str]:
    first, second = ("first time", "again") if proof.verdict == NOT_DETERMINISTIC else ("undisturbed", "resumed")
    name = one.component if one.component == one.name else f"{one.component}: {one.name}"
    return (name, f"  {first + ':':<13}{_cut(one.undisturbed)}", f"  {second + ':':<13}{_cut(one.resumed)}")


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]}..."


def _cause_lines(proof: Proof) -> Iterable[str]:
    for cause in proof.causes[:_SHOWN]:
        yield cause.name
        yield f"  seen: {cause.seen}"
        if cause.remedy:
            yield f"  remedy: {cause.remedy}"


def _kill_cells(proof: Proof) -> list[tuple[str, ...]]:
    return [
        (
            f"{kill.step:>9,}",
            f"{kill.resumed_at:>10,}",
            f"{f'{kill.steps_repeated:,} steps, {kill.seconds_repeated:.1f} s':>18}",
            f"{f'{kill.seconds_to_resume:.1f} s':>16}",
            kill.during,
        )
        for kill in proof.kills
    ]


_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.3rem } h2 { font-size: 1.05rem; margin-top: 1.6rem }
.verdict { padding: .7rem 1rem; border-radius: .5rem; color: #fff; background: #9b1c1c } .identical { background: #14683a }
.other { background: #7a4d00 } .verdict strong { font-size: 1.2rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0 } dd { margin: 0 }
pre { white-space: pre-wrap; margin: 0; font-size: .85rem } table { border-collapse: collapse; width: 100%; font-size: .85rem }
th, td { overflow-wrap: normal; text-align: right; padding: .25rem .4rem; border-bottom: 1px solid #8886 }
th:last-child, td:last-child { text-align: left }
.wide { overflow-x: auto }
@media (max-width: 30rem) { dl { grid-template-columns: 1fr } dt { font-weight: 600; margin-top: .4rem } }
"""


def html_report(proof: Proof) -> str:
    """One page without scripts or anything from elsewhere, made for a phone first."""
    kind = {IDENTICAL: "identical", DIVERGED: "diverged"}.get(proof.verdict, "other")
    verdict = f"<strong>{_safe(proof.verdict.upper())}</strong><br>{_safe(_SENTENCES[proof.verdict])}"
    facts = "".join(f"<dt>{_safe(name)}</dt><dd>{_safe(value)}</dd>" for name, value in summary(proof))
    parts = [f'<h1>unbroken prove</h1><p class="verdict {kind}">{verdict}</p>', f"<dl>{facts}</dl>"]
    for head, rows in sections(proof):
        parts.append(f"<h2>{_safe(head.capitalize())}</h2><pre>{_safe(chr(10).join(rows))}</pre>")
    if proof.kills:
        heads = ("kill", "at step", "resumed at", "repeated", "until it went on", "during")
        rows_ = [(str(k), *cells) for k, cells in enumerate(_kill_cells(proof), start=1)]
        table = _row("th", heads) + "".join(_row("td", cells) for cells in rows_)
        parts.append(f'<h2>Kills</h2><div class="wide"><table>{table}</table></div>')
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>unbroken prove: {_safe(proof.verdict)}</title><style>{_STYLE}</style></head><body>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _row(tag: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{_safe(cell.strip())}</{tag}>" for cell in cells) + "</tr>"


def _safe(text: str) -> str:
    return html.escape(text)
