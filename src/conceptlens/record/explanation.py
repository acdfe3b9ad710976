"""The one record every method returns: maps, the weights that made them, scores, and where they came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.record.chosen_questions import chosen_rows
from conceptlens.record.outputs import RecordOutputs, plain_index
from conceptlens.record.source import Source

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float
    from torch import Tensor

    from conceptlens.record.external_maps import Labels


# The fields with one number for each image and question.
NUMBERS = (
    "scores", "contributions", "contributions_low", "contributions_high", "z_scores", "presence", "implied",
    "base_rates",
)  # fmt: skip
# The fields with one number for each image.
MARGIN_PARTS = ("margins", "unplaced", "residuals", "random_level")
# The other fields with a value for each image and question.
OTHERS = ("maps", "weights", "vectors", "known")


@dataclass(frozen=True, repr=False, eq=False)
class Explanation(RecordOutputs):
    """Maps for every image and question, with the weights that made them.

    The equation of every method: `maps = activation(sum over channel of weights * features)`. A *question* is one
    target fixed on the observation: one target given to `cam` is one question about every image, two targets are two,
    and so are two concepts given to `explain`. So `maps[i, q]` answers question `q` about image `i`.

    All tensors are detached and stay on the device they were made on.

    Args:
        maps: `image question height width`; raw, at the layer's own grid, never rescaled.
        weights: `image question channel (height|1) (width|1)`; `None` for a combination of layers, whose `components`
            hold their own.
        scores: `image question`; the value that each question is about (a logit, a margin, a similarity).
        labels: `labels[image][question]`; what each question is called.
        source: Model, layer, method, photos and settings.
        activation: "relu", or "identity" for maps that can be negative.
        contributions: `image question`; how much each concept counts, where the method defines it.
        contributions_low: `image question`; the lowest contribution among small changes of the photo, where these were
            made.
        contributions_high: `image question`; the highest one.
        margins: `image`; the margin that the contributions and `unnamed` add up to; `None` where the method's
            contributions do not add up.
        unplaced: `image`; the part of the margin that no cell of the layer holds, part of `unnamed`.
        residuals: `image`; what the sum misses, 0 where it is exact.
        random_level: `image`; the mean size of the contribution of directions drawn at random in place of a word's, in
            the unit of `contributions`, where it was asked for.
        z_scores: `image question`; how many standard deviations a score lies above the concept's mean over reference
            photos, where there is a reference.
        presence: `image question`; the probability that a concept is in the photo, where it is known.
        implied: `image question`; the probability that the predicted classes imply, part of `presence`.
        base_rates: `image question`; the share of everyday photos that show a concept, part of `presence`.
        known: `image question`; whether the model knows the concept. One that it does not know has a map of 0 and NaN
            for every number. `None` where all are known.
        explained_classes: The class that `contributions` are about, for each image.
        rivals: What the margin of that class is over, for each image: another class, "all other classes", or an empty
            text where it is over nothing, as that of a label or a quantity.
        unit: What margins and contributions by evidence are counted in: "logits", "log-odds", "units of the output".
        concept_types: `concept_types[image][question]`, where questions are concepts of a vocabulary.
        target_kinds: What each question is about: "class", "contrast", "concept" or "custom".
        layers: `layers[image][question]`; the layer of each map, where a method chooses one for each concept.
        vectors: `image question dimension`; embeddings to compare, where a method makes them; LoCE's stand in units
            of each channel's scale, its `weights` in those of the features.
        diagnostics: `diagnostics[name][image question]`; how good each map is, where a method measures it; higher is
            better unless the method says otherwise.
        components: The explanations that this one was joined from, such as those of single layers.
        target_classes: `target_classes[image][question]`; the index of the class that a question is about (of a
            contrast that of its target), `None` where it is about none; empty where none is known.

    Raises:
        InputError: Two fields do not speak of the same images and questions.

    Examples:
        >>> found = cl.cam(cl.load_model().observe("cat.png"), [cl.Logit("tabby"), cl.Logit("lynx")])
        >>> found.overlay(question="lynx").save("lynx.png")
        >>> figure, axes = found.plot()
        >>> table = found.to_frame()
    """

    maps: Float[Tensor, "image question height width"]
    weights: Float[Tensor, "image question channel rows columns"] | None
    scores: Float[Tensor, "image question"]
    labels: tuple[tuple[str, ...], ...]
    source: Source
    activation: str = "relu"
    contributions: Float[Tensor, "image question"] | None = None
    contributions_low: Float[Tensor, "image question"] | None = None
    contributions_high: Float[Tensor, "image question"] | None = None
    margins: Float[Tensor, "image"] | None = None
    unplaced: Float[Tensor, "image"] | None = None
    residuals: Float[Tensor, "image"] | None = None
    random_level: Float[Tensor, "image"] | None = None
    z_scores: Float[Tensor, "image question"] | None = None
    presence: Float[Tensor, "image question"] | None = None
    implied: Float[Tensor, "image question"] | None = None
    base_rates: Float[Tensor, "image question"] | None = None
    known: Bool[Tensor, "image question"] | None = None
    explained_classes: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    unit: str = "logits"
    concept_types: tuple[tuple[str, ...], ...] = ()
    target_kinds: tuple[str, ...] = ()
    layers: tuple[tuple[str, ...], ...] = ()
    vectors: Float[Tensor, "image question dimension"] | None = None
    diagnostics: Mapping[str, Float[Tensor, "image question"]] = field(default_factory=dict)
    components: tuple[Explanation, ...] = ()
    target_classes: tuple[tuple[int | None, ...], ...] = ()

    def __post_init__(self) -> None:
        """Check that every field speaks of the same images and questions."""
        if self.maps.ndim != 4:
            raise InputError(f"maps have {self.maps.ndim} axes; expected image question height width")
        images, questions = self.maps.shape[:2]
        values = {name: getattr(self, name) for name in (*NUMBERS, *OTHERS)}
        for name, value in {**values, **self.diagnostics}.items():
            longer = name in ("maps", "weights", "vectors")
            if value is not None and tuple(value.shape[: 2 if longer else None]) != (images, questions):
                expected = f"{(images, questions)}{' and more' * longer}"
                raise InputError(f"{name} has shape {tuple(value.shape)}; expected {expected}")
        for name in MARGIN_PARTS:
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != (images,):
                raise InputError(f"{name} has shape {tuple(value.shape)}; expected {(images,)}")
        for name in ("labels", "concept_types", "target_classes", "layers"):
            rows = getattr(self, name)
            if (rows or name == "labels") and (len(rows) != images or any(len(row) != questions for row in rows)):
                raise InputError(f"{name} must name {questions} questions for each of {images} images")
        if len(self.source.image_info) != images:
            raise InputError(f"source.image_info names {len(self.source.image_info)} images; the maps hold {images}")
        if not self.target_kinds:
            kind = "concept" if self.concept_types else "custom"
            object.__setattr__(self, "target_kinds", (kind,) * questions)
        if len(self.target_kinds) != questions:
            raise InputError(f"target_kinds names {len(self.target_kinds)} questions; the maps hold {questions}")

    @staticmethod
    def from_maps(
        array: np.ndarray | Tensor,
        labels: Labels,
        images: Any = None,
        *,
        scores: np.ndarray | Tensor | None = None,
        signed: bool | None = None,
        method: str = "given",
        model: str = "",
    ) -> Explanation:
        """Return maps of your own, or of another library, as a record that reports, metrics and evaluation take.

        Args:
            array: `image height width` (one question) or `image question height width`; numpy or torch, any size.
            labels: What the questions are called: one text for all images; for `image height width` also one text for
                each image; for `image question height width` one text for each question, or a list of them for each
                image.
            images: What the maps speak of, one for each image: photos (PIL, or uint8 `height width 3`), paths, names
                or `ImageInfo`; or an observation, whose maps cover the part of the photo that it saw. Other maps
                cover the whole photo, unless an `ImageInfo` has another `box`.
            scores: `image` or `image question`; by default the highest value of each map.
            signed: Whether values below zero are evidence against; by default, whether there are any.
            method: The name of the method that made the maps.
            model: The name of the model they speak of.

        Returns:
            An `Explanation` without `weights`.

        Raises:
            InputError: Shapes, labels or images do not fit each other, or a map holds NaN or infinite values.
            InputTypeError: `array` is neither numpy nor torch, or an image is none of the kinds above.

        Examples:
            >>> maps = captum.attr.LayerGradCam(model, layer).attribute(batch, target=3)  # image 1 height width
            >>> cl.Explanation.from_maps(maps, "tabby", ["a.jpg", "b.jpg"]).plot()
        """
        from conceptlens.record.external_maps import read_maps

        return Explanation(**read_maps(array, labels, images, scores, signed, method, model))

    def __repr__(self) -> str:
        """Say in one line what is explained, and of what size the maps are."""
        return f"Explanation({self._heading()})"

    def of(self, image: int) -> Explanation:
        """Return the explanation of one image of the batch, as a batch of one.

        Args:
            image: Its index in the batch; negative ones count from the end.

        Returns:
            An explanation whose tensors and rows keep the image's axis, of length 1.

        Raises:
            InputError: The batch has no such image.
            InputTypeError: `image` is no integer.
        """
        index = plain_index(image)
        if index is None:
            raise InputTypeError(f"image is {image!r}; expected the index of an image, 0 to {len(self.maps) - 1}")
        if not -len(self.maps) <= index < len(self.maps):
            raise InputError(f"no image {index} in this explanation; it holds images 0 to {len(self.maps) - 1}")
        index %= len(self.maps)
        one = slice(index, index + 1)
        tensors = {
            name: None if getattr(self, name) is None else getattr(self, name)[one]
            for name in (*NUMBERS, *MARGIN_PARTS, *OTHERS)
        }
        texts = ("labels", "explained_classes", "rivals", "concept_types", "target_classes", "layers")
        rows = {name: getattr(self, name)[one] for name in texts}
        return replace(
            self,
            **tensors,
            **rows,
            diagnostics={name: value[one] for name, value in self.diagnostics.items()},
            source=self.source.of(index),
            components=tuple(part.of(index) for part in self.components),
        )

    @property
    def unnamed(self) -> Float[Tensor, "image"] | None:
        """The part of each margin that belongs to none of the named concepts.

        `margins = contributions.nansum(1) + unnamed + residuals`; `None` where contributions do not add up to a margin.
        """
        if self.margins is None or self.residuals is None or self.contributions is None:
            return None
        return self.margins - self.residuals - self.contributions.nansum(1)

    def select(self, questions: Iterable[int] | Iterable[Iterable[int]]) -> Explanation:
        """Return the explanation of some of its questions.

        Args:
            questions: Their indices in the order wanted, the same for all images, or as many for each image; none
                leaves an explanation without questions.

        Returns:
            An explanation whose tensors and rows hold these questions alone; what contributions the others had counts
            to `unnamed`.

        Raises:
            InputError: There is no such question, or the rows are not one for each image and of one length.
            InputTypeError: An index is no integer.
        """
        import torch

        images = len(self.maps)
        each = chosen_rows(questions, *self.maps.shape[:2])
        index = torch.tensor(each, dtype=torch.long, device=self.maps.device).reshape(images, -1)
        image = torch.arange(images, device=self.maps.device)[:, None]
        tensors = {
            name: None if getattr(self, name) is None else getattr(self, name)[image, index]
            for name in (*NUMBERS, *OTHERS)
        }
        rows = {
            name: tuple(tuple(row[q] for q in chosen) for row, chosen in zip(getattr(self, name), each, strict=False))
            for name in ("labels", "concept_types", "target_classes", "layers")
        }
        return replace(
            self,
            **tensors,
            **rows,
            target_kinds=tuple(self.target_kinds[q] for q in each[0]) if each else self.target_kinds,
            diagnostics={name: value[image, index] for name, value in self.diagnostics.items()},
            components=tuple(part.select(each) for part in self.components),
        )
