"""What is asked of a model: a class, a concept, or any function of its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from conceptlens.concepts.vocabulary import parse_concepts, prompt
from conceptlens.io.errors import InputError
from conceptlens.model.forward import full_precision
from conceptlens.model.observation import ModelOutput, Observation

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.model.encoders import VisionLanguage

ClassName = str | int


@dataclass(frozen=True)
class BoundTarget:
    """A target fixed on one observation: a label and a target value for every image.

    `root` reads `row dimension` from any answer of the model; `measure(root, rows)` turns it into one score per row,
    where `rows` says which image of the observation each row is a variant of. So a question can be asked again of a
    masked image, and its gradient is one vector at the root, whatever lies below.
    """

    labels: tuple[str, ...]
    root: Callable[[ModelOutput], Tensor]
    measure: Callable[[Tensor, Tensor], Tensor]
    kind: str = "class"

    def ask(self, answer: ModelOutput, rows: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
        """Return the score of every row of another answer."""
        return self.measure(self.root(answer), rows)

    def at(self, observation: Observation) -> tuple[Tensor, Float[Tensor, "image"], Float[Tensor, "image dimension"]]:
        """Return the root in the graph of `observation`, the scores there, and their gradient at the root."""
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has turned off
            root = self.root(observation)
            rows = torch.arange(len(self.labels), device=root.device)
            point = root.detach().requires_grad_()
            with full_precision(point):
                scores = self.measure(point, rows)
                (cotangent,) = torch.autograd.grad(scores.sum(), point, materialize_grads=True, allow_unused=True)
        return root, scores.detach(), cotangent


class Target(Protocol):
    """Anything that can be fixed on an observation as a question."""

    def bind(self, observation: Observation) -> BoundTarget:
        """Return this target as a question about `observation`."""
        ...


def logits_of(answer: ModelOutput) -> Tensor:
    """The root of targets that read class scores."""
    return answer.logits


def embedding_of(answer: ModelOutput) -> Tensor:
    """The root of targets that read the model's embedding."""
    return answer.embedding


@dataclass(frozen=True)
class Logit:
    """The score of a class before the softmax: `y_c`.

    `target` is a name, an index, one of them per image, or nothing for the class each image is predicted as.
    """

    target: ClassName | Sequence[ClassName] | None = None

    def bind(self, observation: Observation) -> BoundTarget:
        """Fix the class of every image."""
        index = class_indices(observation, self.target)
        labels = tuple(observation.model.class_name(int(i)) for i in index)
        return BoundTarget(labels, logits_of, lambda logits, rows: take(logits, index[rows]))


@dataclass(frozen=True)
class Probability:
    """The probability of a class after the softmax: `p_c`."""

    target: ClassName | Sequence[ClassName] | None = None

    def bind(self, observation: Observation) -> BoundTarget:
        """Fix the class of every image."""
        index = class_indices(observation, self.target)
        labels = tuple(observation.model.class_name(int(i)) for i in index)
        return BoundTarget(labels, logits_of, lambda logits, rows: take(wide(logits).softmax(1), index[rows]))


@dataclass(frozen=True)
class Concept:
    """The similarity of an image to a text, or to a direction of your own: `scale <E(x), t>`.

    `text` is encoded by the model's own vision-language pair, or by `by`; `direction[dimension]` is used as it is,
    against the model's embedding. (CE-FAM, ICCV 2025, section 3: S^t.) A text is asked about by its concept type, as
    in `explain`: "striped fur:texture" says which; `prompt` is a sentence of your own with {} for the text.
    """

    text: str = ""
    direction: Tensor | None = None
    by: VisionLanguage | None = None
    prompt: str | None = None

    def bind(self, observation: Observation) -> BoundTarget:
        """Encode the text once; the same vector serves every image."""
        if self.direction is not None:
            labels = (self.text or "direction",) * len(observation.images)
            vector = self.direction
            return BoundTarget(labels, embedding_of, lambda e, rows: wide(e) @ vector.to(wide(e)), "concept")
        language = self.by or observation.model.language
        (concept,) = parse_concepts([self.text])
        asked = prompt(concept) if self.prompt is None else self.prompt.format(concept.label)
        vector = language.encode_text([asked])[0]
        return BoundTarget(
            (concept.label,) * len(observation.images),
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


def class_indices(observation: Observation, target: ClassName | Sequence[ClassName] | None) -> Int[Tensor, "image"]:
    """Return one class per image; `None` means the predicted one."""
    logits = observation.logits
    if target is None:
        return logits.detach().argmax(1)
    if isinstance(target, Tensor):
        target = target.tolist()
    if isinstance(target, bool) or not isinstance(target, (str, int, Sequence)):
        raise InputError(f"{target!r} is no class; give a name, an index, or one of them per image")
    several = [target] * len(logits) if isinstance(target, (str, int)) else list(target)
    if len(several) != len(logits):
        raise InputError(f"{len(several)} targets were given for {len(logits)} images; expected one, or one per image")
    return torch.tensor([class_index(observation, name) for name in several], device=logits.device)


def class_index(observation: Observation, name: ClassName) -> int:
    """Return the index of a class by name or index; refused where the model has no such class."""
    index, classes = observation.model.class_index(name), observation.logits.shape[1]
    if not 0 <= index < classes:
        raise InputError(f"no class {index} in {observation.model.name}; it has classes 0 to {classes - 1}")
    return index


def wide(values: Tensor) -> Tensor:
    """Return `values` in float32, or in float64 where they are: half precision is too narrow to compare classes in."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def take(values: Float[Tensor, "row class"], index: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
    """Return one value of every row; the index is gathered as it is, so ties cannot move it."""
    return values.gather(1, index[:, None])[:, 0]


@dataclass(frozen=True)
class _Custom:
    """A callable target: its score hangs in the graph itself."""

    score: Callable[[ModelOutput], Tensor]

    def bind(self, observation: Observation) -> BoundTarget:
        label = getattr(self.score, "__name__", type(self.score).__name__)
        return BoundTarget((label,) * len(observation.images), self._root, lambda root, rows: root[:, 0])

    def _root(self, answer: ModelOutput) -> Tensor:
        value = self.score(answer)
        if not isinstance(value, Tensor) or value.ndim != 1:
            given = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"a callable target gave {given}; expected one score per image, a tensor of shape (image,)"
            )
        return value[:, None]


def as_target(target: Target | Callable[[ModelOutput], Tensor] | ClassName | None) -> Target:
    """Return `target` as a target: a name or index means its logit, nothing the predicted class, a callable itself."""
    if target is None or isinstance(target, (str, int)):
        return Logit(target)
    if hasattr(target, "bind"):
        return target  # pyright: ignore[reportReturnType]
    if callable(target):
        return _Custom(target)
    raise InputError(
        f"a {type(target).__name__} is no target; expected cl.Logit, cl.Contrast, cl.Concept or a callable"
    )
