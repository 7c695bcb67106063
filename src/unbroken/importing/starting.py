"""Choose the file that a run can go on from, and the configuration that goes with it. Nothing is made here.

Everything that the user has to decide is asked for at this point, with the words to say it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unbroken.compatibility import effective_changes, require_compatible
from unbroken.config import DEFAULT_TARGET, RunConfig, build_config, merged, usual_algorithm
from unbroken.errors import DamagedFile, UsageError
from unbroken.importing.found import NORMALISATION, REPLAY_BUFFER, Found, companions
from unbroken.importing.kinship import Kinship, Training, row_of
from unbroken.importing.pickled import SCHEDULES
from unbroken.importing.pytorch_file import read_pytorch_file
from unbroken.importing.sb3_zip import SB3Zip, read_sb3_zip, whole
from unbroken.importing.settings import Settings, settings_of
from unbroken.request import TrainRequest
from unbroken.store.checkpoint_file import read_manifest
from unbroken.store.durable import LocalBackend
from unbroken.trust import require_said

_UNCHANGED = "the run goes on from the checkpoint as it is: give its own values, or none"
_USABLE = ("sb3 zip", "weights", "unbroken checkpoint")
# hard to tell apart where the policy is a class of the user's
_FAMILIES = ({"ppo", "maskable_ppo", "recurrent_ppo"}, {"td3", "ddpg"})
FILES_ONLY = "--files-only takes the files in without a point to go on from"


@dataclass(frozen=True)
class Start:
    """Where a run begins: the file, its configuration, the steps done, the target, and what is to be said about it.

    `exact` is a checkpoint of ours, which is forked and loses nothing.
    """

    found: Found
    config: RunConfig
    step: int
    target: int
    exact: bool = False
    concluded: tuple[str, ...] = ()
    begins_anew: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


@dataclass
class Choice:
    """What came of looking for a start: one, or the reason why there is none."""

    found: Found | None = None
    reason: str = ""
    notes: list[str] = field(default_factory=list)


def choose(files: Sequence[Found], wanted: str | None) -> Choice:
    """The newest numbered checkpoint, or the one file that can be used. Raises UsageError for a choice that is the user's."""
    if wanted is not None:
        return Choice(_named(files, wanted))
    usable = [found for found in files if _is_usable(found)]
    trainings: dict[Training, list[Found]] = {}
    for found in usable:
        row = row_of(found)
        if row is not None:
            trainings.setdefault(row, []).append(found)
    if len(trainings) > 1:
        named = [max(group, key=_steps).path for group in trainings.values()]
        raise UsageError(
            f"there are {len(trainings)} trainings in it: choose with --start which one the run goes on from "
            f"({' or '.join(named[:6])}{' ...' if len(named) > 6 else ''}); {FILES_ONLY}"
        )
    candidates = next(iter(trainings.values()), usable)
    if not candidates:
        return Choice(reason="no file in it holds weights that can be used")
    newest = max(candidates, key=_steps)
    return Choice(newest, notes=[_further(found) for found in usable if _steps(found) > _steps(newest)])


def plan(root: Path, files: Sequence[Found], found: Found, request: TrainRequest) -> Start:
    """The start from a file. Raises UsageError, ConfigurationError or DamagedFile, with what to say."""
    if found.kind == "unbroken checkpoint":
        return _of_ours(root, found, request)
    if "target" not in request.values:
        raise UsageError(
            f"{found.path} does not say on which environment it was trained: give --target ENV; {FILES_ONLY}"
        )
    return _of_weights(root, found, request) if found.kind == "weights" else _of_sb3(root, files, found, request)


def _is_usable(found: Found) -> bool:
    return found.kind in _USABLE and found.problem is None and "training state" not in found.missing


def _steps(found: Found) -> int:
    return -1 if found.steps is None else found.steps


def _further(found: Found) -> str:
    return f"{found.path} has more steps ({found.steps:,}) than the newest numbered checkpoint: --start {found.path} begins there"


def _named(files: Sequence[Found], wanted: str) -> Found:
    path = wanted.replace("\\", "/").removeprefix("./")
    matches = [found for found in files if path in (found.path, found.name)]
    if len(matches) != 1:
        raise UsageError(f"--start {wanted}: {len(matches)} files of that name are in it; give one by its path in it")
    if not _is_usable(matches[0]):
        reason = matches[0].problem or f"it is {matches[0].says}, and holds nothing to go on from"
        raise UsageError(f"--start {wanted}: {reason}")
    return matches[0]


def _of_ours(root: Path, found: Found, request: TrainRequest) -> Start:
    manifest = read_manifest(LocalBackend(root), found.path)
    before = manifest.get("config")
    if not isinstance(before, dict) or before.get("target") in (None, "script") or before.get("algo") == "own loop":
        raise UsageError(
            f"{found.path} belongs to a script of your own; put it where the script saves, and run that again; {FILES_ONLY}"
        )
    require_said(before, found.path, request.values)
    config = build_config(merged(before, request.values))
    require_compatible(effective_changes(before, config.plain()), str(manifest.get("run")), _UNCHANGED)
    return Start(found, config, int(manifest["step"]), config.total_timesteps, exact=True)


def _of_sb3(root: Path, files: Sequence[Found], found: Found, request: TrainRequest) -> Start:
    file = read_sb3_zip(root / found.path)
    settings = settings_of(file, _algorithm(found, request))
    _require_given(found, settings, request.values)
    _require_believed(found, settings, request.values)
    require_said(settings.values, found.path, request.values)
    step = found.steps or 0
    target = _target(request, max(whole(file.data.get("_total_timesteps")) or 0, DEFAULT_TARGET))
    beside = _companions(files, found)
    values = merged(settings.values, request.values)
    _require_normalisation(found, beside.get("vecnormalize"), values)
    anew, advice = _begins_anew(found, beside, values, step)
    # the run's first cut is captured on the way to a target
    config = build_config({**values, "total_timesteps": max(target, step + 1)})
    concluded = [*settings.concluded, *_seed_concluded(file, config, request.values)]
    return Start(found, config, step, target, False, tuple(concluded), anew, advice)


def _target(request: TrainRequest, usual: int) -> int:
    said = {key: value for key, value in request.values.items() if key == "total_timesteps"}
    return build_config({"target": "-", "total_timesteps": usual, **said}).total_timesteps


def _seed_concluded(file: SB3Zip, config: RunConfig, said: Mapping[str, Any]) -> list[str]:
    before = whole(file.data.get("seed"))
    if "seed" in said or before is None:
        return []
    return [
        f"seed = {config.seed}, for generators that begin anew from the file's own ({before}) would repeat its opening"
    ]


def _algorithm(found: Found, request: TrainRequest) -> str:
    said = request.values.get("algo")
    if said is None and found.algorithm is None:
        raise UsageError(f"{found.path} does not show by which algorithm it was trained: give --algo; {FILES_ONLY}")
    algorithm = str(build_config({"target": "-", "algo": said or found.algorithm}).algo)
    alike = next((family for family in _FAMILIES if found.algorithm in family), {found.algorithm})
    if algorithm == "ppo_torch" or (found.algorithm is not None and algorithm not in alike):
        raise UsageError(
            f"{found.path} was not trained by {algorithm}: it is of {found.algorithm or 'Stable-Baselines3'}"
        )
    return algorithm


def _require_given(found: Found, settings: Settings, said: Mapping[str, Any]) -> None:
    lacking = {place: text for place, text in settings.pickled.items() if not _is_said(place, said)}
    if lacking:
        named = ", ".join(f"{place} ({text})" for place, text in lacking.items())
        raise UsageError(
            f"{found.path} holds as pickles, which are not loaded: {named}; give each with --set KEY=VALUE; {FILES_ONLY}"
        )


def _require_believed(found: Found, settings: Settings, said: Mapping[str, Any]) -> None:
    for place, text in settings.doubted.items():
        if not _is_said(place, said):
            raise UsageError(
                f"{found.path} says {place} = {text}, which is not believed: give it with --set {place}=VALUE; {FILES_ONLY}"
            )


def _is_said(place: str, said: Mapping[str, Any]) -> bool:
    inner: Any = said
    for part in place.split("."):
        if not isinstance(inner, Mapping) or part not in inner:
            return False
        inner = inner[part]
    return True


def _companions(files: Sequence[Found], found: Found) -> dict[str, Found]:
    """The pickles that go with a checkpoint, by its name or else any that can: one normalisation is often kept for all of them."""
    named, kinship = companions(found.name), Kinship(files, found)
    here = [other for other in files if other.folder == found.folder]
    match = {what: next((other for other in here if other.name == name), None) for what, name in named.items()}
    if not named:
        match["replay_buffer"] = next((other for other in here if other.says == REPLAY_BUFFER), None)
    if match.get("vecnormalize") is None:
        around = [other for other in files if other.says == NORMALISATION and kinship.may_have(other.folder)]
        match["vecnormalize"] = next(iter(sorted(around, key=lambda other: other.folder != found.folder)), None)
    return {what: other for what, other in match.items() if other is not None}


def _require_normalisation(found: Found, statistics: Found | None, values: Mapping[str, Any]) -> None:
    if statistics is not None and "normalize" not in (values.get("environment") or {}):
        raise UsageError(
            f"{found.path} was trained with VecNormalize, as a pickle of its statistics shows ({statistics.path}: not loaded): "
            f"say --set environment.normalize={{}} to begin them anew, or --set environment.normalize=null to do without; "
            f"{FILES_ONLY}"
        )


def _begins_anew(
    found: Found, beside: Mapping[str, Found], values: Mapping[str, Any], step: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    given = {"replay buffer", *(f"{name} (a pickle)" for name in SCHEDULES)}
    anew, advice = [what for what in found.missing if what not in given], []
    if "replay buffer" in found.missing:
        why = (
            f"{beside['replay_buffer'].name} is a pickle, not loaded" if "replay_buffer" in beside else "not in the zip"
        )
        anew.append(f"replay buffer ({why})")
        starts = whole(values["hyperparameters"].get("learning_starts")) or 100
        advice.append(
            "updates begin with the first rows of the empty replay buffer; "
            f"--set hyperparameters.learning_starts={step + starts} gathers {starts:,} steps of random actions first"
        )
    if "vecnormalize" in beside:
        anew.append(f"normalisation statistics ({beside['vecnormalize'].name} is a pickle, not loaded)")
    return (*anew, "callbacks' state", "curves"), tuple(advice)


def _of_weights(root: Path, found: Found, request: TrainRequest) -> Start:
    file = read_pytorch_file(root / found.path)
    sizes = file.net_arch
    if sizes is None:
        raise DamagedFile(f"{found.path}: its actor does not consist of linear layers alone, as that of ppo-torch does")
    algorithm = usual_algorithm(request.values.get("algo", "ppo_torch"))
    if algorithm != "ppo_torch":
        raise UsageError(
            f"{found.path} holds weights of a hand-written trainer, which only ppo-torch can go on with, not {algorithm}"
        )
    step = found.steps or 0
    target = _target(request, DEFAULT_TARGET)
    base = {"algo": algorithm, "hyperparameters": {"net_arch": sizes}}
    config = build_config({**merged(base, request.values), "total_timesteps": max(target, step + 1)})
    concluded = (f"net_arch = {sizes}", "tanh between the layers, which a file of weights does not tell")
    advice = ("hyper-parameters are not in such a file: those not given with --set are the defaults of ppo-torch",)
    return Start(found, config, step, target, False, concluded, (*found.missing, "curves"), advice)
