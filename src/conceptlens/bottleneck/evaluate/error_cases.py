"""What misled a bottleneck: the sum behind one wrong answer, the concepts that led most, and answers without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from conceptlens.bottleneck.evaluate.sums import added
from conceptlens.bottleneck.intervention import effect, predicted, remove, with_edits

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable
    from conceptlens.bottleneck.module import Bottleneck

MISLEADERS = 10


@dataclass(frozen=True)
class Misled:
    """What a concept adds to the wrong class more than to the true one, and the answer once it is set to its mean."""

    concept: int
    standard: float
    adds: float
    answer: int


@dataclass(frozen=True)
class ErrorCase:
    """A photo that is taken for another class by a `margin`, to which `bias`, `terms` and `rest` add up.

    `together`: the answer once all of `terms` are set to their means.
    """

    row: int
    truth: int
    answer: int
    margin: float
    bias: float
    terms: tuple[Misled, ...]
    rest: float
    others: int
    together: int


@dataclass(frozen=True)
class Misleader:
    """A concept that misled most in `errors` photos, of which `righted` are right once it is set to its mean.

    Removed for good, it would mend `fixed` photos of the set and break `broken`.
    """

    concept: int
    errors: int
    righted: int
    fixed: int
    broken: int


@dataclass(frozen=True)
class MisledSet:
    """All errors of a set: which concepts misled, the most often first.

    `righted`: how many of them are right without the concept that misled most; `by_chance`: without one that was drawn
    from those that count for either class.
    """

    leaders: tuple[Misleader, ...]
    righted: int
    by_chance: int


def error_case(bottleneck: Bottleneck, table: BottleneckTable, row: int, top: int) -> ErrorCase:
    """Return the sum that puts a photo's wrong class above its true one, and what setting concepts to means changes."""
    truth, answer = int(table.classes[row]), int(table.predicted[row])
    active = table.activations[[row]]
    adds, seen = added(bottleneck, active, answer)
    more = (adds - added(bottleneck, active, truth)[0])[0]
    leading = [i for i in more.argsort(descending=True, stable=True)[:top].tolist() if float(more[i]) > 0]
    alone = [int(_without(bottleneck, active, [[i]])[0]) for i in leading]
    terms = [Misled(i, float(seen[0, i]), float(more[i]), now) for i, now in zip(leading, alone, strict=True)]
    margin = float(table.logits[row, answer] - table.logits[row, truth])
    bias = float(bottleneck.head.bias[answer] - bottleneck.head.bias[truth])
    return ErrorCase(
        row=row,
        truth=truth,
        answer=answer,
        margin=margin,
        bias=bias,
        terms=tuple(terms),
        rest=margin - bias - sum(term.adds for term in terms),
        others=int((more != 0).sum()) - len(terms),
        together=int(_without(bottleneck, active, [leading])[0]),
    )


def misleaders(bottleneck: Bottleneck, table: BottleneckTable, wrong: Int[Tensor, "error"], seed: int = 0) -> MisledSet:
    """Return which concept misled most in each error, and what becomes of the answers without it."""
    if not len(wrong):
        return MisledSet((), 0, 0)
    active, truth, guess = table.activations[wrong], table.classes[wrong], table.predicted[wrong]
    more = torch.zeros_like(active)
    for k in range(len(bottleneck.classes)):
        for sign, rows in ((1, guess == k), (-1, truth == k)):
            if bool(rows.any()):
                more[rows] += sign * added(bottleneck, active[rows], k)[0]
    most = more.argmax(1)
    draw = torch.Generator().manual_seed(seed)
    any_of = torch.where(more != 0, torch.rand(more.shape, generator=draw), -1.0).argmax(1)
    right = _without(bottleneck, active, most[:, None].tolist()) == truth
    chance = _without(bottleneck, active, any_of[:, None].tolist()) == truth
    leaders = []
    for concept, errors in Counter(most.tolist()).most_common(MISLEADERS):
        done = effect(
            bottleneck, with_edits(bottleneck, [remove(bottleneck, concept)]), table.activations, table.classes
        )
        leaders.append(Misleader(concept, errors, int(right[most == concept].sum()), done.fixed, done.broken))
    return MisledSet(tuple(leaders), int(right.sum()), int(chance.sum()))


def _without(
    bottleneck: Bottleneck, active: Float[Tensor, "photo concept"], concepts: Sequence[Sequence[int]]
) -> Int[Tensor, "photo"]:
    """Return the answers once the concepts named for each photo have their training means."""
    changed = active.clone()
    for row, own in enumerate(concepts):
        changed[row, list(own)] = bottleneck.mean[list(own)].to(changed)
    return predicted(bottleneck, changed).cpu()
