"""That what ran is what its key says: a comparison takes digests of code once, and other processes import it later."""

from __future__ import annotations

from collections.abc import Mapping

from unbroken.cache.sources import changed_module
from unbroken.errors import UntrustworthyComparison


def require_unchanged(sources: Mapping[str, str], now: Mapping[str, str] | None = None) -> None:
    """Raise UntrustworthyComparison if a file is another one than when the comparison began: nothing is kept under its key.

    `now` are digests taken again of those that are no modules, such as a scenario's file; what was not there before is none.
    """
    other = (name for name, digest in (now or {}).items() if sources.get(name, digest) != digest)
    changed = changed_module(sources) or next(other, None)
    if changed is not None:
        raise UntrustworthyComparison(
            f"{changed} was changed while the comparison ran, so that what ran is neither the old nor surely the new.\n"
            "  Way out: the same command again, with the file as it shall be; what the environment itself writes must be named "
            "elsewhere than in its arguments."
        )
