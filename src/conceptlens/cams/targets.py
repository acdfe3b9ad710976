"""Targets: the score that a map explains, of a class, a concept, or any function of the model's output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from conceptlens.concepts.class_knowledge import UNNAMED_RATE
from conceptlens.concepts.vocabulary import parse_concepts, prompt
from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.model.answer import wide
from conceptlens.model.class_concepts import rate_of
from conceptlens.model.class_names import is_class, is_integer
from conceptlens.model.encoders import knows, unknown_words
from conceptlens.model.forward import full_precision
from conceptlens.model.model_output import ModelOutput
from conceptlens.model.observation import Observation
from conceptlens.model.score_checks import check_finite, check_kind

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.concepts.vocabulary import ConceptName
    from conceptlens.model.backbone import Backbone
    from conceptlens.model.class_concepts import ClassConcepts
    from conceptlens.model.encoders import VisionLanguage

ClassName = str | int
# One class for all images, or one for each image; `None` is the class that each image is predicted as.
Classes = ClassName | Sequence[ClassName] | np.ndarray | Tensor | None


@dataclass(frozen=True)
class BoundTarget:
    """A target fixed on one observation: one question, with a label and a score for every image.

    `root` reads a tensor `row dimension` from any output of the model; `measure(root, rows)` turns it into one score
    per row, where `rows` says which image of the observation each row is a variant of. So the same question can be
    put to a masked image, and its gradient is one vector at the root, whatever layers lie below.

    Args:
        labels: What the question is called, for each image.
        root: From a `ModelOutput` to the tensor `row dimension` that the score depends on, such as the logits.
        measure: From that tensor and the image index of each row to the score of each row.
        kind: What the question is about: "class", "contrast", "concept", "detection" or a word of your own.
        placed: The question is about one place of the image, such as one detection's box.
    """

    labels: tuple[str, ...]
    root: Callable[[ModelOutput], Tensor]
    measure: Callable[[Tensor, Tensor], Tensor]
    kind: str = "class"
    placed: bool = False

    def score(self, output: ModelOutput, rows: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
        """Return the score of every row of another output of the model.

        Args:
            output: Another output of the model.
            rows: The index of the image that each of its rows is a variant of.

        Returns:
            `scores[row]`, in the graph of `output`.
        """
        return self.measure(self.root(output), rows)

    def score_and_gradient(
        self, observation: Observation
    ) -> tuple[Tensor, Float[Tensor, "image"], Float[Tensor, "image dimension"]]:
        """Return the root in the graph of `observation`, the score of each image, and its gradient at the root.

        Args:
            observation: The observation that the target was bound to.

        Returns:
            The root `(image, dimension)` in the graph; the score of each image and its gradient at the root, both
            detached.
        """
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has turned off
            root = self.root(observation)
            check_kind(root, observation.model_name)
            rows = torch.arange(len(self.labels), device=root.device)
            point = root.detach().clone().requires_grad_()  # a copy, since the model may have made it in inference mode
            with full_precision(point):
                scores = self.measure(point, rows)
                (cotangent,) = torch.autograd.grad(scores.sum(), point, materialize_grads=True, allow_unused=True)
        return root, scores.detach(), cotangent


class Target(Protocol):
    """Anything that can be fixed on an observation as a question."""

    def bind(self, observation: Observation) -> BoundTarget:
        """Return this target as a question about `observation`.

        Args:
            observation: One forward pass of a batch.

        Returns:
            One question, with a label and a score for every image.
        """
        ...


def logits_of(output: ModelOutput) -> Tensor:
    """The root of targets that read class scores."""
    return output.logits


def embedding_of(output: ModelOutput) -> Tensor:
    """The root of targets that read the model's embedding."""
    return output.embedding


@dataclass(frozen=True)
class _ClassScore(ABC):
    """A value of one class of every image, made of the logits."""

    target: Classes = None

    def __post_init__(self) -> None:
        """Keep classes as plain names and integers."""
        object.__setattr__(self, "target", plain_classes(self.target))

    def bind(self, observation: Observation) -> BoundTarget:
        """Fix the class of every image.

        Args:
            observation: One forward pass of a batch.

        Returns:
            One question, with the class of every image and its score.

        Raises:
            InputError: The model has no class scores or no such class, or the number of classes is not that of the
                images.
        """
        index = class_indices(observation, self.target)
        labels = tuple(observation.model.class_name(int(i)) for i in index)
        values = self._values(observation)
        return BoundTarget(labels, logits_of, lambda logits, rows: take(values(logits), index[rows]))

    @abstractmethod
    def _values(self, observation: Observation) -> Callable[[Tensor], Tensor]:
        """Return what makes of class scores what is asked about, `(row, class)`."""


@dataclass(frozen=True)
class Logit(_ClassScore):
    """The score of a class before the softmax: `y_c`.

    Where the model's task is another one (`Backbone(task=)`): the log-odds of a label or of one of two classes, the log
    probability of one of ordered classes, or a quantity itself.

    Args:
        target: A class name or index for all images; or one for each image, as a list, tuple, tensor or array
            `(image,)` of names or integers; or `None` for the class that each image is predicted as.

    Raises:
        InputTypeError: A class is neither a name nor an integer.
        InputError: The model has no such class, or the number of classes is not that of the images.

    Examples:
        >>> cl.cam(observation, cl.Logit("tabby"))  # one question
        >>> cl.cam(observation, [cl.Logit(281), cl.Logit(282)])  # two questions
    """

    def _values(self, observation: Observation) -> Callable[[Tensor], Tensor]:
        return lambda logits: logits


@dataclass(frozen=True)
class Probability(_ClassScore):
    """The probability of a class: `p_c`, after the softmax; after a sigmoid for labels and for one of two classes.

    Where the model is sure, the gradient of `p_c` is close to zero, and with it the map; `Logit` has no such limit.

    Args:
        target: As in `Logit`.

    Raises:
        InputTypeError: A class is neither a name nor an integer.
        InputError: The model has no such class or gives quantities, or the number of classes is not that of the images.
    """

    def _values(self, observation: Observation) -> Callable[[Tensor], Tensor]:
        answer, name = observation.answer, observation.model.name
        answer.probabilities(observation.logits.detach(), name)  # refused here, where the question is asked
        return lambda logits: answer.probabilities(logits, name)


@dataclass(frozen=True)
class Concept:
    """The similarity of an image to a text, or to a direction of your own: `scale <E(x), t>`.

    CE-FAM, ICCV 2025, section 3: `S^t`. A text is put into the sentence of its concept type, as in `explain`:
    "striped fur:texture" names the type.

    Args:
        text: What to look for; encoded by the model's own vision-language pair, or by `by`.
        direction: A vector `(dimension,)` in the space of the model's embedding, used as it is instead of a text.
        by: The pair that encodes image and text, where it is not the model's own; or "classes": the log-odds of the
            classes whose photos show the concept against those whose photos do not,
            `log sum_c r_c e^{y_c} - log sum_c (1 - r_c) e^{y_c}`, where `r_c` is how often photos of class `c` show it
            (see `ClassKnowledge`). It is the contrast of two sets of classes.
        prompt: A sentence of your own, with {} for the text.

    Raises:
        InputError: The model has no text encoder and none was given, or no embedding; or, by classes, nothing is known
            of its classes, or none of them shows the concept.

    Examples:
        >>> cl.cam(observation, cl.Concept("striped fur:texture"))
        >>> cl.cam(observation, cl.Concept("whiskers", by="classes"))
        >>> cl.cam(observation, cl.Concept("my probe", direction=vector))
    """

    text: str = ""
    direction: Tensor | None = None
    by: VisionLanguage | Literal["classes"] | None = None
    prompt: str | None = None

    def bind(self, observation: Observation) -> BoundTarget:
        """Encode the text once; the same vector serves every image.

        Args:
            observation: One forward pass of a batch.

        Returns:
            One question, with the same label for every image; its scores are `scale <E(x), t>`, or `E(x) . direction`.

        Raises:
            InputError: The model has no text encoder and none was given, or does not know the text.
        """
        if self.direction is not None:
            labels = (self.text or "direction",) * len(observation.images)
            vector = torch.as_tensor(self.direction)
            return BoundTarget(labels, embedding_of, lambda e, rows: wide(e) @ vector.to(wide(e)), "concept")
        if self.by == "classes":
            return self._by_classes(observation)
        language = self.by or observation.model.language
        (concept,) = parse_concepts([self.text])
        if not knows(language, [concept.label])[0]:
            raise InputError(unknown_words(language, [concept.label]))
        sentence = prompt(concept) if self.prompt is None else self.prompt.format(concept.label)
        vector = language.encode_text([sentence])[0]
        return BoundTarget(
            (concept.label,) * len(observation.images),
            language.encode_image,
            lambda e, rows: similarity(e, vector.to(e.device)[None], language)[:, 0],
            "concept",
        )

    def _by_classes(self, observation: Observation) -> BoundTarget:
        """Ask for the log-odds of the classes that show the concept."""
        (concept,) = parse_concepts([self.text])
        model = observation.model
        known = linked_classes(model)
        if not shown_by_classes(model, [concept])[0]:
            raise InputError(f"no class of {model.name} is known to show '{concept.label}'")
        rates = rate_of(known.rates, known, [concept])[:, 0].clamp(max=1 - UNNAMED_RATE)
        shown, hidden = (
            r.log().masked_fill(~known.linked, -torch.inf).to(observation.images.device) for r in (rates, 1 - rates)
        )

        answer = observation.answer

        def log_odds(logits: Tensor, rows: Tensor) -> Tensor:
            scores = answer.competing(logits)
            return (scores + shown).logsumexp(1) - (scores + hidden).logsumexp(1)

        return BoundTarget((concept.label,) * len(observation.images), logits_of, log_odds, "concept")


def linked_classes(model: Backbone) -> ClassConcepts:
    """Return what is known of a model's classes, and refuse a model of whose classes nothing is known.

    Args:
        model: The model.

    Raises:
        InputError: Nothing is known of any of its classes.
    """
    known = model.class_concepts
    if known is None or not bool(known.linked.any()):
        raise InputError(
            f"nothing is known of the classes of {model.name}, so no concept can be asked about by "
            "them; give a table of what their photos show: Backbone(..., knowledge=cl.read_knowledge(file))"
        )
    return known


def shown_by_classes(model: Backbone, concepts: Sequence[ConceptName]) -> list[bool]:
    """Return for each concept whether photos of some class of a model are known to show it.

    Args:
        model: The model.
        concepts: The concepts.

    Raises:
        InputError: Nothing is known of any of its classes.
    """
    known = linked_classes(model)
    rates = rate_of(known.rates, known, concepts).clamp(max=1 - UNNAMED_RATE)
    return (rates[known.linked] > UNNAMED_RATE).any(0).tolist()


def similarity(
    images: Float[Tensor, "image dimension"], texts: Float[Tensor, "text dimension"], language: VisionLanguage
) -> Float[Tensor, "image text"]:
    """Return `scale <image, text>`, of unit vectors where the pair is trained so; in float32 or better.

    Args:
        images: Image vectors.
        texts: Text vectors.
        language: The pair that made them.
    """
    images = wide(images)
    texts = texts.to(images)
    if language.normalised:
        images, texts = (t / t.norm(dim=1, keepdim=True).clamp_min(1e-12) for t in (images, texts))
    return language.scale * images @ texts.T


def plain_classes(target: Classes) -> ClassName | tuple[ClassName, ...] | None:
    """Return one class, or one for each image, as plain names and integers."""
    if target is None or is_class(target):
        return None if target is None else _plain_class(target)
    if isinstance(target, (Tensor, np.ndarray)):
        return _from_array(target)
    if not isinstance(target, Sequence) or not all(is_class(one) for one in target):
        raise InputTypeError(f"{target!r} is no class; give a name, an integer index, or one of them for each image")
    return tuple(_plain_class(one) for one in target)


def _plain_class(value: object) -> ClassName:
    return str(value) if isinstance(value, str) else int(value)  # pyright: ignore[reportArgumentType]


def _from_array(classes: Tensor | np.ndarray) -> tuple[ClassName, ...]:
    """Return the classes in a tensor or an array, refusing scores, one-hot rows and booleans."""
    whole = is_integer(classes.dtype) if isinstance(classes, Tensor) else classes.dtype.kind in "iuU"
    if not whole:
        raise InputTypeError(
            f"classes are given as {classes.dtype}; expected integers, one for each image (scores.argmax(1))"
        )
    if classes.ndim != 1:
        raise InputError(f"classes have shape {tuple(classes.shape)}; expected (image,), one class for each image")
    return tuple(classes.tolist())


def class_indices(observation: Observation, target: Classes) -> Int[Tensor, "image"]:
    """Return one class index for each image; `None` means the predicted one.

    Args:
        observation: One forward pass of a batch.
        target: A class for all images, one for each, or `None`.

    Raises:
        InputError: The model has no such class, its scores are not finite, the number of classes is not that of the
            images, or none is named of several quantities, of which none is predicted.
    """
    logits = observation.logits
    check_finite(observation)
    classes = plain_classes(target)
    if classes is None:
        if observation.answer.task == "regression" and logits.shape[1] > 1:
            raise InputError(
                f"{observation.model.name} gives {logits.shape[1]} quantities, of which none is the predicted one; say "
                "which by name or index, such as cl.Logit(0) (--target 0)"
            )
        return logits.detach().argmax(1)
    several = classes if isinstance(classes, tuple) else (classes,) * len(logits)
    if len(several) != len(logits):
        example = ", ".join(f"cl.Logit({name!r})" for name in several[:2]) or "cl.Logit(3)"
        raise InputError(
            f"{len(several)} classes were given for {len(logits)} images; a list of classes holds one for each image, "
            f"and several questions about every image are several targets, such as [{example}]"
        )
    return torch.tensor([class_index(observation, name) for name in several], device=logits.device)


def class_index(observation: Observation, name: ClassName) -> int:
    """Return the index of a class by name or index; refused where the model has no such class.

    Args:
        observation: One forward pass of a batch.
        name: The class.

    Raises:
        InputError: The model has no such class.
    """
    index, classes = observation.model.class_index(_plain_class(name)), observation.class_count
    if not 0 <= index < classes:
        raise InputError(f"no class {index} in {observation.model.name}; it has classes 0 to {classes - 1}")
    return index


def take(values: Float[Tensor, "row class"], index: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
    """Return one value of every row; the index is gathered as it is, so ties cannot move it."""
    return values.gather(1, index[:, None])[:, 0]


@dataclass(frozen=True)
class _Custom:
    """A callable target: its score hangs in the graph itself."""

    function: Callable[[ModelOutput], Tensor]

    def bind(self, observation: Observation) -> BoundTarget:
        label = getattr(self.function, "__name__", type(self.function).__name__)
        return BoundTarget((label,) * len(observation.images), self._root, lambda root, rows: root[:, 0])

    def _root(self, output: ModelOutput) -> Tensor:
        value = self.function(output)
        if not isinstance(value, Tensor):
            raise InputTypeError(f"a callable target gave {type(value).__name__}; {_ONE_EACH}")
        if value.ndim != 1:
            raise InputError(f"a callable target gave shape {tuple(value.shape)}; {_ONE_EACH}")
        return value[:, None]


_ONE_EACH = "expected one score per image, a tensor of shape (image,)"
# What `cam` takes for one question, and for one or several.
AnyTarget = Target | Callable[[ModelOutput], Tensor] | Classes
AnyTargets = AnyTarget | Sequence[Target | Callable[[ModelOutput], Tensor]]


def as_target(target: AnyTarget) -> Target:
    """Return `target` as one target: classes mean their logits, `None` the predicted classes, a callable itself."""
    if isinstance(target, type):
        raise InputTypeError(
            f"the class {target.__name__} was given as a target; give an instance, {target.__name__}()"
        )
    if hasattr(target, "bind"):
        return target  # pyright: ignore[reportReturnType]
    if target is None or is_class(target) or isinstance(target, (Tensor, np.ndarray)):
        return Logit(target)  # pyright: ignore[reportArgumentType]
    if callable(target):
        return _Custom(target)
    raise InputTypeError(
        f"a {type(target).__name__} is no target; expected cl.Logit, cl.Contrast, cl.Concept or a callable, "
        "or classes by name or integer index"
    )


def as_targets(target: AnyTargets) -> list[Target]:
    """Return one question or several as a list of targets: a list of classes is one question, with a class per image.

    Raises:
        InputError: The list is empty, or mixes classes and targets.
        InputTypeError: Something in it is neither.
    """
    if not isinstance(target, (list, tuple)):
        return [as_target(target)]  # pyright: ignore[reportArgumentType]
    if not target:
        raise InputError("the list of targets is empty; give at least one, or None for the predicted class")
    classes = [is_class(one) for one in target]
    if all(classes):
        return [Logit(target)]  # pyright: ignore[reportArgumentType, reportReturnType]
    if any(classes):
        raise InputError(
            "the list mixes classes and targets; give one class for each image, such as [3, 5], or targets alone, "
            "such as [cl.Logit(3), cl.Logit(5)], for several questions about every image"
        )
    refused = [type(one).__name__ for one in target if not (hasattr(one, "bind") or callable(one))]
    if refused:
        raise InputTypeError(
            f"the list of targets holds {refused[0]}; expected cl.Logit, cl.Contrast, cl.Concept or callables, "
            "or one class for each image, by name or integer index"
        )
    return [as_target(one) for one in target]
