"""One question to a language model behind an OpenAI-compatible endpoint, with the standard library alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException, InvalidURL
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from conceptlens.io.errors import InputError

# Statuses after which asking again may help; 529 is "overloaded".
LATER = (408, 409, 425, 429, 500, 502, 503, 504, 529)


@dataclass(frozen=True)
class Patience:
    """How long to wait for one answer, how often to ask, and the pause before the second time, doubled each time.

    In seconds. `longest` bounds a pause, also one that the server asks for.
    """

    timeout: float = 60.0
    tries: int = 5
    pause: float = 1.0
    longest: float = 60.0


class _LaterError(Exception):
    """The server may answer if asked again, after so many seconds if it said."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class _NoRedirect(HTTPRedirectHandler):
    """Follows no redirect: the key would go along to wherever it leads."""

    def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str) -> None:
        """Leave the answer as it is, an error."""


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, with the key; both checked."""

    address: str
    key: str | None = field(repr=False)
    key_from: str | None
    patience: Patience

    @staticmethod
    def at(url: str, key_from: str | None, patience: Patience) -> Endpoint:
        """Return the endpoint of a base or whole address, its key read from the environment."""
        try:
            parts = urlsplit(url)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise InputError(f"{url!r} is no address of a language model; expected http://HOST:PORT/v1 or https://...")
        path = parts.path.rstrip("/")
        if not path.endswith("/chat/completions"):
            path = f"{path or '/v1'}/chat/completions"
        key = None if key_from is None else os.environ.get(key_from, "").strip()
        if key_from is not None and not (key and key.isascii() and key.isprintable()):
            raise InputError(
                f"the environment variable {key_from} holds no key; set it, or name another (key_from), or none for "
                "a server that wants no key"
            )
        if patience.tries < 1 or not patience.timeout > 0:
            raise InputError(f"{patience} asks never; give at least one try and a timeout above 0")
        return Endpoint(urlunsplit(parts._replace(path=path)), key, key_from, patience)

    @property
    def place(self) -> str:
        """The address without its query, for sentences."""
        return self.address.partition("?")[0]

    def ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the server's reply as JSON, asking again while it may help."""
        reason = ""
        for attempt in range(self.patience.tries):
            try:
                return self._post(body)
            except _LaterError as later:
                reason = str(later)
                pause = max(later.pause, self.patience.pause * 2**attempt)
            if attempt + 1 < self.patience.tries:
                time.sleep(min(pause, self.patience.longest))
        raise InputError(
            f"{self.place} gave no answer, asked {self.patience.tries} times ({reason}); run it again later: what was "
            "answered is kept"
        )

    def _post(self, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "conceptlens"}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        request = Request(self.address, json.dumps(body).encode(), headers, method="POST")
        try:
            with build_opener(_NoRedirect).open(request, timeout=self.patience.timeout) as reply:
                content = reply.read()
        except HTTPError as error:
            with error:
                raise self._refusal(error) from None
        except InvalidURL as error:
            raise InputError(f"{self.place} is no address ({error}); expected http://HOST:PORT/v1") from None
        except (URLError, OSError, HTTPException) as error:
            raise self._silence(error.reason if isinstance(error, URLError) else error) from None
        try:
            found = json.loads(content)
        except ValueError:
            raise InputError(f"{self.place} answers {self._told(content)!r}, not JSON; check the address") from None
        if not isinstance(found, dict):
            raise InputError(f"{self.place} answers {self._told(content)!r}; expected a JSON object; check the address")
        return found

    def _silence(self, reason: object) -> Exception:
        """Return what a connection that gave no whole answer means: one that was never made is not made later."""
        broke = isinstance(reason, (TimeoutError, ConnectionError, HTTPException))
        if broke and not isinstance(reason, ConnectionRefusedError):
            return _LaterError(f"{type(reason).__name__}: {reason}")
        return InputError(f"{self.place} cannot be reached ({reason}); start the server, or give its address")

    def _refusal(self, error: HTTPError) -> Exception:
        """Return what a status outside 200 to 299 means."""
        try:
            told = self._told(error.read())
        except (OSError, HTTPException):
            told = ""
        said = f"{error.code} {told}".strip()
        if error.code in LATER:
            wait = error.headers.get("Retry-After", "")
            return _LaterError(said, float(wait) if wait.strip().isdigit() else 0.0)
        if error.code in (401, 403):
            whose = f"the key in {self.key_from}" if self.key else "a request without a key"
            return InputError(f"{self.place} refuses {whose} ({said}); give a key that is valid there")
        if 300 <= error.code < 400:
            where = error.headers.get("Location", "elsewhere")
            return InputError(f"{self.place} sends on to {where!r} ({error.code}); give that address, if it is right")
        return InputError(f"{self.place} refuses the request ({said}); check address, model and options")

    def _told(self, content: bytes) -> str:
        """Return the message of a server in one line, without the key."""
        text = content.decode("utf-8", "replace")
        try:
            found = json.loads(text)
            error = found.get("error", found) if isinstance(found, dict) else found
            message = error.get("message", error.get("detail")) if isinstance(error, dict) else error
            text = message if isinstance(message, str) else text
        except ValueError:
            pass
        text = " ".join(text.split())[:200]
        return text.replace(self.key, "***") if self.key else text
