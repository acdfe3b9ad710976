"""Many photos in a stream: bounded memory, and a bad file is reported while the rest goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from conceptlens.cams.class_activation import cam
from conceptlens.cams.contrast import Contrast, choose_references
from conceptlens.cams.finer_cam import LINEAR, ContrastMaps, sweep
from conceptlens.cams.targets import ClassName, Logit, class_indices
from conceptlens.concept_regions.translator import Translator
from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.explainer.calibration import Reference
from conceptlens.explainer.explain import Regions, explain
from conceptlens.io.errors import InputError
from conceptlens.io.failures import Failure
from conceptlens.io.images import jpeg, read_image
from conceptlens.record import Explanation, ImageInfo

if TYPE_CHECKING:
    from PIL import Image

    from conceptlens.model.backbone import Backbone
    from conceptlens.model.observation import Observation


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
    """All that was found in one photo: small maps and, where asked for, a small copy of the photo as JPEG."""

    picture: ImageInfo
    model: str
    layer: str
    target: Prediction
    predictions: tuple[Prediction, ...]
    plain: Explanation
    finer: Explanation | None = None
    references: tuple[LookAlike, ...] = ()
    gamma: float = 0.0
    mixture: ContrastMaps | None = None
    against: Prediction | None = None
    named: Explanation | None = None
    photo: bytes = b""


@dataclass(frozen=True)
class Plan:
    """What is asked of every photo of a run; `with_photos` keeps a small copy of each for a report."""

    target: ClassName | None = None
    against: Sequence[ClassName] = ()
    concepts: Sequence[ConceptName] | None = None
    top: int = 8
    contrast: Contrast = field(default_factory=Contrast)
    rule: str = "grad_cam"
    with_concepts: bool = True
    with_photos: bool = False
    calibration: Reference | None = None
    branch: Translator | None = None
    regions: Regions = "official"
    layer: str | None = None

    def __post_init__(self) -> None:
        """Refuse a branch that is not loaded, such as its folder."""
        if self.branch is not None and not isinstance(self.branch, Translator):
            raise InputError(
                f"a {type(self.branch).__name__} was given as the branch; expected a Translator, "
                "so load one with cl.Translator.load(folder)"
            )


@dataclass(frozen=True)
class Opened:
    """A photo that could be read."""

    name: str
    photo: Image.Image


def find(model: Backbone, photos: Sequence[Path], plan: Plan, batch_size: int = 8) -> Iterator[Finding | Failure]:
    """Explain photos in batches, in their order; a photo that cannot be explained comes out as a `Failure`."""
    for start in range(0, len(photos), batch_size):
        read = [_try_to_read(path) for path in photos[start : start + batch_size]]
        found = iter(_explain_batch(model, [item for item in read if isinstance(item, Opened)], plan))
        for item in read:
            yield next(found) if isinstance(item, Opened) else item


def observations(
    model: Backbone, photos: Sequence[Path], batch_size: int, failures: list[Failure]
) -> Iterator[Observation]:
    """Observe photos in batches; those that cannot be read are added to `failures`."""
    for start in range(0, len(photos), batch_size):
        read = [_try_to_read(path) for path in photos[start : start + batch_size]]
        failures.extend(item for item in read if isinstance(item, Failure))
        good = [item.photo for item in read if isinstance(item, Opened)]
        if good:
            yield model.observe(good)


def predictions(
    observation: Observation, image: int, classes: Tensor | None = None, top: int = 5
) -> tuple[Prediction, ...]:
    """Return what the model gives `classes` of one image, by default the `top` highest."""
    logits = observation.logits[image].detach().float()
    probability = logits.softmax(0)
    chosen = logits.topk(min(top, len(logits))).indices if classes is None else classes
    return tuple(
        Prediction(i, observation.model.class_name(i), float(logits[i]), float(probability[i])) for i in chosen.tolist()
    )


def _try_to_read(path: Path) -> Opened | Failure:
    try:
        return Opened(str(path), read_image(path))
    except InputError as error:
        return Failure(str(path), str(error))


def _explain_batch(model: Backbone, opened: Sequence[Opened], plan: Plan) -> list[Finding | Failure]:
    if not opened:
        return []
    if plan.branch is not None:
        plan.branch.check(model)
    layers = None if plan.branch is None else dict.fromkeys([*plan.branch.layers, *model.default_layers])
    observation = model.observe([o.photo for o in opened], layers, titles=[o.name for o in opened])
    clash = _predicted_as_reference(observation, plan)
    if not any(clash):
        return list(_findings(observation, opened, plan))
    rest = iter(_explain_batch(model, [o for o, c in zip(opened, clash, strict=True) if not c], plan))
    return [Failure(o.name, c) if c else next(rest) for o, c in zip(opened, clash, strict=True)]


def _predicted_as_reference(observation: Observation, plan: Plan) -> list[str]:
    """Say of each photo, where its class was left to the model, if that is one of the classes to tell it from."""
    named = plan.contrast.against
    if plan.target is not None or not named:
        return [""] * len(observation.image_info)
    against = {observation.model.class_index(name) for name in named if isinstance(name, (str, int))}
    return [
        f"{picture.name} is predicted as {observation.model.class_name(index)}, one to compare with; give --target"
        if index in against
        else ""
        for picture, index in zip(observation.image_info, class_indices(observation, None).tolist(), strict=True)
    ]


def _findings(observation: Observation, opened: Sequence[Opened], plan: Plan) -> Iterator[Finding]:
    plain = cam(observation, Logit(plan.target), plan.rule)
    contrasted = _contrast(observation, plan)
    against = plan.against[0] if plan.against else None
    named = None
    if plan.with_concepts:
        named = explain(
            observation, plan.concepts, plan.target, plan.top, against,
            layer=plan.layer, reference=plan.calibration, branch=plan.branch, regions=plan.regions,
        )  # fmt: skip
    targets = class_indices(observation, plan.target)
    others = None if against is None else class_indices(observation, against)
    for i, item in enumerate(opened):
        yield Finding(
            picture=observation.image_info[i],
            model=observation.model.name,
            layer=plan.layer or observation.layer,
            target=predictions(observation, i, targets[i : i + 1])[0],
            predictions=predictions(observation, i),
            plain=plain.of(i),
            against=None if others is None else predictions(observation, i, others[i : i + 1])[0],
            named=None if named is None else named.of(i),
            photo=jpeg(item.photo) if plan.with_photos else b"",
            **({} if contrasted is None else contrasted[i]),
        )


def _contrast(observation: Observation, plan: Plan) -> list[dict[str, Any]] | None:
    """Return each photo's contrast as fields of its finding; `None` where a model has a single class.

    `explain` takes as many look-alikes as there are, where a model has fewer classes than it asks for.
    """
    most = observation.logits.shape[1] - 1
    if most < 1:
        return None
    asked = plan.contrast
    if plan.with_concepts and not asked.against:
        asked = replace(asked, nearest=min(asked.nearest, most))
    _, classes, shares = choose_references(observation, asked)
    swept = sweep(observation, asked, plan.rule) if plan.rule in LINEAR else None
    finer = cam(observation, asked, plan.rule) if swept is None else swept.explanation()
    mixtures = [None] * len(classes) if swept is None else swept.contrast_maps()
    return [
        {
            "finer": finer.of(i),
            "references": tuple(
                LookAlike(p, s)
                for p, s in zip(predictions(observation, i, classes[i]), shares[i].tolist(), strict=True)
            ),
            "gamma": asked.gamma,
            "mixture": mixtures[i],
        }
        for i in range(len(classes))
    ]
