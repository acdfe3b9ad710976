"""The documentation does what it says: its code runs, its outputs are real, its commands parse."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import skimage
import typer
from PIL import Image
from typer.core import TyperGroup
from typer.testing import CliRunner

import conceptlens as cl
from conceptlens.cli import app

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(p for p in DOCS.rglob("*.md") if "results" not in p.relative_to(DOCS).parts), ROOT / "README.md"]
PHOTOS = {"cat.png": "chelsea.png", "coffee.png": "coffee.png", "rocket.jpg": "rocket.jpg"}
FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+?) -->\n)?^```(?P<kind>\w+)[^\n]*\n(?P<text>.*?)^```$", re.M | re.S
)
NUMBER = re.compile(r"[-+−]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
# What no two runs share.
CHANGING = re.compile(r"in \d+\.\d s")


@dataclass(frozen=True)
class Block:
    """One fenced block; `output` is the text block right after it, where there is one."""

    kind: str
    text: str
    line: int
    reason: str | None
    output: str | None = None


def blocks(page: Path) -> list[Block]:
    """Return the code of a page in order, each with the output shown for it."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    end = -1
    for match in FENCE.finditer(text):
        kind, code = match["kind"], match["text"]
        if kind == "text" and found and found[-1].kind == "python" and not text[end : match.start()].strip():
            last = found.pop()
            found.append(Block(last.kind, last.text, last.line, last.reason, code))
        else:
            found.append(Block(kind, code, text.count("\n", 0, match.start("text")), match["reason"]))
        end = match.end()
    return found


def commands(block: Block) -> list[tuple[list[str], str]]:
    """Return the `conceptlens` calls of a console block, each with the output shown for it."""
    calls: list[tuple[list[str], str]] = []
    shown = False
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.startswith(("$ ", "conceptlens ")):
            shown = line.removeprefix("$ ").startswith("conceptlens ")
            if shown:
                calls.append((words_of(line), ""))
        elif shown:
            calls[-1] = (calls[-1][0], calls[-1][1] + line + "\n")
    return calls


def words_of(line: str) -> list[str]:
    """Return the arguments of a shown call, without prompt, program, comment and whatever its output is sent to."""
    words = shlex.split(line.removeprefix("$ "), comments=True)[1:]
    return list(itertools.takewhile(lambda word: word not in (">", "|"), words))


def same(shown: str, real: str) -> bool:
    """Whether two outputs have the same words, and numbers that differ by no more than another machine's rounding."""
    rows, printed = (
        [" ".join(x.split()) for x in CHANGING.sub("", t).splitlines() if x.strip()] for t in (shown, real)
    )
    if "…" in rows:  # the page leaves out a middle part
        head = rows.index("…")
        rows.pop(head)
        printed = printed[:head] + printed[len(printed) - len(rows) + head :]
    if [NUMBER.sub("#", row) for row in rows] != [NUMBER.sub("#", row) for row in printed]:
        return False
    numbers = [[float(n.replace("−", "-")) for row in side for n in NUMBER.findall(row)] for side in (rows, printed)]
    return all(abs(a - b) <= 0.02 + 0.02 * abs(a) for a, b in zip(*numbers, strict=True))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the photos that the pages speak of."""
    data = Path(skimage.__file__).parent / "data"
    (tmp_path / "photos").mkdir()
    for name, original in PHOTOS.items():
        photo = Image.open(data / original).convert("RGB")
        photo.save(tmp_path / name, quality=95)
        photo.save(tmp_path / "photos" / name, quality=95)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["conceptlens"])
    return tmp_path


def runnable(page: Path) -> list[Block]:
    return [b for b in blocks(page) if b.kind == "python" and b.reason is None]


# These fit, embed or find rivals for many seconds; `make test-slow` runs them.
LONG_PAGES = {
    "analyze", "ce-fam", "class-knowledge", "clip", "controls", "embed", "evaluate", "faithfulness",
    "fit-a-bottleneck", "fit-a-head", "folders", "loce", "maps", "metrics", "reading", "runs", "store", "text-encoder",
}  # fmt: skip
RUN_PAGES = [
    pytest.param(page, id=str(page.relative_to(ROOT)), marks=pytest.mark.slow if page.stem in LONG_PAGES else ())
    for page in PAGES
    if runnable(page)
]


@pytest.mark.parametrize("page", RUN_PAGES)
def test_python_runs_and_prints_what_is_shown(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = dict(cl.RULES)
    names: dict[str, object] = {"__name__": "page"}
    try:
        for block in runnable(page):
            code = compile("\n" * block.line + block.text, str(page), "exec", dont_inherit=True)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(code, names)
            if block.output is not None:
                assert same(block.output, printed.getvalue()), f"{page}:{block.line}\n{printed.getvalue()}"
    finally:
        cl.RULES.clear()
        cl.RULES.update(rules)


CALLS = [
    pytest.param(
        words,
        shown,
        block.reason,
        id=f"{page.relative_to(ROOT)}:{block.line}:{i}",
        marks=pytest.mark.slow if page.stem == "evaluate" and shown else (),
    )
    for page in PAGES
    for block in blocks(page)
    if block.kind in ("console", "bash")
    for i, (words, shown) in enumerate(commands(block))
]


@cache
def all_commands() -> TyperGroup:
    """The commands, built once."""
    return typer.main.get_group(app)


@pytest.mark.parametrize(("words", "shown", "reason"), CALLS)
def test_commands_parse(words: list[str], shown: str, reason: str | None) -> None:
    group = all_commands()
    context = group.make_context("conceptlens", list(words), resilient_parsing=words == ["--help"])
    name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    assert command is not None
    command.make_context(name, rest)


@pytest.mark.parametrize(("words", "shown", "reason"), [c for c in CALLS if c.values[1].strip() and not c.values[2]])
def test_commands_print_what_is_shown(words: list[str], shown: str, reason: str | None, folder: Path) -> None:
    done = CliRunner().invoke(app, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    real = done.output if not shown.lstrip().startswith("{") else done.stdout
    if shown.lstrip().startswith("{"):
        assert shape(json.loads(shown)) == shape(json.loads(real))
    else:
        assert same(shown, real), real


def shape(value: object) -> object:
    """Return a JSON value with its numbers and strings taken out."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    if isinstance(value, list):
        return [shape(part) for part in value]
    return type(value).__name__


def test_pages_name_no_local_path_and_load_nothing_from_elsewhere() -> None:
    for page in [*PAGES, *ROOT.glob("*.md"), *(ROOT / "examples").glob("*.ipynb")]:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"/(?:home|root|work|tmp|Users)/", text), page
        assert not re.search(r"<(?:script|iframe|link)\b", text), page


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_executes_and_its_outputs_are_kept(notebook: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(notebook, tmp_path))
    call = [sys.executable, str(ROOT / "examples" / "execute.py"), str(copy)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    kept, fresh = (json.loads(file.read_text(encoding="utf-8"))["cells"] for file in (notebook, copy))
    for old, new in zip(kept, fresh, strict=True):
        assert [o["output_type"] for o in old.get("outputs", [])] == [o["output_type"] for o in new.get("outputs", [])]
        printed = [["".join(o.get("text", [])) for o in cell.get("outputs", [])] for cell in (old, new)]
        assert all(same(a, b) for a, b in zip(*printed, strict=True)), printed


def test_the_tables_of_the_pages_are_those_of_the_code() -> None:
    equation = (DOCS / "equation.md").read_text(encoding="utf-8")
    named = re.findall(r"^\|[^|\n]*\| `([\w+]+)` \|", equation, re.M)
    assert sorted(named) == sorted(cl.RULES)
    design = (DOCS / "design.md").read_text(encoding="utf-8")
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    assert "\n".join(contract["layers"]) in design
