"""From what a module returns to class scores, an embedding or scores of places, and to what they mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from conceptlens.io.errors import InputError
from conceptlens.model.answer import ANSWERS, Answer, Task, find_answer
from conceptlens.model.detector_output import Detections
from conceptlens.model.found_task import ends_in_convolution, ends_in_linear
from conceptlens.model.known_places import as_places, check_places, read_scores
from conceptlens.model.model_output import ModelOutput, Places, output_tensor, unread_output, wrong_reading
from conceptlens.model.pixel_scores import PixelScores
from conceptlens.model.score_checks import check_kind, check_numbers

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class AnswerReader:
    """How the answer of one module is read.

    Args:
        module: The module.
        name: What it is called in messages.
        output: From the raw output to scores, where the user or the module's class says how.
        task: What it was trained for, as far as it is known.
        task_is_given: Whether the user says so.
        n_classes: How many class names there are; `None` without names.
    """

    module: nn.Module
    name: str
    output: Callable[[Any], Tensor | Places] | None
    task: Task | None
    task_is_given: bool
    n_classes: int | None

    def vector(self, output: Any, images: int = 1) -> Float[Tensor, "image number"]:
        """Return numbers of any meaning that depend on the image, to find out what they depend on.

        Args:
            output: What the module returned.
            images: For how many images.

        Raises:
            InputError: There is none, or several tensors could be it.
        """
        answer = self._answer(output, images)
        if isinstance(answer, Places):
            numbers = answer.logits if isinstance(answer, Detections) else answer.scores
        else:
            numbers = _numbers(answer)
        if numbers is None:
            raise unread_output(output, self.name, self.n_classes, images)
        check_kind(numbers, self.name)
        return numbers

    def check_range(self, within_one: bool, sum_to_one: bool) -> None:
        """Refuse numbers that look like probabilities where class scores are expected and nobody says what they are.

        Args:
            within_one: Whether all numbers for images of noise lay between 0 and 1 and no linear layer makes them.
            sum_to_one: Whether those of each image were shares of 1.

        Raises:
            InputError: It is so.
        """
        if self.task in ("regression", "embedding", "detection"):
            return
        if sum_to_one:
            raise InputError(
                f"{self.name} puts out probabilities (the numbers of each image lie between 0 and 1 and sum to 1), and "
                "class scores are read before the softmax; say Backbone(..., output=torch.log), or task='regression' "
                "where they are quantities"
            )
        if within_one and not self.task_is_given and self.task in (None, "single_label", "multi_label", "binary"):
            raise InputError(
                f"{self.name} gives numbers between 0 and 1 for every image that it was tried with, so they look like "
                "probabilities, and class scores are read before these are made; say Backbone(..., output=torch.log) "
                "where a softmax made them, output=torch.logit where a sigmoid did, or what they are: "
                "task='regression', 'single_label' ... (--task)"
            )

    def read(
        self, output: Any, images: Tensor, classifier: str | None, vector: Tensor | None, rows: int | None
    ) -> ModelOutput:
        """Return what a forward pass answered.

        Args:
            output: What the module returned.
            images: The images that it was given.
            classifier: The name of its final linear layer, if it has one.
            vector: What entered that layer.
            rows: How many rows the answer must have; not checked where `None`.

        Raises:
            InputError: It cannot be told what the numbers mean, or there is another number of class names than of
                classes.
        """
        answer = self._answer(output, len(images))
        places = as_places(answer, images) if self._may_be_places(answer) else None
        if rows is not None:
            check_places(places, rows)
        numbers = _numbers(answer) if places is None else read_scores(places)
        flat = numbers if numbers is not None and numbers.ndim == 2 else None
        if isinstance(places, PixelScores):
            check_kind(places.scores, self.name)
        if flat is not None:
            check_numbers(flat, rows, self.task, self.name)
        if self.task == "embedding":
            return ModelOutput(self.name, output, None, flat, ANSWERS["embedding"], places=places)
        meaning = self._meaning(flat, places, classifier)
        scores = None if flat is None or meaning is None or meaning.read is None else meaning.read(flat)
        return ModelOutput(self.name, output, scores, vector, meaning, places=places)

    def _answer(self, output: Any, images: int) -> Any:
        """Return what `output=` reads, or the tensor that is found."""
        if self.output is None:
            return output_tensor(output, self.task, self.name, self.n_classes, images)
        answer = self.output(output)
        if not isinstance(answer, (Tensor, Places)):
            raise wrong_reading(answer, self.name, images)
        return answer

    def _meaning(self, numbers: Tensor | None, places: Places | None, classifier: str | None) -> Answer | None:
        """Return what the numbers `(image, number)` of a forward pass mean; `None` where it is not known."""
        if isinstance(places, PixelScores):
            return ANSWERS["dense"]
        if numbers is None:
            return None if self.task is None else ANSWERS[self.task]
        names, task = self.n_classes, self.task if places is None else "detection"
        if not self.task_is_given and task == "multi_label" and numbers.shape[1] == 1 and names != 1:
            task = "binary"  # a loss with a sigmoid, of one logit
        if task is None and names is None and numbers.shape[1] > 1 and not self._are_classes(numbers, classifier):
            raise InputError(
                f"{self.name} gives {numbers.shape[1]} numbers for each image and no linear layer makes them, so they "
                "may be class scores or an embedding; say Backbone(..., task='single_label') or 'embedding' (--task), "
                "or give class_names="
            )
        return find_answer(task, numbers.shape[1], names, self.name)

    def _may_be_places(self, answer: Any) -> bool:
        """Whether an answer with rows and columns is scores of classes: the user or a class head says so."""
        if not isinstance(answer, Tensor) or answer.ndim != 4:
            return True
        if self.task == "embedding":  # an encoder's map of features
            return False
        count = answer.shape[1]
        said = self.task == "dense" or self.output is not None or self.n_classes == count
        return said or ends_in_convolution(self.module, count)

    def _are_classes(self, numbers: Tensor, classifier: str | None) -> bool:
        """Whether numbers are class scores: a classifier or the user makes them, or the module says so."""
        if self.output is not None or ends_in_linear(self.module) or classifier is not None:
            return True
        return getattr(self.module, "num_classes", None) == numbers.shape[1]


def _numbers(answer: Tensor | None) -> Tensor | None:
    """Return what the answer is read from, `(image, number)` where the model gives one number for each image."""
    return answer.reshape(-1, 1) if answer is not None and answer.ndim < 2 else answer
