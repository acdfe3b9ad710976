"""The one record every method returns: maps, the weights that made them, scores, and where they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from conceptlens.io.errors import InputError, near

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class ImageInfo:
    """One photo as a model saw it.

    `box` is the part of the upright photo that reached the model, `(left, top, right, bottom)` as shares of its
    width and height: a centre crop does not see the borders.
    """

    name: str
    fingerprint: str = ""
    width: int = 0
    height: int = 0
    box: tuple[float, float, float, float] = WHOLE


@dataclass(frozen=True)
class Source:
    """What an explanation was made from: enough to make it again."""

    model: str
    layer: str
    method: str
    image_info: tuple[ImageInfo, ...]
    settings: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """Maps for every image and question, with the weights that made them.

    The equation of every method: `maps = activation(sum over channel of weights * features)`.

    - `maps[image question height width]`: raw, at the layer's own grid, never rescaled.
    - `weights[image question channel (height|1) (width|1)]`; `None` for a combination of layers, whose `components`
      hold their own.
    - `scores[image question]`: the value each question asked about (a logit, a margin, a similarity).
    - `labels[image][question]`: what each question is called.
    - `contributions[image question]`, `z_scores[image question]`: only where the method defines them;
      `explained_classes[image]` is the class that contributions speak of.
    - `concept_types[image][question]`: the concept types, where questions are concepts of a vocabulary.
    - `target_kinds[question]`: what each question is (class, contrast, concept, custom) elsewhere.
    - `layers[image][question]`: the layer that each map was taken from, where a method chooses one for each concept.
    - `vectors[image question dimension]`: embeddings to compare, where a method makes them; LoCE's stand in units of
      each channel's scale, its `weights` in those of the features.
    - `diagnostics[name][image question]`: how good each answer is, where a method says so; higher is better unless the
      method says otherwise.

    All tensors are detached and stay on the device they were made on.
    """

    maps: Float[Tensor, "image question height width"]
    weights: Float[Tensor, "image question channel rows columns"] | None
    scores: Float[Tensor, "image question"]
    labels: tuple[tuple[str, ...], ...]
    source: Source
    activation: str = "relu"
    contributions: Float[Tensor, "image question"] | None = None
    z_scores: Float[Tensor, "image question"] | None = None
    explained_classes: tuple[str, ...] = ()
    concept_types: tuple[tuple[str, ...], ...] = ()
    target_kinds: tuple[str, ...] = ()
    layers: tuple[tuple[str, ...], ...] = ()
    vectors: Float[Tensor, "image question dimension"] | None = None
    diagnostics: Mapping[str, Float[Tensor, "image question"]] = field(default_factory=dict)
    components: tuple[Explanation, ...] = ()

    def __post_init__(self) -> None:
        """Check that every field speaks of the same images and questions."""
        if self.maps.ndim != 4:
            raise InputError(f"maps have {self.maps.ndim} axes; expected image question height width")
        images, questions = self.maps.shape[:2]
        values = {name: getattr(self, name) for name in ("scores", "contributions", "z_scores")}
        for name, value in {**values, **self.diagnostics}.items():
            if value is not None and tuple(value.shape) != (images, questions):
                raise InputError(f"{name} has shape {tuple(value.shape)}; expected {(images, questions)}")
        if len(self.labels) != images or any(len(row) != questions for row in self.labels):
            raise InputError(f"labels must name {questions} questions for each of {images} images")
        for name in ("weights", "vectors"):
            value = getattr(self, name)
            if value is not None and tuple(value.shape[:2]) != (images, questions):
                raise InputError(f"{name} start with {tuple(value.shape[:2])}; expected {(images, questions)}")

    @property
    def signed(self) -> bool:
        """Whether the maps can be negative by construction."""
        return self.activation != "relu"

    def of(self, image: int) -> Explanation:
        """Return the explanation of one image of the batch, as a batch of one."""
        one = slice(image, image + 1)
        tensors = {
            name: None if getattr(self, name) is None else getattr(self, name)[one]
            for name in ("maps", "weights", "scores", "contributions", "z_scores", "vectors")
        }
        rows = {name: getattr(self, name)[one] for name in ("labels", "explained_classes", "concept_types", "layers")}
        return replace(
            self,
            **tensors,
            **rows,
            diagnostics={name: value[one] for name, value in self.diagnostics.items()},
            source=replace(self.source, image_info=self.source.image_info[one]),
            components=tuple(part.of(image) for part in self.components),
        )

    def question_index(self, label: str, image: int = 0) -> int:
        """Return the index of the question called `label` for `image`."""
        row = self.labels[image]
        if label not in row:
            raise InputError(f"no question '{label}' in this explanation; it has: {near(label, row, len(row))}")
        return row.index(label)
