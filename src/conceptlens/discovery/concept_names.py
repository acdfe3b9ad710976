"""The names that people give to discovered concepts: by number, on the command line or in a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from conceptlens.io.errors import InputError
from conceptlens.io.text_file import read_text

HEADING = "id\tname\tsuggested"
ADVICE = "give numbers with names, such as 3=water, or a table with a number, a tab and a name in each line"


def parse_names(given: str) -> dict[int, str]:
    """Return the names in `"3=water, 5=grass"`, or in a table that this is the path of.

    Args:
        given: Numbers and names, or a file with a number, a tab and a name in each line. No name takes one away.

    Raises:
        InputError: It is neither.
    """
    if "=" not in given and Path(given).is_file():
        return read_names(Path(given))
    found: dict[int, str] = {}
    for entry in given.split(","):
        number, sign, name = entry.partition("=")
        if not sign:
            raise InputError(f"'{entry.strip()}' in the names is no number with a name, and no file; {ADVICE}")
        _add(found, number, name, f"'{entry.strip()}'")
    return found


def read_names(file: Path) -> dict[int, str]:
    """Return the names in a table; its heading, blank lines and lines that begin with `#` are skipped.

    Args:
        file: A text file with a number, a tab and a name in each line; what follows another tab is not read.

    Raises:
        InputError: The file cannot be read, or a line has no number.
    """
    found: dict[int, str] = {}
    for number, line in enumerate(read_text(file, ADVICE).splitlines(), 1):
        cells = line.split("\t")
        if line.strip() and not line.startswith("#") and cells[0].strip().lower() != "id":
            _add(found, cells[0], cells[1] if len(cells) > 1 else "", f"line {number} of {file}")
    return found


def names_table(names: Sequence[str], suggested: Sequence[str]) -> str:
    """Return the table that a folder keeps its names in: the second column is for people to fill in."""
    rows = (f"{i}\t{name}\t{hint}" for i, (name, hint) in enumerate(zip(names, suggested, strict=True)))
    return "\n".join([HEADING, *rows, ""])


def with_names(names: Sequence[str], given: Mapping[int, str], where: str) -> tuple[str, ...]:
    """Return names with some of them changed.

    Args:
        names: The names so far; an empty one is none.
        given: New names by number.
        where: Where they were given, for messages.

    Raises:
        InputError: There is no concept of that number, or two would have the same name.
    """
    unknown = [number for number in given if not 0 <= number < len(names)]
    if unknown:
        raise InputError(
            f"there is no concept {unknown[0]} to be called '{given[unknown[0]]}' in {where}; "
            f"there are {len(names)}, from 0 to {len(names) - 1}"
        )
    found = tuple(given.get(number, name) for number, name in enumerate(names))
    twice = [name for name, count in Counter(name.casefold() for name in found if name).items() if count > 1]
    if twice:
        both = [str(number) for number, name in enumerate(found) if name.casefold() == twice[0]]
        raise InputError(
            f"the concepts {' and '.join(both)} are both called '{twice[0]}' in {where}; give each its own name"
        )
    return found


def _add(found: dict[int, str], number: str, name: str, where: str) -> None:
    if not number.strip().isdecimal():
        raise InputError(f"{where} begins with '{number.strip()}', which is no number of a concept; {ADVICE}")
    if int(number) in found:
        raise InputError(f"concept {int(number)} is named twice, the second time in {where}; name it once")
    found[int(number)] = " ".join(name.split())
