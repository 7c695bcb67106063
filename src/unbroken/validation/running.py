"""`unbroken validate`: rule first, then agents, then arms, then the report; killed anywhere, the same command goes on."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbroken import logs
from unbroken.cache.result_cache import ResultCache
from unbroken.context import package_versions
from unbroken.errors import StoppedEarly, UntrustworthyComparison, UsageError
from unbroken.store.durable import LocalBackend, write_json_durably
from unbroken.store.lock import ExclusiveLock
from unbroken.validation.agents import Agent, obtain, run_names
from unbroken.validation.comparing import Kind, PlayAll, ScenarioPlan, compare, kind_of, rule_of
from unbroken.validation.heading import Heading
from unbroken.validation.playing import playing
from unbroken.validation.report import Report, write_report
from unbroken.validation.results import Mode
from unbroken.validation.sections import Section, chosen_section, load_sections
from unbroken.validation.training import Trainer
from unbroken.validation.verdict import describe, digest
from unbroken.validation.wording import QUICK

STATE, LOG, LOCK, TRAININGS = "validation.json", "validation.log", ".lock", "trainings"
_WAY_OUT = "give another --out, or move it away"


@dataclass(frozen=True)
class ValidationRequest:
    """What was asked: of `sections` (a file, None for the package's alone) one section, all scenarios or some."""

    section: str
    mode: Mode
    cache: ResultCache
    runs_dir: Path
    out: Path
    scenarios: tuple[str, ...] = ()
    seeds: int | None = None
    sections: Path | None = None
    jobs: int = 1
    command: str = ""


@dataclass(frozen=True)
class _Work:
    """A request that has been found possible."""

    request: ValidationRequest
    section: Section
    plans: tuple[tuple[ScenarioPlan, Kind], ...]

    def plain(self) -> dict[str, Any]:
        """What makes two validations the same, with the rules as they stand before anything runs."""
        return {
            "section": self.request.section,
            "mode": self.request.mode,
            "content": self.section.model_dump(mode="json"),
            "seeds": {plan.name: list(plan.seeds) for plan, _ in self.plans},
            "rules": {
                plan.name: {"text": describe(r := rule_of(plan, kind)), "digest": digest(r)}
                for plan, kind in self.plans
            },
        }


def validate(request: ValidationRequest) -> Report:
    """Carry a validation to its report.

    Raises:
        UsageError: unknown section or scenario, or a folder that holds other results. UntrustworthyComparison: arms that cannot be
            compared; the report of the other scenarios is written. StoppedEarly: a signal; the same request continues. And what
            trainings and storage raise.
    """
    work = _planned(request)
    _require_own(request.out)
    with ExclusiveLock(request.out / LOCK, run=str(request.out)):
        _take_folder(work)
        with logs.logging_to(request.out / LOG, shown=_for_people), logs.recording_tracebacks(request.out / LOG):
            report = _carried(work)
    return report


def _planned(request: ValidationRequest) -> _Work:
    section = chosen_section(load_sections(request.sections), request.section, list(request.scenarios))
    plans = [ScenarioPlan.of(section, name, request.mode, request.seeds) for name in section.scenarios]
    planned = tuple((plan, kind_of(plan)) for plan in plans)
    for plan, kind in planned:
        plan.check_agents()
        kind.check()
    return _Work(request, section, planned)


def _require_own(out: Path) -> None:
    """Leave no trace, not even a lock, in a folder of other files."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: name a folder for the results")
    if out.is_dir() and any(path.name not in (LOCK, LOG) for path in out.iterdir()) and not (out / STATE).is_file():
        raise UsageError(f"{out} holds other files than a validation's: {_WAY_OUT}")


def _take_folder(work: _Work) -> None:
    """Begin the results folder, or go on in one of the same validation. Raises UsageError for any other."""
    out = work.request.out
    content = [path for path in out.iterdir() if path.name not in (LOCK, LOG)]
    if not content:
        write_json_durably(LocalBackend(out), STATE, {**work.plain(), "complete": False})
        return
    try:
        state = json.loads((out / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(f"{out / STATE} cannot be read: {_WAY_OUT}") from None
    if state.get("complete"):
        raise UsageError(
            f"{out} holds the results of a validation that is complete ({out / 'report.html'}): {_WAY_OUT}"
        )
    if {key: value for key, value in state.items() if key != "complete"} != json.loads(json.dumps(work.plain())):
        raise UsageError(
            f"{out} holds a validation of other scenarios, seeds or rules that is not complete: {_WAY_OUT}"
        )


def _for_people(record: logging.LogRecord) -> bool:
    """The console gets no line for each of hundreds of episodes; the log has them all."""
    text = record.getMessage()
    return not text.startswith("[CACHE") or "WARNING" in text or "Waiting for" in text


def _say(message: str) -> None:
    logs.LOGGER.info("[VALIDATION] %s", message)


def _carried(work: _Work) -> Report:
    request = work.request
    _say(f"Section {request.section}, {request.mode}: {work.section.title}. Results go to {request.out}")
    if request.mode == "quick":
        _say(QUICK)
    for plan, kind in work.plans:
        rule = rule_of(plan, kind)
        _say(f"Rule for {plan.name}, written before anything runs ({digest(rule)[:12]}): {describe(rule)}")
    trainer = Trainer(request.runs_dir, request.out / TRAININGS)
    with _stopping(trainer):
        _rehearse(work)
        agents = _agents(work, trainer)
        with playing(request.cache, request.jobs, request.out / LOG) as play_all:
            comparisons = [compare(plan, kind, agents[plan.name], _told(plan, play_all)) for plan, kind in work.plans]
        report = write_report(comparisons, _heading(work), request.out)
    for line in report.lines():
        _say(line)
    _say(f"Report: {report.page}")
    if report.refused:
        raise UntrustworthyComparison("\n".join(f"{name}: {why}" for name, why in report.refused.items()))
    write_json_durably(LocalBackend(request.out), STATE, {**work.plain(), "complete": True})
    return report


def _rehearse(work: _Work) -> None:
    """Play the first episode of every baseline: what is wrong with a policy or a metric shows before hours of training."""
    with playing(work.request.cache, 1, work.request.out / LOG) as play_all:
        for plan, kind in work.plans:
            names = dict.fromkeys((plan.part.baseline, *plan.part.others))
            play_all([(kind.baseline(name), plan.seeds[0]) for name in names])


def _told(plan: ScenarioPlan, play_all: PlayAll) -> PlayAll:
    def told(pairs: Any) -> Any:
        _say(f"{plan.name}: {len(pairs)} episodes on seeds {plan.seeds[0]} to {plan.seeds[-1]}")
        started = time.monotonic()
        results = list(play_all(pairs))
        _say(f"{plan.name}: played in {logs.human_seconds(time.monotonic() - started)}")
        return results

    return told


def _agents(work: _Work, trainer: Trainer) -> dict[str, list[Agent]]:
    """All agents, `jobs` trainings at a time."""
    request = work.request
    specs = [(plan.name, spec) for plan, _ in work.plans for spec in plan.specs()]
    found: dict[str, list[Agent]] = {plan.name: [] for plan, _ in work.plans}
    # decided before any training begins: two of them at a time must not choose the same run
    runs = run_names([spec for _, spec in specs], request.runs_dir)
    with ThreadPoolExecutor(max_workers=request.jobs) as pool:
        # who waits for another comparison's training must hear of a signal too
        cache = ResultCache(request.cache.folder, request.cache.limit_bytes, trainer.left)
        waiting = [
            (
                name,
                pool.submit(obtain, cache, spec, request.runs_dir, runs[spec.inputs.fingerprint], trainer.train),
            )
            for name, spec in specs
        ]
        try:
            for name, future in waiting:
                agent = future.result()
                found[name].append(agent)
                origin = "from the cache" if agent.from_cache else "trained"
                _say(f"{name}: agent of training {agent.spec.config.seed} is {origin}, key {agent.spec.inputs.short}")
        except BaseException:
            trainer.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return found


@contextlib.contextmanager
def _stopping(trainer: Trainer) -> Iterator[None]:
    """Turn signals into StoppedEarly, after the trainings have saved."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise StoppedEarly(f"stopped by {signal.Signals(number).name}; the same command continues")

    numbers = [signal.SIGINT, signal.SIGTERM]
    before: list[tuple[int, Callable[..., Any] | int | None]] = [(n, signal.signal(n, stop)) for n in numbers]
    try:
        yield
    except StoppedEarly:
        trainer.stop()
        raise
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _heading(work: _Work) -> Heading:
    request = work.request
    return Heading(
        section=request.section,
        title=work.section.title,
        question=work.section.description,
        mode=request.mode,
        command=request.command or f"unbroken validate --section {request.section} --mode {request.mode}",
        made=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}",
        versions=package_versions(),
    )
