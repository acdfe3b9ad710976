"""Asks a language model behind an OpenAI-compatible endpoint what photos of each class show, and writes the table.

The table is the memory of the run: classes that it holds are not asked again, lines of other hands stay as they are,
and a class whose answer was refused stands in it as a comment, `# failed:`, until it is asked again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

from conceptlens.concepts.class_knowledge import RATES, read_knowledge
from conceptlens.concepts.vocabulary import CONCEPT_TYPES, ConceptName, base_rate, parse_concepts
from conceptlens.io.atomic import write_text
from conceptlens.io.chat import ChatEndpoint, ChatReply, check_questions, without_thoughts
from conceptlens.io.errors import InputError
from conceptlens.io.output_path import check_file
from conceptlens.io.progress import progress
from conceptlens.io.text_file import read_text

KNOWLEDGE_PROMPT = f"""What do photos of the class "{{}}" show? Answer with one JSON object and nothing else, such as
{{"kinds": ["tabby cat", "cat", "mammal", "animal"],
 "concepts": [{{"name": "whiskers", "type": "part", "seen": "often"}},
  {{"name": "sofa", "type": "object", "seen": "sometimes"}}]}}

"kinds": what it is, from the most specific name to the most general.
"concepts": 10 to 30 things that can be seen in such photos: its parts, colours, textures and materials,
 other objects, and scenes. Not the class itself nor its kinds. Each once.
"name": one or two words, in the singular and in lower case.
"type": one of {", ".join(CONCEPT_TYPES)}.
"seen": always (in 85 of 100 such photos or more), often (in 40 to 85) or sometimes (in 10 to 40).
 Leave out what is rarer.
"""
COLUMNS = ("class", "kinds", *RATES)
KNOWLEDGE_REQUEST: Mapping[str, object] = MappingProxyType({"temperature": 0.3, "max_tokens": 2048})
TIMEOUT, MAX_RETRIES = 120.0, 4  # seconds for one answer; requests sent again
LONGEST = 60  # characters of a concept: longer ones are sentences
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL)


@dataclass(frozen=True)
class WrittenKnowledge:
    """What a run wrote into a table of class knowledge.

    Args:
        kept: Classes that the table held before, which were not asked.
        written: Classes that it holds since.
        failed: Why the answer for a class was refused, by class.
    """

    kept: tuple[str, ...]
    written: tuple[str, ...]
    failed: Mapping[str, str]


def write_knowledge(
    classes: Sequence[str],
    url: str,
    model: str,
    out: str | PathLike[str],
    key_from: str | None = "OPENAI_API_KEY",
    request: Mapping[str, object] = KNOWLEDGE_REQUEST,
) -> WrittenKnowledge:
    """Ask a language model what photos of each class show, and write its answers as a table for `read_knowledge`.

    The table is written anew after each answer, whole or not at all. An answer is taken as a whole or refused: one that
    is no JSON, names no kind or no concept, another type or another frequency, or contradicts itself. A word has one
    type in a table: the vocabulary's, or else that of the first class that names it.

    Args:
        classes: Names of classes, such as `backbone.class_names`.
        url: An OpenAI-compatible address: `http://host:port`, `.../v1` or the whole one.
        model: The model's name at that address.
        out: A `.tsv` file; what it holds is kept, and not asked again.
        key_from: The environment variable that holds the key; `None` for servers that want none.
        request: The other fields of each request, such as `{"max_completion_tokens": 4096}`.

    Returns:
        Which classes were kept, written and refused.

    Raises:
        InputError: Settings, key or table are not valid, or the server cannot be reached, refuses or answers no text;
            answers before that are in the table.
    """
    names = check_questions(classes, model, request)
    for name in names:
        if not name.isprintable() or name.startswith("#") or name != name.strip():
            raise InputError(f"a class is called {name!r}, which a line of a table cannot hold; rename it")
    check_file(out, ".tsv", name="out")
    table = _Table.read(Path(out))
    missing = [name for name in names if name not in table.classes]
    kept = tuple(name for name in names if name in table.classes)
    if not missing:
        return WrittenKnowledge(kept, (), {})
    endpoint = ChatEndpoint.at(url, key_from, TIMEOUT, MAX_RETRIES)
    written, failed = [], {}
    for name in progress(missing, len(missing), "classes"):
        message = {"role": "user", "content": KNOWLEDGE_PROMPT.replace("{}", name)}
        reply = endpoint.reply({"model": model, "messages": [message], **request}, f"class {name!r}")
        try:
            row = table.row(name, _answered(reply))
        except InputError as error:
            failed[name] = str(error)
            table.fail(name, failed[name])
        else:
            table.add(name, row, model)
            written.append(name)
        write_text(table.file, table.text)
    return WrittenKnowledge(kept, tuple(written), failed)


@dataclass
class _Table:
    """The lines of a table that grows, the classes in it, and the one type of each word."""

    file: Path
    lines: list[str]
    columns: Sequence[str]
    classes: set[str]
    words: dict[str, ConceptName]

    @staticmethod
    def read(file: Path) -> _Table:
        """Return the table of a file, or an empty one."""
        if not file.exists():
            return _Table(file, ["\t".join(COLUMNS)], COLUMNS, set(), {})
        lines = read_text(file, "choose another --out").splitlines()
        content = [line for line in lines if line.strip() and not line.startswith("#")]
        columns = content[0].split("\t") if content else COLUMNS
        lines = lines if content else [*lines, "\t".join(COLUMNS)]
        lacking = [column for column in COLUMNS if column not in columns]
        if lacking:
            raise InputError(f"{file} has no column {', '.join(lacking)}; add it, or choose another --out")
        if len(content) < 2:
            return _Table(file, lines, columns, set(), {})
        known = read_knowledge(file)
        words: dict[str, ConceptName] = {}
        for concept in known.concepts:
            words.setdefault(concept.label.casefold(), concept)
        return _Table(file, lines, columns, {one.name for one in known.classes}, words)

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)

    def row(self, name: str, answer: _Answer) -> dict[str, str]:
        """Return the cells of a class by column, each word with its one type."""
        cells = {"class": name, "kinds": " > ".join(answer.kinds), **dict.fromkeys(RATES, "")}
        for kind in answer.kinds:
            self._known(ConceptName(kind))
        for concept, seen in answer.concepts.items():
            known = self._known(concept)
            entry = known.label if base_rate(known) is not None else f"{known.label}:{known.type}"
            cells[seen] = f"{cells[seen]}; {entry}" if cells[seen] else entry
        return cells

    def add(self, name: str, cells: Mapping[str, str], model: str) -> None:
        """Append the line of a class, after a comment that says who answered."""
        self._forget(name)
        said = f"# As {' '.join(model.split())} answered:"
        comments = [line for line in self.lines if line.startswith("# As ") and line.endswith(" answered:")]
        if comments[-1:] != [said]:
            self.lines.append(said)
        self.lines.append("\t".join(cells.get(column, "") for column in self.columns))
        self.classes.add(name)

    def fail(self, name: str, reason: str) -> None:
        """Append a comment: why the class is not in the table."""
        self._forget(name)
        self.lines.append(f"{_failure(name)} {' '.join(reason.split())}")

    def _forget(self, name: str) -> None:
        self.lines = [line for line in self.lines if not line.startswith(_failure(name))]

    def _known(self, concept: ConceptName) -> ConceptName:
        """Return the concept of a word: the vocabulary's, that of an earlier line, or this one."""
        if base_rate(concept) is not None:
            return parse_concepts([concept.label])[0]
        return self.words.setdefault(concept.label.casefold(), concept)


@dataclass(frozen=True)
class _Answer:
    kinds: tuple[str, ...]
    concepts: Mapping[ConceptName, str]


def _failure(name: str) -> str:
    return f"# failed: {json.dumps(name, ensure_ascii=False)}:"


def _answered(reply: ChatReply) -> _Answer:
    """Return what an answer says, checked; raises `InputError` with what is wrong about it."""
    if reply.finish == "length":
        raise InputError("the answer was cut before its end; allow more tokens (request, --request)")
    text = without_thoughts(reply.text).strip()
    fenced = _FENCE.fullmatch(text)
    try:
        found = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or set(found) != {"kinds", "concepts"}:
        raise InputError(f"the answer is {_short(text)}; expected a JSON object with kinds and concepts")
    for key, value in found.items():
        if not isinstance(value, list) or not value:
            raise InputError(f"{key} are {_short(value)}; expected a list that is not empty")
    kinds = tuple(dict.fromkeys(_label(kind, "a kind") for kind in found["kinds"]))
    general = {kind.casefold() for kind in kinds}
    concepts: dict[str, tuple[ConceptName, str]] = {}
    for entry in found["concepts"]:
        concept, seen = _concept(entry)
        word = concept.label.casefold()
        if word in general and seen != "always":
            raise InputError(f"{concept.label!r} is one of its kinds, and only {seen} seen; kinds are always seen")
        if concepts.setdefault(word, (concept, seen)) != (concept, seen):
            raise InputError(f"{concept.label!r} is named twice, with another type or frequency")
    shown = {concept: seen for word, (concept, seen) in concepts.items() if word not in general}
    if not shown:
        raise InputError("no concept is named but its kinds; expected what such photos show")
    return _Answer(kinds, shown)


def _concept(entry: Any) -> tuple[ConceptName, str]:
    """Return a concept of an answer and how often it is seen."""
    if not isinstance(entry, dict) or set(entry) != {"name", "type", "seen"}:
        raise InputError(f"a concept is {_short(entry)}; expected name, type and seen")
    label, kind, seen = _label(entry["name"], "a concept"), entry["type"], entry["seen"]
    if kind not in CONCEPT_TYPES:
        raise InputError(f"{label!r} has the type {_short(kind)}; expected one of {', '.join(CONCEPT_TYPES)}")
    if not isinstance(seen, str) or seen not in RATES:
        raise InputError(f"{label!r} is seen {_short(seen)}; expected one of {', '.join(RATES)}")
    return ConceptName(label, kind), seen


def _label(value: Any, what: str) -> str:
    """Return a name in an answer, with single blanks."""
    label = " ".join(value.split()) if isinstance(value, str) else ""
    if not any(letter.isalpha() for letter in label) or not label.isprintable() or len(label) > LONGEST:
        raise InputError(f"{what} is called {_short(value)}; expected a word or a few")
    if label.startswith("#") or any(mark in label for mark in ":;>"):
        raise InputError(f"{what} is called {label!r}; a name holds no colon, semicolon, # or >")
    return label


def _short(value: Any) -> str:
    """Return a value of an answer for a sentence, in one line."""
    return repr(value if len(str(value)) <= 120 else f"{str(value)[:120]} ...")
