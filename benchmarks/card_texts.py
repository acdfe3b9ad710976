"""What cards say in words, read from `card_words.toml`: a method's sentence, formula, departures and proof."""

from __future__ import annotations

import inspect
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import wrap
from typing import Any

import conceptlens as cl

FILE = Path(__file__).parent / "card_words.toml"
OTHERS = ("finer_cam", "ce_fam", "loc_cbm", "loce")
# What a line of code on a page has room for.
COLUMNS = 92
PROOF = {
    "reads the gradient": ("oracle/test_rules.py", "oracle/test_peers.py", "contract/test_contract.py"),
    "reads the model": ("oracle/test_gradient_free.py", "contract/test_contract.py"),
    "score_cam_fast": ("oracle/test_fast_score_cam.py", "contract/test_contract.py"),
}


@dataclass(frozen=True)
class CardText:
    """The words of a card.

    Args:
        name: The card's key: the rule's name, or the method's.
        title: What the method is called.
        call: How it is called.
        source: Where it comes from.
        says: What its map says, in a sentence or two.
        formula: The formula, a line each.
        departures: Where it departs from paper or authors' code, and why; a point each.
        proof: The tests that hold it to its formula, below `tests/`.
        page: The page that tells more, below `docs/`.
    """

    name: str
    title: str
    call: str
    source: str
    says: str
    formula: tuple[str, ...]
    departures: tuple[str, ...]
    proof: tuple[str, ...]
    page: str

    @property
    def file(self) -> str:
        """The name of its page."""
        return self._slug + ".md"

    @property
    def picture(self) -> str:
        """The name of its picture."""
        return self._slug + ".webp"

    @property
    def _slug(self) -> str:
        return self.name.replace("+", "-plus").replace("_", "-")


@cache
def words(part: str) -> dict[str, Any]:
    """Return a table of `card_words.toml`.

    Args:
        part: Its name: that of a card, or of a kind of sentences.
    """
    return tomllib.loads(FILE.read_text(encoding="utf-8"))[part]


def sentence(name: str, **values: object) -> str:
    """Return a sentence of the pages, with values put in."""
    return words("pages")[name].format(**values)


def card_texts() -> dict[str, CardText]:
    """Return the words of every card: one for each rule, then the methods of concepts."""
    cards = [*(_of_rule(rule) for rule in cl.RULES.values()), *(_of_method(name) for name in OTHERS)]
    return {card.name: card for card in cards}


def _of_rule(rule: cl.Rule) -> CardText:
    """Return the card of a rule; its formula is the first paragraph of its docstring, unless the words have one."""
    told = words(rule.name)
    first = (inspect.getdoc(rule.weights) or "").split("\n\n")[0]
    said = " ".join(first.replace("`", "").split()).removesuffix(".")
    formula = told.get("formula") or wrap(said, COLUMNS, subsequent_indent="    ")
    kind = rule.name if rule.name in PROOF else f"reads the {rule.reads}"
    return CardText(
        rule.name, rule.title or rule.name, f'cl.cam(observation, target, "{rule.name}")', rule.paper, told["says"],
        (*formula, "map = ReLU( sum_k w_k A_k )"), tuple(told["departures"]), PROOF[kind], "equation.md",
    )  # fmt: skip


def _of_method(name: str) -> CardText:
    told: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in words(name).items()}
    return CardText(name=name, **told)
