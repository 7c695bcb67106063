"""Sections: which scenarios are compared, on which seeds, by which rule. Read from YAML, the package's or the user's own."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unbroken.config import check_name
from unbroken.errors import ConfigurationError, NotFound, UsageError
from unbroken.fingerprint import traffic_scenario
from unbroken.validation.results import Mode, Rule

QUICK_TIMESTEPS = 5_000
_Count = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CountsPart(_Part):
    """A number for each mode."""

    quick: _Count
    full: _Count

    def of(self, mode: Mode) -> int:
        return self.quick if mode == "quick" else self.full


class SeedsPart(CountsPart):
    """Seeds of demand: `first` and as many as the mode has."""

    first: int = Field(default=2000, ge=0)


class HorizonPart(_Part):
    """How long an arm is judged: s for our traffic scenarios, decisions for other environments."""

    quick: Annotated[float, Field(gt=0)]
    full: Annotated[float, Field(gt=0)]

    def of(self, mode: Mode) -> float:
        return self.quick if mode == "quick" else self.full


class ScenarioPart(_Part):
    """One comparison. `agent` holds keys of a run's configuration (algo, hyperparameters, environment, total_timesteps, …).

    `baseline` and `others`: names of our controllers, or for other environments `random`, `constant:VALUE` or `module:policy`.
    `metric`: a name of ours (`total_delay`, …), or `return`, `length`, `info:KEY` (last value), or `module:function`.
    """

    environment: Annotated[str, Field(min_length=1)]
    kwargs: dict[str, Any] = {}
    baseline: str
    others: list[str] = []
    metric: str = "return"
    unit: str = ""
    better: Literal["lower", "higher"] | None = None
    target_percent: float
    interval_above_percent: float = 0.0
    least_trainings: _Count = 3
    least_seeds: _Count = 10
    horizon: HorizonPart
    drain: Annotated[float, Field(ge=0)] | None = None
    agent: dict[str, Any] = {}
    model: Literal["best", "final"] = "best"
    quick_timesteps: _Count = QUICK_TIMESTEPS

    @property
    def traffic(self) -> str | None:
        """The scenario of ours that this is; None for any other environment."""
        return traffic_scenario(self.environment)

    def rule(self) -> Rule:
        """The verdict's rule."""
        return Rule(
            self.baseline, self.target_percent, self.interval_above_percent, self.least_trainings, self.least_seeds
        )


class Section(_Part):
    """Comparisons that are made and reported together."""

    title: str
    description: str = ""
    seeds: SeedsPart
    trainings: CountsPart = CountsPart(quick=1, full=5)
    scenarios: Annotated[dict[str, ScenarioPart], Field(min_length=1)]


def load_sections(path: Path | None = None) -> dict[str, Section]:
    """Sections by name: the package's, and over them those of a file. Raises NotFound and ConfigurationError."""
    own = (resources.files("unbroken.validation") / "sections.yaml").read_text(encoding="utf-8")
    sections = _parsed(own, "sections.yaml")
    return sections if path is None else sections | _of_file(path)


def default_section(path: Path | None) -> str:
    """The section that is meant where none is named: the only one of the user's file, else 7.6. Raises as `load_sections`."""
    if path is None:
        return "7.6"
    own = _of_file(path)
    if len(own) != 1:
        raise UsageError(f"name a section of {path} with --section: {', '.join(own) or 'it has none'}")
    return next(iter(own))


def chosen_section(sections: dict[str, Section], name: str, scenarios: list[str]) -> Section:
    """A section with the scenarios that were asked for, all of them where none was. Raises UsageError with the nearest name."""
    if name not in sections:
        raise UsageError(f"there is no section {name!r}{_near(name, sections)}")
    section = sections[name]
    for scenario in scenarios:
        if scenario not in section.scenarios:
            raise UsageError(f"section {name} has no scenario {scenario!r}{_near(scenario, section.scenarios)}")
    kept = {key: part for key, part in section.scenarios.items() if not scenarios or key in scenarios}
    return section.model_copy(update={"scenarios": kept})


def _of_file(path: Path) -> dict[str, Section]:
    try:
        return _parsed(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise NotFound(f"there is no file of sections {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else f" (there are: {', '.join(known)})"


def _parsed(text: str, label: str) -> dict[str, Section]:
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{label} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, dict) for value in loaded.values()):
        raise ConfigurationError(f'{label}: sections are written as "name": {{title: …, seeds: …, scenarios: …}}')
    found = {}
    for name, content in loaded.items():
        try:
            found[check_name(str(name), "section")] = Section.model_validate(content)
        except ValidationError as error:
            raise ConfigurationError("\n".join(f"{label}: {name}.{_explained(e)}" for e in error.errors())) from None
    return found


def _explained(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = [*Section.model_fields, *ScenarioPart.model_fields]
        return f"{place}: unknown key{_near(str(item['loc'][-1]), known)}"
    return f"{place}: {item['msg'][:1].lower()}{item['msg'][1:]}"
