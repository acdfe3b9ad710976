"""What a detector answers, whatever its family: candidates with boxes and scores, and those of them that it detects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.model.box_operators import suppress

if TYPE_CHECKING:
    from jaxtyping import Float

# So many pairs of candidate and class at most enter the suppression, those of the highest scores.
MOST_PAIRS = 5000
# Boxes with a shorter side than this, in pixels of the input, are no detections, as in torchvision.
LEAST_SIDE = 0.01


@dataclass(frozen=True)
class DetectedBox:
    """One detection of one image.

    Args:
        candidate: The index of its candidate in `Detections`.
        class_index: The index of its class.
        score: How sure the detector is, 0 to 1.
        box: Left, top, right and bottom in pixels of the model's input.
    """

    candidate: int
    class_index: int
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Detections:
    """The candidates of a detector, in the graph, before any of them is dropped.

    A function that returns this is how `Backbone(output=)` reads a detector of your own.

    Args:
        boxes: Left, top, right and bottom, `(image, candidate, 4)`; or `(image, candidate, class, 4)` where each class
            has a box of its own. In pixels of the model's input, or `relative`.
        logits: The scores of classes before the sigmoid or softmax, `(image, candidate, class)`: what a map explains.
        scores: The same as 0 to 1, by which detections are ranked and dropped; by default the sigmoid of `logits`.
        relative: The boxes are shares of the input, 0 to 1.
        overlap: The highest intersection over union that two detections of one class may have; `None` where the
            detector answers each object once, so that every candidate is one detection, of its best class.
        min_score: Candidates with a lower score are no detections.
        at_most: How many detections an image has at most.
        fixed: Candidate `k` asks of the same place in every image (an anchor, a learned query), so it is followed by
            its index where the image is changed; otherwise by the overlap of its box.
        background: The index of the class that means no object, where `logits` has one.
        size: Rows and columns of the input; set by `Backbone`.

    Raises:
        InputError: The shapes do not fit each other.
        InputTypeError: `boxes` or `logits` is no tensor.

    Examples:
        >>> def read(found):  # a YOLOX: centre, size, objectness, classes
        ...     centre, extent, surely = found[..., :2], found[..., 2:4], found[..., 4:5] * found[..., 5:]
        ...     boxes = torch.cat([centre - extent / 2, centre + extent / 2], -1)
        ...     return cl.Detections(boxes, surely.logit(1e-6), surely, overlap=0.45)
        >>> model = cl.Backbone(net, output=read, transform=letterbox, class_names=names)
    """

    boxes: Float[Tensor, "image candidate ..."]
    logits: Float[Tensor, "image candidate class"]
    scores: Float[Tensor, "image candidate class"] | None = None
    relative: bool = False
    overlap: float | None = None
    min_score: float = 0.05
    at_most: int = 100
    fixed: bool = True
    background: int | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check the shapes."""
        for name, value in (("boxes", self.boxes), ("logits", self.logits)):
            if not isinstance(value, Tensor):
                raise InputTypeError(f"{name} of Detections is a {type(value).__name__}; expected a tensor")
        boxes, logits = tuple(self.boxes.shape), tuple(self.logits.shape)
        fits = len(logits) == 3 and boxes in ((*logits[:2], 4), (*logits, 4))
        scores = logits if self.scores is None else tuple(self.scores.shape)
        if not fits or scores != logits or not self.logits.shape[1]:
            raise InputError(
                f"Detections has boxes {boxes}, logits {logits} and scores {scores}; expected boxes (image, candidate, "
                "4) or (image, candidate, class, 4), logits and scores (image, candidate, class), one candidate or more"
            )

    @property
    def probabilities(self) -> Float[Tensor, "image candidate class"]:
        """How sure the detector is of each class at each candidate, 0 to 1; 0 for the background."""
        found = self.logits.sigmoid() if self.scores is None else self.scores
        if self.background is None:
            return found
        shown = torch.arange(found.shape[2], device=found.device) != self.background
        return torch.where(shown, found, 0)

    @property
    def class_scores(self) -> Float[Tensor, "image class"]:
        """For every class the highest logit of all candidates; for the background the lowest of any class."""
        best = self.logits.amax(1)
        if self.background is None:
            return best
        shown = torch.arange(best.shape[1], device=best.device) != self.background
        return torch.where(shown, best, self.logits.detach().amin((1, 2))[:, None])

    def in_pixels(self, rows: int, columns: int) -> Detections:
        """Return the same with boxes in pixels of an input of `rows` and `columns`."""
        boxes = self.boxes
        if self.relative:
            boxes = boxes * boxes.new_tensor([columns, rows, columns, rows])
        return replace(self, boxes=boxes, relative=False, size=(rows, columns))

    def of_images(self, images: slice) -> Detections:
        """Return the same of some of the images."""
        scores = None if self.scores is None else self.scores[images]
        return replace(self, boxes=self.boxes[images], logits=self.logits[images], scores=scores)

    def class_boxes(self) -> Float[Tensor, "image candidate class 4"]:
        """The box of every class at every candidate, unclipped; one that all classes share is expanded."""
        if self.boxes.ndim == 4:
            return self.boxes
        return self.boxes[:, :, None].expand(*self.logits.shape, 4)

    def detected(self, image: int, min_score: float | None = None) -> tuple[DetectedBox, ...]:
        """Return the detections of one image, from the highest score down.

        Args:
            image: The index of the image.
            min_score: The lowest score of a detection; by default the detector's own.
        """
        least = self.min_score if min_score is None else max(min_score, self.min_score)
        scores = self.probabilities[image].detach()
        if self.overlap is None:  # one detection for each candidate, of its best class
            scores = torch.where(scores == scores.amax(1, keepdim=True), scores, -1)
        candidates, classes = (scores >= least).nonzero(as_tuple=True)
        best = scores[candidates, classes].argsort(descending=True, stable=True)[:MOST_PAIRS]
        candidates, classes = candidates[best], classes[best]
        boxes = self._clipped(self.class_boxes()[image, candidates, classes].detach())
        large = (boxes[:, 2:] - boxes[:, :2]).amin(1) >= LEAST_SIDE
        candidates, classes, boxes = candidates[large], classes[large], boxes[large]
        chosen = scores[candidates, classes]
        most = slice(self.at_most)
        kept = most if self.overlap is None else suppress(boxes, chosen, self.overlap, classes, self.at_most)
        rows = zip(*(values[kept].tolist() for values in (candidates, classes, chosen, boxes)), strict=True)
        return tuple(DetectedBox(c, k, score, tuple(box)) for c, k, score, box in rows)

    def _clipped(self, boxes: Tensor) -> Tensor:
        if self.size is None:
            return boxes
        rows, columns = self.size
        return torch.minimum(boxes.clamp_min(0), boxes.new_tensor([columns, rows, columns, rows]))
