"""A checkpoint's manifest is data from anywhere: what it names as code counts only if the user says it too.

What is named is judged by its place and not by its form: every callback, every wrapper, every hyper-parameter `…_class`, and
every target or hyper-parameter with a colon names code. Registered Gymnasium ids and plain values need nobody's word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from unbroken.errors import UsageError


def code_named(config: Mapping[str, Any]) -> dict[str, str]:
    """Every value of a configuration that names code, by its dotted place."""
    places = {key: config.get(key) for key in ("target", "callbacks", "policy", "hyperparameters")}
    places["environment.wrappers"] = _wrapper_classes(config.get("environment"))
    found = {place: text for key, value in places.items() for place, text in _texts(value, key)}
    return {place: text for place, text in found.items() if _is_code(place, text)}


def _is_code(place: str, text: str) -> bool:
    return place.startswith(("callbacks", "environment.wrappers")) or place.endswith("_class") or ":" in text


def require_said(config: Mapping[str, Any], source: str, *said: Mapping[str, Any]) -> None:
    """Raise UsageError if `config`, read from `source`, names code that none of the `said` configurations names there."""
    known = [code_named(words) for words in said]
    for place, text in code_named(config).items():
        if not any(words.get(place) == text for words in known):
            raise UsageError(
                f"{source} names code to run ({place}: {text}); a file cannot do that by itself: if you know it, "
                f"say it as well ({_how(place, text)})"
            )


def _wrapper_classes(environment: Any) -> list[Any]:
    """Wrappers without their arguments, which are plain values."""
    wrappers = environment.get("wrappers") if isinstance(environment, Mapping) else None
    listed = wrappers if isinstance(wrappers, list | tuple) else [wrappers]
    return [item.get("class") if isinstance(item, Mapping) else item for item in listed]


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for k, item in enumerate(value):
            yield from _texts(item, f"{place}.{k}")


def _how(place: str, text: str) -> str:
    if place == "target":
        return f"unbroken train {text} ..."
    key, _, number = place.rpartition(".")
    return f"--set {key}=[{text}]" if number.isdigit() else f"--set {place}={text}"
