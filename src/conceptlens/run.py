"""Many photos in a stream: bounded memory, and a bad file is reported while the rest goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from conceptlens.activation_map import cam
from conceptlens.concept.explain import explain
from conceptlens.concept.reference import Reference
from conceptlens.concept.vocabulary import ConceptName
from conceptlens.data.folder import read_image
from conceptlens.error import InputError
from conceptlens.finer import LINEAR, Sweep, sweep
from conceptlens.record import Explanation, Picture
from conceptlens.target import ClassName, Contrast, Logit, choose_references, class_indices

if TYPE_CHECKING:
    from PIL import Image

    from conceptlens.backbone import Backbone
    from conceptlens.observe import Observation


@dataclass(frozen=True)
class Prediction:
    """A class and what the model gives it: the logit and its share after the softmax."""

    index: int
    name: str
    score: float
    probability: float


@dataclass(frozen=True)
class LookAlike:
    """A class that a target is told from, and its share among them."""

    prediction: Prediction
    share: float


@dataclass(frozen=True)
class Finding:
    """All that was found in one photo; tensors only of small maps, so that thousands fit in memory."""

    photo: Image.Image
    picture: Picture
    model: str
    layer: str
    target: Prediction
    predictions: tuple[Prediction, ...]
    plain: Explanation
    finer: Explanation | None = None
    references: tuple[LookAlike, ...] = ()
    gamma: float = 0.0
    sweep: Sweep | None = None
    against: Prediction | None = None
    named: Explanation | None = None


@dataclass(frozen=True)
class Failure:
    """A photo that could not be explained, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """What is asked of every photo of a run."""

    target: ClassName | None = None
    against: Sequence[ClassName] = ()
    concepts: Sequence[ConceptName] | None = None
    top: int = 8
    contrast: Contrast | None = field(default_factory=Contrast)
    rule: str = "grad_cam"
    with_concepts: bool = True
    calibration: Reference | None = None


def find(model: Backbone, photos: Sequence[Path], plan: Plan, batch_size: int = 8) -> Iterator[Finding | Failure]:
    """Explain photos in batches, in their order; a photo that cannot be read comes out as a `Failure`."""
    for start in range(0, len(photos), batch_size):
        names = photos[start : start + batch_size]
        read = [_try_to_read(path) for path in names]
        good = [photo for photo in read if not isinstance(photo, Failure)]
        found = iter(_explain_batch(model, names, read, plan) if good else ())
        for item in read:
            yield item if isinstance(item, Failure) else next(found)


def observations(
    model: Backbone, photos: Sequence[Path], batch_size: int, failures: list[Failure]
) -> Iterator[Observation]:
    """Observe photos in batches; those that cannot be read are added to `failures`."""
    for start in range(0, len(photos), batch_size):
        read = [_try_to_read(path) for path in photos[start : start + batch_size]]
        failures.extend(item for item in read if isinstance(item, Failure))
        good = [item for item in read if not isinstance(item, Failure)]
        if good:
            yield model.observe(good)


def _try_to_read(path: Path) -> Image.Image | Failure:
    try:
        return read_image(path)
    except InputError as error:
        return Failure(str(path), str(error))


def _explain_batch(
    model: Backbone, paths: Sequence[Path], read: Sequence[Image.Image | Failure], plan: Plan
) -> list[Finding]:
    photos = [photo for photo in read if not isinstance(photo, Failure)]
    names = [str(path) for path, photo in zip(paths, read, strict=True) if not isinstance(photo, Failure)]
    seen = model.observe(photos, titles=names)
    plain = cam(seen, Logit(plan.target), plan.rule)
    finer = _contrast(seen, plan)
    named = None
    if plan.with_concepts:
        against = plan.against[0] if plan.against else None
        named = explain(seen, plan.concepts, plan.target, plan.top, against, reference=plan.calibration)
    targets = class_indices(seen, plan.target)
    others = class_indices(seen, plan.against[0]) if plan.against else None
    return [
        Finding(
            photo=photo,
            picture=seen.pictures[i],
            model=model.name,
            layer=seen.layer,
            target=predictions(seen, i, targets[i : i + 1])[0],
            predictions=predictions(seen, i),
            plain=plain.of(i),
            **({} if finer is None else finer.of(seen, i)),
            against=None if others is None else predictions(seen, i, others[i : i + 1])[0],
            named=None if named is None else named.of(i),
        )
        for i, photo in enumerate(photos)
    ]


@dataclass(frozen=True)
class _Finer:
    """The contrast of a batch."""

    explanation: Explanation
    classes: Tensor
    shares: Tensor
    gamma: float
    sweep: Sweep | None

    def of(self, seen: Observation, image: int) -> dict[str, Any]:
        """Return what a finding says of one image's contrast."""
        told_from = predictions(seen, image, self.classes[image])
        shares = self.shares[image].tolist()
        return {
            "finer": self.explanation.of(image),
            "references": tuple(LookAlike(p, s) for p, s in zip(told_from, shares, strict=True)),
            "gamma": self.gamma,
            "sweep": None if self.sweep is None else self.sweep.of(image),
        }


def _contrast(seen: Observation, plan: Plan) -> _Finer | None:
    """Return the batch's contrast; a model with one class, or fewer than the contrast needs, has none to show."""
    if plan.contrast is None:
        return None
    _, classes, shares = choose_references(seen, plan.contrast)
    swept = sweep(seen, plan.contrast, plan.rule) if plan.rule in LINEAR else None
    explanation = cam(seen, plan.contrast, plan.rule) if swept is None else swept.at()
    return _Finer(explanation, classes, shares, plan.contrast.gamma, swept)


def predictions(seen: Observation, image: int, classes: Tensor | None = None, top: int = 5) -> tuple[Prediction, ...]:
    """Return what the model gives `classes` of one image, by default the `top` highest."""
    logits = seen.logits[image].detach().float()
    probability = logits.softmax(0)
    chosen = logits.topk(min(top, len(logits))).indices if classes is None else classes
    return tuple(
        Prediction(i, seen.model.class_name(i), float(logits[i]), float(probability[i])) for i in chosen.tolist()
    )
