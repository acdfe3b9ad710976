"""What a person changes in a bottleneck: concepts of an image, of a class or for good, and weights; and what it does.

`set_to`, `clamp` and `remove` return the change as an `Edit`; `intervene` makes it for the images of an output,
`with_edits` for a class or for good, in a copy. `effect` measures what a copy changes before it is saved.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from conceptlens.bottleneck.concept_edit import LARGEST, Edit
from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.bottleneck.output import BottleneckOutput

BATCH_IMAGES = 8192  # images whose logits are held together


def set_to(
    bottleneck: Bottleneck, concept: str | int, value: float, target: str | int | None = None, note: str = ""
) -> Edit:
    """Return the edit that gives a concept one activation, for the class `target` or for all.

    Args:
        bottleneck: The bottleneck that is edited.
        concept: Its label or index.
        value: The activation, in the concept's own unit.
        target: The class the edit is for; by default all classes.
        note: The reason, which is saved with the edit.

    Returns:
        The edit, for `with_edits` or `intervene`.

    Raises:
        InputError: There is no such concept or class, or the value is not allowed.
    """
    return clamp(bottleneck, concept, value, value, target, note)


def clamp(
    bottleneck: Bottleneck,
    concept: str | int,
    low: float = -math.inf,
    high: float = math.inf,
    target: str | int | None = None,
    note: str = "",
) -> Edit:
    """Return the edit that keeps a concept's activation between two bounds.

    Args:
        bottleneck: The bottleneck that is edited.
        concept: Its label or index.
        low: The lower bound; by default open.
        high: The upper bound; by default open.
        target: The class the edit is for; by default all classes.
        note: The reason, which is saved with the edit.

    Returns:
        The edit, for `with_edits` or `intervene`.

    Raises:
        InputError: There is no such concept or class, or the bounds are not allowed.
    """
    index = None if target is None else bottleneck.class_index(target)
    return Edit(bottleneck.concept_index(concept), float(low), float(high), index, note)


def remove(bottleneck: Bottleneck, concept: str | int, target: str | int | None = None, note: str = "") -> Edit:
    """Return the edit that gives a concept its mean over the training images: its contribution is then 0.

    Args:
        bottleneck: The bottleneck that is edited.
        concept: Its label or index.
        target: The class the edit is for; by default all classes.
        note: The reason, which is saved with the edit.

    Returns:
        The edit, for `with_edits` or `intervene`.

    Raises:
        InputError: There is no such concept or class.
    """
    return set_to(bottleneck, concept, float(bottleneck.mean[bottleneck.concept_index(concept)]), target, note)


@torch.no_grad()
def intervene(bottleneck: Bottleneck, output: BottleneckOutput, edits: Iterable[Edit]) -> BottleneckOutput:
    """Return the output with some activations of its images changed, in the order given.

    The maps stay: the mean of a changed concept's map is no longer its activation.

    Args:
        bottleneck: The bottleneck whose output it is.
        output: Maps and activations of the images.
        edits: Changes for all classes; of one concept, all are applied in turn.

    Returns:
        Logits of the changed activations, which it holds too; the maps are those given.

    Raises:
        InputError: An edit is of one class, or a lasting edit of the bottleneck does not allow the value.
    """
    changed = tuple(edits)
    activations = output.activations.clone()
    for edit in changed:
        if edit.target is not None:
            name = bottleneck.classes[bottleneck.class_index(edit.target)]
            raise InputError(f"an image's concept is the same for all classes, and '{name}' was named; use with_edits")
        index = bottleneck.concept_index(edit.concept)
        activations[:, index] = activations[:, index].clamp(edit.low, edit.high)
    lasting = bottleneck.edited(activations)
    for edit in {edit.concept: edit for edit in changed}.values():
        values = lasting[:, edit.concept]
        if not torch.equal(values, values.clamp(edit.low, edit.high)):
            raise InputError(
                f"an edit for good does not let '{bottleneck.labels[edit.concept]}' be {_span(edit)}; "
                "take it back first with without_edits"
            )
    return bottleneck.classify(output.maps, activations)


def with_edits(bottleneck: Bottleneck, edits: Iterable[Edit]) -> Bottleneck:
    """Return a copy with lasting edits, for their class or for all; the given bottleneck stays as it is.

    An edit takes the place of an earlier one of the same concept and class. Edits for all classes apply first, then
    those for one, to what is left.

    Args:
        bottleneck: The bottleneck.
        edits: The edits, from `set_to`, `clamp` or `remove`.

    Returns:
        The copy.
    """
    kept = {(edit.concept, edit.target): edit for edit in bottleneck.edits}
    for edit in edits:
        kept.pop((edit.concept, edit.target), None)
        kept[edit.concept, edit.target] = edit
    made = _copied(bottleneck)
    made.edits = tuple(kept.values())
    return made


def without_edits(bottleneck: Bottleneck, concept: str | int | None = None) -> Bottleneck:
    """Return a copy without lasting edits.

    Args:
        bottleneck: The bottleneck.
        concept: The label or index of the concept whose edits are taken back; by default all.

    Returns:
        The copy.

    Raises:
        InputError: There is no such concept.
    """
    index = None if concept is None else bottleneck.concept_index(concept)
    made = _copied(bottleneck)
    made.edits = tuple(edit for edit in bottleneck.edits if index is not None and edit.concept != index)
    return made


@torch.no_grad()
def with_weights(
    bottleneck: Bottleneck, weights: Mapping[tuple[str | int, str | int], float], note: str = ""
) -> Bottleneck:
    """Return a copy with other head weights `W[class, concept]`; the given bottleneck stays as it is.

    The copy's `training_record` lists each change under `weights_edited`, with the earlier weight and `note`.

    Args:
        bottleneck: The bottleneck.
        weights: By class and concept, each a name or an index: what one training deviation more of the concept adds to
            the logit of the class.
        note: The reason, which is saved with the change.

    Returns:
        The copy.

    Raises:
        InputError: A class or concept is unknown, or a weight is not finite in single precision.
    """
    made = _copied(bottleneck)
    changes = made.training_record.setdefault("weights_edited", [])
    for (name, concept), value in weights.items():
        k, i = made.class_index(name), made.concept_index(concept)
        if not abs(value) <= LARGEST:
            raise InputError(
                f"the weight of '{made.labels[i]}' for '{made.classes[k]}' is {value}; give a number below {LARGEST:g}"
            )
        was = float(made.head.weight[k, i])
        made.head.weight[k, i] = value
        changes.append({"class": k, "concept": i, "from": was, "to": float(value), "note": note})
    return made


@dataclass(frozen=True)
class ClassEffect:
    """What an edit does to one class: its accuracy over its `images` (`None` without any), and its predictions.

    `gained` and `lost` count the images, of any class, that are newly and no longer taken for it.
    """

    name: str
    images: int
    before: float | None
    after: float | None
    gained: int
    lost: int


@dataclass(frozen=True)
class Effect:
    """What an edit does to all classes, on images that the caller gave.

    - `before`, `after`: accuracy. `changed`: images with another prediction, of which `fixed` are now right and
      `broken` now wrong.
    - `classes`: every class, in the head's order. `moves`: `(from, to, images)`, the most first.
    """

    images: int
    before: float
    after: float
    changed: int
    fixed: int
    broken: int
    classes: tuple[ClassEffect, ...]
    moves: tuple[tuple[str, str, int], ...]

    def __str__(self) -> str:
        """The classes that change, one a line, those with the largest change of accuracy first."""
        rows = [one for one in self.classes if one.gained or one.lost or one.before != one.after]
        rows.sort(key=lambda one: (-abs((one.after or 0) - (one.before or 0)), -one.gained - one.lost))
        width = max([len(one.name) for one in rows] + [len("class")])
        lines = [
            f"{self.images} images: accuracy {self.before:.3f} -> {self.after:.3f}, {self.changed} predictions change, "
            f"{self.fixed} to right and {self.broken} to wrong"
        ]
        if rows:
            lines.append(f"{'class':{width}}  images  before   after  gained  lost")
        for one in rows:
            before, after = ("    -" if value is None else f"{value:.3f}" for value in (one.before, one.after))
            lines.append(f"{one.name:{width}}  {one.images:6}  {before:>6}  {after:>6}  {one.gained:6}  {one.lost:4}")
        return "\n".join(lines)


@torch.no_grad()
def effect(
    before: Bottleneck,
    after: Bottleneck,
    activations: Float[Tensor, "image concept"],
    classes: Int[Tensor, "image"] | Sequence[int],
) -> Effect:
    """Compare the predictions of two versions of a bottleneck on a table of activations.

    An edit that was chosen by some images looks better on them than on others.

    Args:
        before: The bottleneck before the edit.
        after: Its edited copy.
        activations: Activations before edits, `[image concept]`.
        classes: The true class of each image, an index.

    Returns:
        Accuracies, changed predictions, and their counts for every class.

    Raises:
        InputError: Shapes, classes or numbers do not fit.
    """
    truth = torch.as_tensor(classes).to(before.weight.device)
    if (before.labels, before.classes) != (after.labels, after.classes):
        raise InputError("the two bottlenecks have other concepts or classes; compare one with its own edited copy")
    check_table(before, activations, truth)
    was, now = predict_classes(before, activations), predict_classes(after, activations)
    moved = was != now
    pairs = Counter(zip(was[moved].tolist(), now[moved].tolist(), strict=True))
    names = before.classes
    rows = []
    for k, name in enumerate(names):
        own = truth == k
        count = int(own.sum())
        right = [float((guess[own] == k).double().mean()) if count else None for guess in (was, now)]
        gained, lost = int((moved & (now == k)).sum()), int((moved & (was == k)).sum())
        rows.append(ClassEffect(name, count, right[0], right[1], gained, lost))
    return Effect(
        images=len(truth),
        before=float((was == truth).double().mean()),
        after=float((now == truth).double().mean()),
        changed=int(moved.sum()),
        fixed=int((moved & (now == truth)).sum()),
        broken=int((moved & (was == truth)).sum()),
        classes=tuple(rows),
        moves=tuple((names[a], names[b], count) for (a, b), count in pairs.most_common()),
    )


def effect_json(bottleneck: Bottleneck, edits: Sequence[Edit], found: Effect) -> dict[str, Any]:
    """Return edits and their effect as JSON holds them: an open bound is null.

    Args:
        bottleneck: The bottleneck that was edited.
        edits: The edits.
        found: Their effect.

    Returns:
        A dictionary of plain values.
    """
    return {
        "edits": [
            {
                "concept": bottleneck.labels[one.concept],
                "class": None if one.target is None else bottleneck.classes[one.target],
                "low": one.low if math.isfinite(one.low) else None,
                "high": one.high if math.isfinite(one.high) else None,
            }
            for one in edits
        ],
        "images": found.images,
        "before": found.before,
        "after": found.after,
        "changed": found.changed,
        "fixed": found.fixed,
        "broken": found.broken,
        "classes": [vars(one) for one in found.classes],
        "moves": [{"from": a, "to": b, "images": count} for a, b, count in found.moves],
    }


def predict_classes(bottleneck: Bottleneck, activations: Float[Tensor, "image concept"]) -> Int[Tensor, "image"]:
    """Return the class with the highest score for each row of a table of activations; of equal ones, the first.

    Args:
        bottleneck: The bottleneck.
        activations: Activations before edits, `[image concept]`.

    Returns:
        The index of a class for each image, `[image]`.
    """
    parts = activations.to(bottleneck.weight).split(BATCH_IMAGES)
    return torch.cat([bottleneck.classify(part[..., None, None], part).logits.argmax(1) for part in parts])


def check_table(bottleneck: Bottleneck, activations: Tensor, classes: Tensor) -> None:
    """Refuse a table of activations that is not `[image concept]`, finite, with the class of every image.

    Args:
        bottleneck: The bottleneck that the activations are of.
        activations: `[image concept]`.
        classes: The index of the true class of each image, `[image]`.

    Raises:
        InputError: A shape, a value or a class does not fit.
    """
    if activations.ndim != 2 or activations.shape[1] != len(bottleneck.labels) or not len(activations):
        raise InputError(
            f"activations have shape {tuple(activations.shape)}; expected image concept, at least one image and "
            f"{len(bottleneck.labels)} concepts"
        )
    if not bool(torch.isfinite(activations).all()):
        raise InputError("activations hold NaN or infinite values; leave those images out")
    if classes.shape != activations.shape[:1] or classes.is_floating_point():
        raise InputError(f"{tuple(classes.shape)} classes for {len(activations)} images; give one number for each")
    if int(classes.min()) < 0 or int(classes.max()) >= len(bottleneck.classes):
        raise InputError(
            f"classes go from {int(classes.min())} to {int(classes.max())}; the bottleneck has 0 to "
            f"{len(bottleneck.classes) - 1}"
        )


def _span(edit: Edit) -> str:
    return f"{edit.low:g}" if edit.low == edit.high else f"{edit.low:g} to {edit.high:g}"


def _copied(bottleneck: Bottleneck) -> Bottleneck:
    """Return a deep copy; the network's own changed weights are shared."""
    return copy.deepcopy(bottleneck, {id(bottleneck.backbone): bottleneck.backbone})
