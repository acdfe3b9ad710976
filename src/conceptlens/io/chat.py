"""Questions to a language model behind an OpenAI-compatible endpoint, through the `openai` package."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

COMPLETIONS = "/chat/completions"
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


def check_questions(classes: Sequence[str], model: str, request: Mapping[str, object]) -> list[str]:
    """Return the names of classes to ask a language model about, each once.

    Args:
        classes: Names of classes.
        model: The model's name at its address.
        request: The other fields of each request.

    Raises:
        InputError: A name is blank or there is none, the model has no name, or JSON cannot hold the fields.
    """
    names = [] if isinstance(classes, str) else list(dict.fromkeys(classes))
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise InputError(f"classes are {classes!r}; give a list of names, none of them blank")
    if not model:
        raise InputError("the model's name is empty; give the name by which its server calls it")
    try:
        json.dumps(dict(request), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the request's fields are {dict(request)} ({error}); give what JSON can hold") from None
    return names


def without_thoughts(text: str) -> str:
    """Return an answer without what the model thought aloud (`<think>`)."""
    return _THOUGHT.sub("", text)


@dataclass(frozen=True)
class ChatReply:
    """What a language model answered.

    Args:
        text: Its answer.
        finish: Why it ended: "length" where it was cut.
        model: What the server calls the model.
    """

    text: str
    finish: str | None
    model: str | None


@dataclass(frozen=True)
class ChatEndpoint:
    """A checked address of a language model, with the key for it.

    Args:
        base_url: The address without `/chat/completions`.
        key: The key; `None` for servers that want none. It is never printed or stored.
        key_from: The environment variable that holds the key.
        timeout: Seconds to wait for one answer.
        max_retries: How often a request that failed is sent again; the `openai` package decides which and when.
    """

    base_url: str
    key: str | None = field(repr=False)
    key_from: str | None
    timeout: float
    max_retries: int

    @staticmethod
    def at(url: str, key_from: str | None, timeout: float, max_retries: int) -> ChatEndpoint:
        """Return the endpoint at a base address or a whole one, its key read from the environment.

        Args:
            url: `http://HOST:PORT/v1` or `https://...`, with or without `/chat/completions`.
            key_from: The environment variable that holds the key; `None` where the server wants none.
            timeout: Seconds to wait for one answer.
            max_retries: How often a request that failed is sent again.

        Returns:
            The endpoint; nothing has been sent.

        Raises:
            InputError: The address or the key is not valid, or the package `openai` is missing.
        """
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise InputError(f"{url!r} is no address of a language model; expected http://HOST:PORT/v1 or https://...")
        path = parts.path.rstrip("/").removesuffix(COMPLETIONS) or "/v1"
        key = None if key_from is None else os.environ.get(key_from, "").strip()
        if key_from is not None and not (key and key.isascii() and key.isprintable()):
            raise InputError(
                f"the environment variable {key_from} holds no key; set it, or name another (key_from), or none for "
                "a server that wants no key"
            )
        try:
            import openai  # noqa: F401
        except ImportError:
            raise InputError(
                "asking a language model needs the package openai; pip install 'conceptlens[chat]', or replay a record"
            ) from None
        return ChatEndpoint(urlunsplit(parts._replace(path=path)), key, key_from, timeout, max_retries)

    @property
    def address(self) -> str:
        """The address that requests go to, without its query, for sentences."""
        return f"{self.base_url.partition('?')[0]}{COMPLETIONS}"

    def ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the server's answer to a request as JSON.

        Args:
            body: The request: `model`, `messages`, and what else the server takes.

        Returns:
            The answer, a dictionary.

        Raises:
            InputError: The server cannot be reached, refuses, or answers something else.
        """
        import openai

        try:
            with self._client() as client:
                text = client.chat.completions.with_raw_response.create(
                    model=body["model"],
                    messages=body["messages"],
                    extra_headers=None if self.key else {"Authorization": openai.Omit()},
                    extra_body={name: value for name, value in body.items() if name not in ("model", "messages")},
                ).text
        except openai.APIStatusError as error:
            raise self._refusal(error) from None
        except openai.APITimeoutError:
            raise self._no_answer(f"no answer within {self.timeout:g} seconds") from None
        except openai.APIConnectionError as error:
            cause = error.__cause__
            reason = f"{type(cause).__name__}: {cause}" if cause else str(error)
            if type(cause).__name__ in ("ConnectError", "UnsupportedProtocol", "InvalidURL"):
                raise InputError(
                    f"{self.address} cannot be reached ({cause}); start the server, or give its address"
                ) from None
            raise self._no_answer(reason) from None
        try:
            found = json.loads(text)
        except ValueError:
            raise InputError(f"{self.address} answers {self._message(text)!r}, not JSON; check the address") from None
        if not isinstance(found, dict):
            raise InputError(
                f"{self.address} answers {self._message(text)!r}; expected a JSON object; check the address"
            )
        return found

    def reply(self, body: Mapping[str, Any], question: object) -> ChatReply:
        """Return the text of the server's answer to a request.

        Args:
            body: The request: `model`, `messages`, and what else the server takes.
            question: What the request is for, in messages.

        Raises:
            InputError: The server cannot be reached, refuses, or answers no text.
        """
        found = self.ask(body)
        try:
            choice = found["choices"][0]
            text, finish = choice["message"].get("content") or "", choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError):
            answer = json.dumps(found)[:200]
            raise InputError(
                f"{self.address} answers {answer} for {question}; expected choices with a message"
            ) from None
        if not isinstance(text, str) or (finish == "length" and not text.strip()):
            raise InputError(
                f"{self.address} answers no text for {question} ({finish}); allow more tokens (request, --request)"
            )
        return ChatReply(text, finish, found.get("model"))

    def _client(self) -> OpenAI:
        """Return a client that follows no redirect: the key would go along to wherever it leads."""
        import openai

        client = openai.OpenAI(
            api_key=self.key or "none",
            base_url=self.base_url,
            timeout=self.timeout,
            max_retries=self.max_retries,
            http_client=openai.DefaultHttpxClient(follow_redirects=False),
        )
        client.organization = client.project = None  # of api.openai.com alone, and read from the environment
        return client

    def _no_answer(self, reason: str) -> InputError:
        return InputError(
            f"{self.address} gave no answer, asked {self.max_retries + 1} times ({reason}); run it again later: what "
            "was answered is kept"
        )

    def _refusal(self, error: APIStatusError) -> InputError:
        """Return what a status outside 200 to 299 means, after the retries."""
        code = error.status_code
        reason = f"{code} {self._message(error.response.text)}".strip()
        if code in (401, 403):
            whose = f"the key in {self.key_from}" if self.key else "a request without a key"
            return InputError(f"{self.address} refuses {whose} ({reason}); give a key that is valid there")
        if code in (408, 409, 429) or code >= 500:
            return self._no_answer(reason)
        if 300 <= code < 400:
            where = error.response.headers.get("Location", "elsewhere")
            return InputError(f"{self.address} sends on to {where!r} ({code}); give that address, if it is right")
        return InputError(f"{self.address} refuses the request ({reason}); check address, model and --request")

    def _message(self, text: str) -> str:
        """Return the message of a server in one line, without the key."""
        try:
            found = json.loads(text)
            error = found.get("error", found) if isinstance(found, dict) else found
            message = error.get("message", error.get("detail")) if isinstance(error, dict) else error
            text = message if isinstance(message, str) else text
        except ValueError:
            pass
        text = " ".join(text.split())[:200]
        return text.replace(self.key, "***") if self.key else text
