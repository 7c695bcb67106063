"""A session with Kaggle over its own client library: calls are bounded in time, tried again where it helps, and fail in one line.

The library (`kagglesdk`) is what the `kaggle` package makes all its calls with. The package itself is not imported: it asks
the network and may exit the process at import, prints, uploads without a time-out, and saves error pages as files.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from unbroken.errors import RemoteError, RemoteRefused, RemoteUnreachable
from unbroken.remotes.kaggle.credentials import WAY_OUT, Credentials, find_credentials, login, sdk

T = TypeVar("T")

_PASSING = {408, 425, 429, 500, 502, 503, 504}
_MESSAGE = 200


@dataclass(frozen=True)
class Pace:
    """How patient a session is; times in s.

    A call is tried `attempts` times, after pauses that begin with `backoff`, double, and never exceed `longest`; so do the
    looks at a version that is being processed, for at most `processing`.
    """

    attempts: int = 5
    backoff: float = 0.5
    longest: float = 20.0
    processing: float = 1800.0

    def pause(self, failures: int) -> float:
        """After so many failures, at least one; up to a quarter longer by chance, so that machines do not march in step."""
        return float(min(self.longest, self.backoff * 2 ** (failures - 1)) * (1 + random.random() / 4))


class Answered(RemoteError):
    """The service answered with the HTTP status `status` and, perhaps, the words `said`; 0 for a connection that broke off."""

    def __init__(self, message: str, status: int, said: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.said = said


class Forbidden(RemoteRefused):
    """The service answered with status 403: forbidden, or not there and not to be known."""


class NotUnderstood(RemoteError):
    """The answer is not one of the service."""


class Session:
    """A context manager; one session belongs to one thread. `place` is what messages begin with.

    Each call raises RemoteUnreachable after `timeout` s without a byte, or at once if there is no connection, RemoteRefused for
    credentials that are missing or not accepted, and RemoteError for the rest.
    """

    def __init__(self, place: str, timeout: float, pace: Pace) -> None:
        self.place = place
        self.timeout = timeout
        self.pace = pace
        self.credentials = Credentials()

    def __enter__(self) -> Self:
        self.credentials = find_credentials()
        self._open()
        try:
            if not self.credentials:
                self._open_with_login()
        except BaseException:
            self._client.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._client.__exit__(None, None, None)
        self.plain.close()

    def call(self, action: Callable[[Any], T], *, again: bool = True) -> T:
        """What `action` makes of the client library's client.

        With `again`, what may pass by itself is tried again; without, only a refusal for too many calls is, which did nothing.
        """
        import requests

        failures = 0
        while True:
            try:
                return action(self._client)
            except (requests.RequestException, LookupError, ValueError, TypeError, AttributeError) as error:
                failure = self.failure(error)
                response = getattr(error, "response", None)
                passing = _passes(failure) if again else _status(failure) == 429
            failures += 1
            if not passing or failures >= self.pace.attempts:
                raise failure from None
            self.pause(failures, response)

    @contextlib.contextmanager
    def asking_for(self, first: int, last: int) -> Iterator[None]:
        """Within it, files are asked for from byte `first` to byte `last` only; the storage may send them whole all the same."""
        headers = self._client.http_client()._session.headers
        headers["Range"] = f"bytes={first}-{last}"
        try:
            yield
        finally:
            del headers["Range"]

    def pause(self, failures: int, response: Any = None) -> None:
        """Wait before the next try; as long as the service asks for, within bounds."""
        asked = str(response.headers.get("Retry-After", "")) if response is not None else ""
        seconds = min(float(asked), self.pace.longest) if asked.isdecimal() else self.pace.pause(failures)
        time.sleep(seconds)

    def failure(self, error: Exception) -> RemoteError:
        """The error to raise for one of the client's; never with the address, which may be signed."""
        import requests
        import urllib3

        if isinstance(error, requests.HTTPError) and error.response is not None:
            return self.refusal(error.response)
        silence = TimeoutError | urllib3.exceptions.ReadTimeoutError
        if isinstance(error, requests.ReadTimeout) or isinstance(_cause(error), silence):
            return self.unreachable()
        if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
            return self._lost_connection(error)
        return NotUnderstood(
            f"{self.place}: the answer is not one of Kaggle ({type(error).__name__}): is there a proxy or a login page in between?"
        )

    def unreachable(self) -> RemoteUnreachable:
        """The error for silence."""
        what = f"{self.place}: Kaggle does not answer within {self.timeout:g} s"
        return RemoteUnreachable(f"{what}: check the network, then run the same command again")

    def refusal(self, response: Any) -> RemoteError:
        """The error for an answer with an error status."""
        status, message = _said(response)
        message = self.credentials.hidden_in(message)
        said = f" ({message})" if message else ""
        if status == 401:
            return RemoteRefused(f"{self.place}: Kaggle does not accept the credentials{said}: {WAY_OUT}")
        if status == 403:
            owner = "the dataset must belong to you or be shared with you, and the token must allow it"
            return Forbidden(f"{self.place}: Kaggle forbids it{said}: {owner}")
        later = ": run the same command again later" if status in _PASSING else ""
        return Answered(f"{self.place}: Kaggle answers with status {status}{said}{later}", status, message)

    def _lost_connection(self, error: Exception) -> RemoteError:
        if _was_connected(error):
            message = "the connection to Kaggle keeps breaking off: run the same command again, it goes on from there"
            return Answered(f"{self.place}: {message}", 0)
        what = f"{self.place}: no connection to Kaggle (time-out {self.timeout:g} s)"
        return RemoteUnreachable(f"{what}: check the network, then run the same command again")

    def _open(self) -> None:
        import requests

        found = self.credentials
        options = {"username": found.user or None, "password": found.key or None, "api_token": found.token or None}
        self._client = sdk("kaggle_client").KaggleClient(user_agent="unbroken", **options)
        try:
            self._client.__enter__()
        except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
            # it reads kaggle.json as well, and trusts what is in there
            reason = type(error).__name__
            raise RemoteRefused(f"{self.place}: the credentials cannot be read ({reason}): {WAY_OUT}") from None
        http = self._client.http_client()._session
        http.send = functools.partial(http.send, timeout=self.timeout)
        # a packed answer cannot be gone on with, and its length says nothing
        http.headers["Accept-Encoding"] = "identity"
        self.plain = requests.Session()

    def _open_with_login(self) -> None:
        self.credentials = self.call(login)
        if not self.credentials:
            raise RemoteRefused(f"{self.place}: there are no credentials for Kaggle: {WAY_OUT}")
        self.__exit__(None, None, None)
        self._open()


def _passes(failure: RemoteError) -> bool:
    return isinstance(failure, NotUnderstood) or _status(failure) in {0, *_PASSING}


def _status(failure: RemoteError) -> int:
    return failure.status if isinstance(failure, Answered) else -1


def _cause(error: Exception) -> object:
    """What an error of requests is about, inside the errors of urllib3; with a proxy, it is one layer deeper."""
    cause: object = error.args[0] if error.args else error
    cause = getattr(cause, "reason", cause)
    return getattr(cause, "original_error", cause)


def _was_connected(error: Exception) -> bool:
    """Whether a connection broke, as opposed to none being made."""
    import urllib3

    broken = ConnectionResetError | BrokenPipeError | ConnectionAbortedError | http.client.HTTPException
    return isinstance(_cause(error), broken | urllib3.exceptions.ProtocolError)


def _said(response: Any) -> tuple[int, str]:
    """The status and the service's own words, as one short line."""
    status, message = int(response.status_code), ""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        content = response.json()
        status, message = int(content.get("code") or status), str(content.get("message") or "")
    return status, " ".join(message.split())[:_MESSAGE].rstrip(" .:")
