"""torchvision's detectors up to their heads: every candidate with its graph, before any is dropped."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conceptlens.model.detector_output import Detections
from conceptlens.model.rcnn_candidates import rcnn_candidates

if TYPE_CHECKING:
    from jaxtyping import Float

_HOME = "torchvision.models.detection."


class TorchvisionHeads(nn.Module):
    """A torchvision SSD, SSDLite, RetinaNet, FCOS or R-CNN that answers with `Detections`.

    The parts are the detector's own, under their own names. It takes a batch, not a list. Where the detector pads its
    input at the right and bottom to a multiple of 32, the input is enlarged to it, so that cells cover the input and
    nothing else.
    """

    def __init__(self, detector: Any) -> None:
        super().__init__()
        for name, part in detector.named_children():
            self.add_module(name, part)
        self.read = _READERS[_family(detector)]
        self.settings = {name: value for name, value in vars(detector).items() if name in _SETTINGS}
        self.training = detector.training

    def forward(self, images: Float[Tensor, "image colour rows columns"]) -> Detections:
        """Return every candidate of every image, with boxes in pixels of `images`."""
        rows, columns = images.shape[2:]
        transform: Any = self.transform
        size = _input_size(transform, rows, columns)
        seen = F.interpolate(transform.normalize(images), size=size, mode="bilinear", align_corners=False)
        trunk: Any = self.backbone
        features = trunk(seen)
        by_name = {"0": features} if isinstance(features, Tensor) else dict(features)
        boxes, answer = self.read(self, by_name, _image_list(seen, len(next(iter(by_name.values())))))
        return Detections(boxes * boxes.new_tensor([columns / size[1], rows / size[0]] * 2), **answer)


# What a detector keeps outside its parts: how boxes are written, and what is dropped.
_SETTINGS = ("box_coder", "score_thresh", "nms_thresh", "detections_per_img")


def torchvision_heads(module: nn.Module) -> nn.Module:
    """Return a torchvision detector as `TorchvisionHeads`; any other module as it is."""
    return TorchvisionHeads(module) if _family(module) in _READERS else module


def _family(module: nn.Module) -> str:
    """Return the file of torchvision's detectors whose `forward` a module has; empty for any other module."""
    home = type(module).forward.__module__ or ""  # a traced module has none
    return home.removeprefix(_HOME) if home.startswith(_HOME) else ""


def default_layer(heads: TorchvisionHeads) -> str:
    """Return the last stage that all candidates come from: of a feature pyramid, the stage at its root."""
    trunk: Any = heads.backbone
    if hasattr(trunk, "body"):
        return f"backbone.body.{[name for name, _ in trunk.body.named_children()][-1]}"
    if not hasattr(trunk, "features"):
        return "backbone"
    # SSDLite's trunk holds its two stages, all candidates of the second come from the first; SSD's is one row of layers
    staged = [name for name, _ in trunk.features.named_children()] == ["0", "1"]
    return "backbone.features.0" if staged else "backbone.features"


def _input_size(transform: Any, rows: int, columns: int) -> tuple[int, int]:
    """Return the rows and columns that a detector's own transform brings an input to, batched."""
    step = transform.size_divisible
    if transform.fixed_size is not None:  # width, height
        size = transform.fixed_size[1], transform.fixed_size[0]
    else:
        scale = min(transform.min_size[-1] / min(rows, columns), transform.max_size / max(rows, columns))
        size = math.floor(rows * scale), math.floor(columns * scale)
    return math.ceil(size[0] / step) * step, math.ceil(size[1] / step) * step


def _image_list(images: Tensor, count: int) -> Any:
    """Return a batch as torchvision's anchor generators take it; its features may be of variants of an image."""
    from torchvision.models.detection.image_list import ImageList

    return ImageList(images, [(images.shape[2], images.shape[3])] * count)


def _read_anchors(heads: Any, features: dict[str, Tensor], images: Any) -> tuple[Tensor, dict[str, Any]]:
    """Read SSD, RetinaNet and FCOS: at each anchor a score of every class and one box."""
    levels = list(features.values())
    answer = heads.head(levels)
    anchors = heads.anchor_generator(images, levels)
    coder = heads.settings["box_coder"]
    decode = getattr(coder, "decode_single", coder.decode)
    boxes = torch.stack([decode(*pair) for pair in zip(answer["bbox_regression"], anchors, strict=True)])
    logits = answer["cls_logits"]
    scores, background = None, None
    if _is_ssd(heads):
        scores, background = logits.softmax(2), 0
    elif "bbox_ctrness" in answer:
        scores = (logits.sigmoid() * answer["bbox_ctrness"].sigmoid()).sqrt()
    return boxes, {
        "logits": logits,
        "scores": scores,
        "background": background,
        "overlap": heads.settings["nms_thresh"],
        "min_score": heads.settings["score_thresh"],
        "at_most": heads.settings["detections_per_img"],
    }


def _is_ssd(heads: Any) -> bool:
    """Whether the scores are a softmax with a background, as in SSD: its head alone gives no loss of its own."""
    return not hasattr(heads.head, "compute_loss")


def _read_rcnn(heads: Any, features: dict[str, Tensor], images: Any) -> tuple[Tensor, dict[str, Any]]:
    """Read Faster, Mask and Keypoint R-CNN: at each proposal a score and a box of every class."""
    boxes, logits = rcnn_candidates(heads.rpn, heads.roi_heads, features, images)
    return boxes, {
        "logits": logits,
        "scores": logits.softmax(2),
        "background": 0,
        "overlap": heads.roi_heads.nms_thresh,
        "min_score": heads.roi_heads.score_thresh,
        "at_most": heads.roi_heads.detections_per_img,
        "fixed": False,
    }


# How the families of torchvision's detectors are read, by the file that has their `forward`.
_READERS: dict[str, Callable[[Any, dict[str, Tensor], Any], tuple[Tensor, dict[str, Any]]]] = {
    "ssd": _read_anchors,
    "retinanet": _read_anchors,
    "fcos": _read_anchors,
    "generalized_rcnn": _read_rcnn,
}
