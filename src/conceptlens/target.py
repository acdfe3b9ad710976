"""What is asked of a model: a class, a class against its look-alikes, a concept, or any function of its answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from conceptlens.error import InputError
from conceptlens.observe import Answer, Observation

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.text.encoder import VisionLanguage

ClassName = str | int
By = Literal["logit", "rank", "weight"]
Weighting = Literal["uniform", "softmax", "cosine"]
Of = Literal["logits", "probabilities"]
Objective = Literal["paper", "official", "torchcam"]


@dataclass(frozen=True)
class Question:
    """A target fixed on one observation: a label and a target value for every image.

    `root` reads `row dimension` from any answer of the model; `measure(root, rows)` turns it into one score per row,
    where `rows` says which image of the observation each row is a variant of. So a question can be asked again of a
    masked image, and its gradient is one vector at the root, whatever lies below.
    """

    labels: tuple[str, ...]
    root: Callable[[Answer], Tensor]
    measure: Callable[[Tensor, Tensor], Tensor]
    kind: str = "class"

    def ask(self, answer: Answer, rows: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
        """Return the score of every row of another answer."""
        return self.measure(self.root(answer), rows)

    def at(self, seen: Observation) -> tuple[Tensor, Float[Tensor, "image"], Float[Tensor, "image dimension"]]:
        """Return the root in the graph of `seen`, the scores there, and their gradient at the root."""
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has turned off
            root = self.root(seen)
            rows = torch.arange(len(self.labels), device=root.device)
            point = root.detach().requires_grad_()
            scores = self.measure(point, rows)
            (cotangent,) = torch.autograd.grad(scores.sum(), point, materialize_grads=True, allow_unused=True)
        return root, scores.detach(), cotangent


class Target(Protocol):
    """Anything that can be fixed on an observation as a question."""

    def question(self, seen: Observation) -> Question:
        """Return this target as a question about `seen`."""
        ...


def logits_of(answer: Answer) -> Tensor:
    """The root of targets that read class scores."""
    return answer.logits


def embedding_of(answer: Answer) -> Tensor:
    """The root of targets that read the model's embedding."""
    return answer.embedding


@dataclass(frozen=True)
class Logit:
    """The score of a class before the softmax: `y_c`.

    `target` is a name, an index, one of them per image, or nothing for the class each image is predicted as.
    """

    target: ClassName | Sequence[ClassName] | None = None

    def question(self, seen: Observation) -> Question:
        """Fix the class of every image."""
        index = class_indices(seen, self.target)
        labels = tuple(seen.model.class_name(int(i)) for i in index)
        return Question(labels, logits_of, lambda logits, rows: _take(logits, index[rows]))


@dataclass(frozen=True)
class Probability:
    """The probability of a class after the softmax: `p_c`."""

    target: ClassName | Sequence[ClassName] | None = None

    def question(self, seen: Observation) -> Question:
        """Fix the class of every image."""
        index = class_indices(seen, self.target)
        labels = tuple(seen.model.class_name(int(i)) for i in index)
        return Question(labels, logits_of, lambda logits, rows: _take(wide(logits).softmax(1), index[rows]))


@dataclass(frozen=True)
class Concept:
    """The similarity of an image to a text, or to a direction of your own: `scale <E(x), t>`.

    `text` is encoded by the model's own vision-language pair, or by `by`; `direction[dimension]` is used as it is,
    against the model's embedding. (CE-FAM, ICCV 2025, section 3: S^t.)
    """

    text: str = ""
    direction: Tensor | None = None
    by: VisionLanguage | None = None
    prompt: str = "a photo of a {}"

    def question(self, seen: Observation) -> Question:
        """Encode the text once; the same vector serves every image."""
        labels = (self.text or "direction",) * len(seen.images)
        if self.direction is not None:
            vector = self.direction
            return Question(labels, embedding_of, lambda e, rows: wide(e) @ vector.to(wide(e)), "concept")
        language = self.by or seen.model.language
        vector = language.encode_text([self.prompt.format(self.text)])[0]
        return Question(
            labels,
            language.encode_image,
            lambda e, rows: similarity(e, vector.to(e.device)[None], language)[:, 0],
            "concept",
        )


def similarity(
    images: Float[Tensor, "image dimension"], texts: Float[Tensor, "text dimension"], language: VisionLanguage
) -> Float[Tensor, "image text"]:
    """Return `scale <image, text>`, of unit vectors where the pair is trained so; in float32 or better."""
    images = wide(images)
    texts = texts.to(images)
    if language.normalised:
        images, texts = (t / t.norm(dim=1, keepdim=True).clamp_min(1e-12) for t in (images, texts))
    return language.scale * images @ texts.T


@dataclass(frozen=True)
class Contrast:
    """What tells a class from its look-alikes: `y_c - gamma sum_t pi_t y_{d_t}`.

    Finer-CAM (CVPR 2025, equations 5 to 8): aggregated before the ReLU, gamma 0.6, three references by default.

    - `target`: as in `Logit`, or a `Concept` (then `against` are concepts or texts: the multi-modal form).
    - `against`: reference classes by name or index, the same for every image; where empty, the `nearest` classes
      `by` "logit" (closest in value, above or below), "rank" (highest other logits) or "weight" (cosine of
      classifier rows).
    - `references`: how they are weighted, always as constants: "uniform" (the paper), "softmax" of their logits, or
      "cosine" of their classifier rows.
    - `of`: "logits", or "probabilities" for `p_c - gamma sum_t pi_t p_{d_t}`.
    - `objective`: "paper", or, only to compare results, "official" (the released code: `sum p_t (y_c - gamma y_t) /
      (sum p_t + 1e-9)` with its weights inside the gradient) or "torchcam".
    """

    target: ClassName | Sequence[ClassName] | Concept | None = None
    against: Sequence[ClassName | Concept] = ()
    nearest: int = 3
    gamma: float = 0.6
    by: By = "logit"
    references: Weighting = "uniform"
    of: Of = "logits"
    objective: Objective = "paper"

    def __post_init__(self) -> None:
        """Check the numbers at the edge."""
        if not (isinstance(self.gamma, (int, float)) and math.isfinite(self.gamma) and self.gamma >= 0):
            raise InputError(f"gamma is {self.gamma}; expected a finite number of 0 or more (0.6 in the paper)")
        if self.nearest < 1:
            raise InputError(f"nearest is {self.nearest}; expected at least one reference")
        if isinstance(self.against, str):
            object.__setattr__(self, "against", (self.against,))
        words = ((self.by, By), (self.references, Weighting), (self.of, Of), (self.objective, Objective))
        for value, allowed in words:
            if value not in allowed.__args__:
                raise InputError(f"'{value}' is not known to Contrast; expected one of {', '.join(allowed.__args__)}")

    def question(self, seen: Observation) -> Question:
        """Fix target, references and their weights for every image."""
        if isinstance(self.target, Concept):
            return _concept_contrast(self, self.target, seen)
        index, others, weights = choose_references(seen, self)
        name = seen.model.class_name
        labels = tuple(
            contrast_label(name(int(c)), [name(int(o)) for o in row]) for c, row in zip(index, others, strict=True)
        )

        def measure(logits: Tensor, rows: Tensor) -> Tensor:
            values = wide(logits)
            if self.objective == "official":
                return _official(values, index[rows], others[rows], self.gamma)
            if self.of == "probabilities":
                values = values.softmax(1)
            return _take(values, index[rows]) - self.gamma * (weights[rows] * values.gather(1, others[rows])).sum(1)

        return Question(labels, logits_of, measure, "contrast")


def choose_references(
    seen: Observation, contrast: Contrast
) -> tuple[Int[Tensor, "image"], Int[Tensor, "image reference"], Float[Tensor, "image reference"]]:
    """Return target classes, reference classes and reference weights (constants that sum to 1) of a contrast."""
    logits = wide(seen.logits.detach())
    if isinstance(contrast.target, Concept):
        raise InputError("a contrast of concepts has no reference classes; its references are the texts in against=")
    index = class_indices(seen, contrast.target)
    if contrast.against:
        named = [_class_index(seen, _as_class(name)) for name in contrast.against]
        others = torch.tensor(named, device=logits.device).expand(len(logits), -1)
        if bool((others == index[:, None]).any()):
            raise InputError("a class cannot stand against itself; leave the target out of against=")
    else:
        others = _nearest(seen, logits, index, contrast)
    return index, others, _reference_weights(seen, logits, index, others, contrast.references)


def class_indices(seen: Observation, target: ClassName | Sequence[ClassName] | None) -> Int[Tensor, "image"]:
    """Return one class per image; `None` means the predicted one."""
    logits = seen.logits
    if target is None:
        return logits.detach().argmax(1)
    several = [target] * len(logits) if isinstance(target, (str, int)) else list(target)
    if len(several) != len(logits):
        raise InputError(f"{len(several)} targets were given for {len(logits)} images; expected one, or one per image")
    return torch.tensor([_class_index(seen, name) for name in several], device=logits.device)


def _class_index(seen: Observation, name: ClassName) -> int:
    index, classes = seen.model.class_index(name), seen.logits.shape[1]
    if not 0 <= index < classes:
        raise InputError(f"no class {index} in {seen.model.name}; it has classes 0 to {classes - 1}")
    return index


def _as_class(name: ClassName | Concept) -> ClassName:
    if isinstance(name, Concept):
        raise InputError("a concept stands against a class; make the target a cl.Concept too")
    return name


def _nearest(seen: Observation, logits: Tensor, index: Tensor, contrast: Contrast) -> Tensor:
    if contrast.nearest > logits.shape[1] - 1:
        raise InputError(f"{contrast.nearest} references were asked of {logits.shape[1]} classes; ask for fewer")
    if contrast.by == "logit":
        closeness = -(logits - _take(logits, index)[:, None]).abs()
    elif contrast.by == "rank":
        closeness = logits.clone()
    else:
        closeness = _row_cosines(seen, index)
    closeness = closeness.scatter(1, index[:, None], -math.inf)
    return closeness.topk(contrast.nearest, dim=1).indices


def _reference_weights(seen: Observation, logits: Tensor, index: Tensor, others: Tensor, how: Weighting) -> Tensor:
    if how == "softmax":
        return logits.gather(1, others).softmax(1)
    if how == "cosine":
        closeness = _row_cosines(seen, index).gather(1, others).clamp_min(0)
        total = closeness.sum(1, keepdim=True)
        return torch.where(total > 0, closeness / total.clamp_min(1e-12), 1.0 / others.shape[1])
    return torch.full(others.shape, 1.0 / others.shape[1], dtype=logits.dtype, device=logits.device)


def _row_cosines(seen: Observation, index: Tensor) -> Tensor:
    linear = seen.model.classifier_module
    if linear is None:
        raise InputError(f"{seen.model.name} has no linear classifier to compare classes by; use by='logit' or 'rank'")
    rows = torch.nn.functional.normalize(wide(linear.weight.detach()), dim=1)
    return rows[index] @ rows.T


def _official(values: Tensor, index: Tensor, others: Tensor, gamma: float) -> Tensor:
    """The released code's objective (FinerWeightedTarget), weights and epsilon included."""
    weights = values.softmax(1).gather(1, others)
    margins = _take(values, index)[:, None] - gamma * values.gather(1, others)
    return (weights * margins).sum(1) / (weights.sum(1) + 1e-9)


def _concept_contrast(contrast: Contrast, target: Concept, seen: Observation) -> Question:
    """`S(x, concept) - gamma mean S(x, base)`: the multi-modal form (section 4.3)."""
    if not contrast.against:
        raise InputError("a contrast of concepts needs base texts, such as against=['bird']")
    bases = [
        b if isinstance(b, Concept) else Concept(str(b), by=target.by, prompt=target.prompt) for b in contrast.against
    ]
    asked = [c.question(seen) for c in (target, *bases)]
    first = asked[0].root
    if any(q.root != first and q.root(seen) is not first(seen) for q in asked):
        raise InputError("a concept and its bases were encoded by different models; encode them all by the same one")
    labels = (f"{target.text} / {', '.join(b.text for b in bases)}",) * len(seen.images)

    def measure(root: Tensor, rows: Tensor) -> Tensor:
        scores = [q.measure(root, rows) for q in asked]
        return scores[0] - contrast.gamma * torch.stack(scores[1:]).mean(0)

    return Question(labels, first, measure, "contrast")


def contrast_label(target: str, references: Sequence[str]) -> str:
    """Return `target / reference, reference`, each by the first of its names."""
    short = [name.split(",")[0] for name in (target, *references)]
    return f"{short[0]} / {', '.join(short[1:])}" if references else target


def wide(values: Tensor) -> Tensor:
    """Return `values` in float32, or in float64 where they are: half precision is too narrow to compare classes in."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _take(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index[:, None])[:, 0]


@dataclass(frozen=True)
class _Custom:
    """A callable target: its score hangs in the graph itself."""

    score: Callable[[Answer], Tensor]

    def question(self, seen: Observation) -> Question:
        label = getattr(self.score, "__name__", type(self.score).__name__)
        return Question((label,) * len(seen.images), self._root, lambda root, rows: root[:, 0])

    def _root(self, answer: Answer) -> Tensor:
        value = self.score(answer)
        if not isinstance(value, Tensor) or value.ndim != 1:
            given = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"a callable target gave {given}; expected one score per image, a tensor of shape (image,)"
            )
        return value[:, None]


def as_target(target: Target | Callable[[Answer], Tensor] | ClassName | None) -> Target:
    """Return `target` as a target: a name or index means its logit, nothing the predicted class, a callable itself."""
    if target is None or isinstance(target, (str, int)):
        return Logit(target)
    if hasattr(target, "question"):
        return target  # pyright: ignore[reportReturnType]
    if callable(target):
        return _Custom(target)
    raise InputError(
        f"a {type(target).__name__} is no target; expected cl.Logit, cl.Contrast, cl.Concept or a callable"
    )
