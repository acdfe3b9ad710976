"""Asks a language model behind an OpenAI-compatible endpoint for concepts, and replays recorded answers offline.

Every answer is kept in a record, a JSONL file, under a hash of the request: a run that broke goes on where it
stopped, and the same concepts come again without a network (`replay=True`). The key is in neither.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

from conceptlens.concepts.concept_set import ConceptSet, collect
from conceptlens.io.chat import ChatEndpoint, check_questions, without_thoughts
from conceptlens.io.errors import InputError
from conceptlens.io.progress import progress

# As published with Label-free CBM (Oikarinen et al., ICLR 2023), for GPT-3; for CUB "important" only.
WRITER_PROMPTS: dict[str, str] = {
    "important": (
        'List the most important features for recognizing something as a "goldfish":\n\n'
        "-bright orange color\n-a small, round body\n-a long, flowing tail\n-a small mouth\n-orange fins\n\n"
        'List the most important features for recognizing something as a "beerglass":\n\n'
        "-a tall, cylindrical shape\n-clear or translucent color\n-opening at the top\n-a sturdy base\n-a handle\n\n"
        'List the most important features for recognizing something as a "{}":'
    ),
    "superclass": (
        'Give superclasses for the word "tench":\n\n-fish\n-vertebrate\n-animal\n\n'
        'Give superclasses for the word "beer glass":\n\n-glass\n-container\n-object\n\n'
        'Give superclasses for the word "{}":'
    ),
    "around": (
        'List the things most commonly seen around a "tench":\n\n'
        "- a pond\n-fish\n-a net\n-a rod\n-a reel\n-a hook\n-bait\n\n"
        'List the things most commonly seen around a "beer glass":\n\n'
        "- beer\n-a bar\n-a coaster\n-a napkin\n-a straw\n-a lime\n-a person\n\n"
        'List the things most commonly seen around a "{}":'
    ),
}
SAMPLES = 2  # requests of each prompt
REQUEST: Mapping[str, object] = MappingProxyType({"temperature": 0.7, "max_tokens": 256})
TIMEOUT, MAX_RETRIES = 60.0, 4  # seconds for one answer; requests sent again
_MARK = re.compile(r"^(?:[-*+•·‣–—]|\(?\d{1,3}(?:\)|\.(?=\s)))\s*")
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)


def write_concepts(
    classes: Sequence[str],
    url: str,
    model: str,
    record: str | PathLike[str],
    key_from: str | None = "OPENAI_API_KEY",
    request: Mapping[str, object] = REQUEST,
    replay: bool = False,
) -> ConceptSet:
    """Ask a language model for the concepts of every class.

    Each prompt is sent twice for each class. Prompts and settings are those of Label-free CBM (Oikarinen et al., ICLR
    2023), except that leading articles are dropped. What was answered before an error is in `record`.

    Args:
        classes: Names of the classes.
        url: An OpenAI-compatible address: `http://host:port`, `.../v1` or the whole one.
        model: The model's name at that address.
        record: A JSONL file of answers; what it holds is not asked again.
        key_from: The environment variable that holds the key; `None` for servers that want none.
        request: The other fields of each request, such as `{"max_completion_tokens": 4096}`.
        replay: Send nothing: an answer that is not in `record` is an error, and neither address nor key is used.

    Returns:
        The concepts of all classes, each once, in the order of the answers.

    Raises:
        InputError: Settings or key are not valid, the server cannot be reached, refuses or answers something else, or
            no answer names a concept.
    """
    prompts = list(_questions(classes, model, request))
    known = _read_record(Path(record), mend=not replay)
    endpoint = None
    for question in progress(prompts, len(prompts), "questions"):
        if question.key not in known:
            if replay:
                raise InputError(f"{record} holds no answer for {question}; ask with replay=False, or as it was asked")
            endpoint = endpoint or _ready(url, key_from, Path(record))
            known[question.key] = _answer(endpoint, question, Path(record))
    labels: dict[str, str] = {}
    for answer in [known[question.key] for question in prompts]:
        for label in parse_answer(answer["answer"], cut=answer.get("finish") == "length"):
            labels.setdefault(label.casefold(), label)
    if not labels:
        raise InputError(
            f"none of {len(prompts)} answers of {model} names a concept; look at what it says in the record"
        )
    return collect(labels.values(), f"language model {model}")


def parse_answer(text: str, cut: bool = False) -> tuple[str, ...]:
    """Return the labels that an answer lists, each once: of bulleted or numbered lines, else of all lines.

    Bullets, emphasis, quotes, closing punctuation and a leading a, an or the are taken off. Headings (lines that end
    in a colon), what a model thought aloud (`<think>`) and the last line of an answer that was `cut` are left out.

    Args:
        text: The answer of a language model.
        cut: Whether it ended because it was too long.

    Returns:
        Labels in their order, in the spelling of their first mention.
    """
    lines = [line.strip() for line in without_thoughts(text).splitlines() if line.strip()]
    lines = lines[:-1] if cut else lines
    listed = [line for line in lines if _MARK.match(line)] or lines
    labels: dict[str, str] = {}
    for line in listed:
        label = re.sub(r"\*\*|__|`", "", _MARK.sub("", line)).strip(" \t*_")
        if label.endswith((":", "：")):
            continue
        label = " ".join(label.strip(" \t.,;\"'“”‘’").split())
        label = _ARTICLE.sub("", label)
        if any(letter.isalnum() for letter in label):
            labels.setdefault(label.casefold(), label)
    return tuple(labels.values())


@dataclass(frozen=True)
class ChatPrompt:
    """One request, and the class, prompt and sample that it is for."""

    class_name: str
    prompt: str
    sample: int
    body: dict[str, Any]

    @property
    def key(self) -> str:
        """The hash of the request and the sample; the address is no part of it."""
        content = json.dumps({"request": self.body, "sample": self.sample}, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()

    def __str__(self) -> str:
        return f"class {self.class_name!r}, prompt {self.prompt!r}, sample {self.sample + 1}"


def _ready(url: str, key_from: str | None, record: Path) -> ChatEndpoint:
    """Return the endpoint, once the record is known to take an answer: answers may cost money."""
    endpoint = ChatEndpoint.at(url, key_from, TIMEOUT, MAX_RETRIES)
    _append(record, b"")
    return endpoint


def _questions(classes: Sequence[str], model: str, request: Mapping[str, object]) -> Iterator[ChatPrompt]:
    for name in check_questions(classes, model, request):
        for prompt, text in WRITER_PROMPTS.items():
            message = {"role": "user", "content": text.replace("{}", name)}
            body = {"model": model, "messages": [message], **request}
            yield from (ChatPrompt(name, prompt, sample, body) for sample in range(SAMPLES))


def _answer(endpoint: ChatEndpoint, question: ChatPrompt, record: Path) -> dict[str, Any]:
    """Send a request, check the answer and record it; the line is on the disk before the next request."""
    reply = endpoint.reply(question.body, question)
    line = {"key": question.key, "class": question.class_name, "prompt": question.prompt, "sample": question.sample}
    line |= {"request": question.body, "answer": reply.text, "finish": reply.finish, "model": reply.model}
    _append(record, json.dumps(line).encode() + b"\n")
    return line


def _append(record: Path, line: bytes) -> None:
    """Write one line in one call at the end of the file, whoever else writes, and see it to the disk."""
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        with record.open("ab", buffering=0) as file:
            whole = file.write(line) == len(line)
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(f"cannot write {record} ({error.strerror}); choose another file") from None
    if not whole:
        raise InputError(f"cannot write all of an answer to {record}; make room on its disk and run it again")


def _read_record(record: Path, mend: bool) -> dict[str, dict[str, Any]]:
    """Return the answers by key, the first of each; with `mend`, a last line that was cut is taken off the file."""
    try:
        content = record.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"cannot read {record} ({error.strerror}); choose another record") from None
    *lines, rest = content.split(b"\n")
    known: dict[str, dict[str, Any]] = {}
    for number, text in enumerate(lines, 1):
        found = _line(text)
        if found is not None:
            known.setdefault(found["key"], found)
        elif text.strip():
            raise InputError(f"{record}, line {number} is no answer of a record; take it out, or choose another record")
    last = _line(rest)
    if last is not None:
        known.setdefault(last["key"], last)
    if mend and rest:
        _mend(record, len(content) - len(rest), whole=last is not None)
    return known


def _mend(record: Path, end: int, whole: bool) -> None:
    """End the last line of a record, or cut it off where it was not written to its end."""
    try:
        if not whole:
            os.truncate(record, end)
    except OSError as error:
        raise InputError(f"cannot write {record} ({error.strerror}); choose another record") from None
    if whole:
        _append(record, b"\n")


def _line(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    return found if isinstance(found.get("key"), str) and isinstance(found.get("answer"), str) else None
