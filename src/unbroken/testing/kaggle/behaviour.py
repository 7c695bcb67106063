"""How the stand-in behaves: lasting traits, and faults for the next calls of a route."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from threading import Lock

ANY = "*"


@dataclass
class Behaviour:
    """Traits of the service; each may be changed while it runs.

    `hidden_seconds` pass until anything is seen of a new version, then `processing_seconds` until it is ready; with `math.inf`
    that takes `KaggleService.finish_processing`. Its files are listed and sent `lag_seconds` after that.
    `announces_early` gives a version's number while it is still being processed. `mends_failures` is whether a dataset takes a
    version after its first one could not be processed. `missing_status` is what calls about a dataset
    that does not exist get: 404, or 403 as for one that is private to somebody else. `page_limit` bounds the pages of listings.
    `zips_files` is when a single file is sent inside a zip: "never", "unless raw", or "always". `serves_ranges` is whether parts
    of a file can be asked for. `lists_packed_sizes` reports sizes that are not those of the files.
    """

    hidden_seconds: float = 0.0
    processing_seconds: float = 0.0
    lag_seconds: float = 0.0
    mends_failures: bool = False
    announces_early: bool = False
    missing_status: int = 404
    page_limit: int = 200
    zips_files: str = "unless raw"
    serves_ranges: bool = True
    lists_packed_sizes: bool = False


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one call. `executed` faults happen after the call took effect, the others instead of it.

    `status` answers with this error; with `page` as an HTML page, which may also have status 200. `error` is reported inside an
    answer with status 200. `request_bytes` and `answer_bytes` are how many bytes of a body pass until the connection breaks or,
    with `hangs`, nothing more comes; `hangs` alone never answers, `delay` after so many s. `damages` flips a bit of the answer.
    `retry_after` is what the answer asks the client to wait, in s.
    """

    status: int = 0
    page: bool = False
    executed: bool = False
    hangs: bool = False
    delay: float = 0.0
    error: str = ""
    request_bytes: int | None = None
    answer_bytes: int | None = None
    damages: bool = False
    retry_after: float | None = None

    @property
    def replaces(self) -> bool:
        """Whether the call takes no effect."""
        return not self.executed and bool(self.status or self.hangs or self.error)


class Faults:
    """Faults in the order in which they come up, by route; safe to use from threads."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._lock = Lock()

    def add(self, route: str, fault: Fault, times: int) -> None:
        """Let the next `times` calls of `route` go wrong; `ANY` stands for every route."""
        with self._lock:
            self._waiting[route].extend([fault] * times)

    def take(self, route: str) -> Fault | None:
        """The fault of the call that is coming in."""
        with self._lock:
            for name in (route, ANY):
                if self._waiting[name]:
                    return self._waiting[name].popleft()
        return None

    def clear(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._waiting.clear()

    @property
    def left(self) -> dict[str, int]:
        """How many faults nobody has met yet, by route."""
        with self._lock:
            return {route: len(faults) for route, faults in self._waiting.items() if faults}
