"""What object stores and the way to them say, as one line of ours with the way out and without secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass

from unbroken.errors import RemoteError, RemoteRefused, RemoteUnreachable
from unbroken.remotes.addresses import without_secrets


@dataclass(frozen=True)
class Service:
    """A kind of object store: what its environment variables begin with, which of them are credentials, how a place is named."""

    prefix: str
    credentials: str
    form: str


_AWS = Service("AWS", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", "BUCKET/PREFIX")
_GOOGLE = Service("GOOGLE", "GOOGLE_APPLICATION_CREDENTIALS", "BUCKET/PREFIX")
_AZURE = Service("AZURE", "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY", "CONTAINER/PREFIX")
_AZURE_HOST = Service("AZURE", _AZURE.credentials, "CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX")
SERVICES = {
    "s3": _AWS,
    "s3a": _AWS,
    "gs": _GOOGLE,
    "az": _AZURE,
    "azure": _AZURE,
    "adl": _AZURE,
    "abfs": _AZURE_HOST,
    "abfss": _AZURE_HOST,
}
"""By the scheme of the address."""

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([^<]+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]+)</Message>|\"message\": *\"([^\"]+)\"")
_ASKED = re.compile(r"Error performing [A-Z]+ (?P<host>https?://[^/\s]+)\S* in (?P<time>[0-9.]+)(?P<unit>\w*s)")
_NO_CREDENTIALS = re.compile(
    r"Missing ?(AccessKeyId|SecretAccessKey|Account)|Account must be specified"
    # what only machines of the provider have, asked as the last resort
    r"|/latest/(api/token|meta-data)|//169\.254\.170\.|computeMetadata/|/metadata/identity"
)
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")
_NETWORK = re.compile(
    r"HTTP error|kind: (Timeout|Connect|Request|Body|Decode|Interrupted)\b|TimedOut|IncompleteMessage"
)
_CAUSES = {
    "ConnectionRefused": "connection refused",
    "dns error": "unknown host",
    "InvalidContentType": "no TLS spoken there: http instead of https?",
    "certificate": "its certificate is not trusted",
    "NetworkUnreachable": "no network",
}


@dataclass(frozen=True)
class Explainer:
    """Turns errors of obstore at `url` into ours; `timeout` in s."""

    url: str
    service: Service
    timeout: float

    def explain(self, error: Exception) -> RemoteError:
        """The error to raise instead; nothing of `error` itself is shown but codes and messages of the service."""
        text = str(error)
        status = _STATUS.search(text)
        if _NO_CREDENTIALS.search(text):
            return RemoteRefused(f"{self.url} wants credentials and there are none: set {self.service.credentials}")
        if status is not None:
            return self._answered(int(status[1]), text)
        if "redirect without LOCATION" in text:
            return self._elsewhere("redirected")
        if "BadScheme" in text:
            variable = f"{self.service.prefix}_ALLOW_HTTP"
            return RemoteError(
                f"{self.url} has an endpoint without TLS: use https, or set {variable}=true to allow http"
            )
        if _NETWORK.search(text):
            return self._unanswered(text)
        return RemoteError(f"{self.url} fails: {_first_line(text)}")

    def _answered(self, status: int, text: str) -> RemoteError:
        said = _said(status, text)
        if is_missing_bucket(text):
            return RemoteError(f"{self.url}: there is no such bucket; make it there or correct the name")
        if status in (400, 403) and "Skewed" in text:
            return RemoteRefused(f"{self.url} refuses the time of this machine ({said}): set its clock")
        if status == 400 and re.search(r"[Rr]egion|AuthorizationHeaderMalformed", text):
            return self._elsewhere(said)
        if status == 400 and "ExpiredToken" in text:
            return RemoteRefused(f"{self.url}: the credentials have expired ({said}): get new ones")
        if status == 400:
            causes = f"{self.service.prefix}_REGION, expired credentials, or this machine's clock"
            return RemoteError(f"{self.url} fails ({said}): often that is a wrong {causes}")
        if status in (429, 500, 502, 503, 504):
            return RemoteError(f"{self.url} is busy or out of order ({said}): run the same command again later")
        if status == 501:
            return RemoteError(
                f"{self.url} cannot keep two machines apart that write the same name ({said}): use another remote"
            )
        if status in (401, 403):
            hint = f"check {self.service.credentials}, and what they allow"
            return RemoteRefused(f"{self.url} refuses these credentials, or forbids this to them ({said}): {hint}")
        if status in (301, 307, 308):
            return self._elsewhere(said)
        return RemoteError(f"{self.url} fails ({said})")

    def _elsewhere(self, said: str) -> RemoteError:
        variable = f"{self.service.prefix}_REGION"
        return RemoteError(f"{self.url} is in another region: set {variable} to that of the bucket ({said})")

    def _unanswered(self, text: str) -> RemoteError:
        asked = _ASKED.search(text)
        place = f" at {without_secrets(asked['host'])}" if asked else ""
        took = float(asked["time"]) if asked and asked["unit"] == "s" else 0.0
        # an upload is given longer
        within = round(took) if took > self.timeout + 1 else self.timeout
        # a cause is told at once, without waiting
        why = next((f" ({cause})" for sign, cause in _CAUSES.items() if sign in text), f" within {within:g} s")
        return RemoteUnreachable(f"{self.url}: no answer{place}{why}. Is this machine online?")


def is_missing_bucket(text: str) -> bool:
    """Whether an error's text says that the place of the objects, not an object, is missing."""
    return _NO_BUCKET.search(text) is not None


def _said(status: int, text: str) -> str:
    code, message = _CODE.search(text), _MESSAGE.search(text)
    words = [f"status {status}"]
    words += [code[1]] if code else []
    words += [" ".join((message[1] or message[2]).split())[:200]] if message else []
    return ", ".join(words)


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return re.sub(r"https?://\S+", lambda match: without_secrets(match[0]), line)[:300]
