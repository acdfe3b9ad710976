"""How the detectors and segmentation models of transformers are read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from conceptlens.io.errors import InputError
from conceptlens.model.detector_output import Detections
from conceptlens.model.pixel_scores import PixelScores

# Detectors whose queries are chosen anew from each image, so that their index says nothing.
_CHOSEN_QUERIES = ("rt_detr", "rt_detr_v2", "d_fine", "deim", "lw_detr", "rf_detr")


def transformers_reader(module: nn.Module) -> Callable[[Any], Detections | PixelScores] | None:
    """Return how the answer of a transformers detector or segmentation model is read; `None` for any other module.

    Args:
        module: The model.
    """
    own = next((c.__name__ for c in type(module).__mro__ if c.__module__.startswith("transformers.models.")), "")
    config: Any = getattr(module, "config", None)
    if own.endswith("ForObjectDetection"):
        chosen = config.model_type in _CHOSEN_QUERIES or getattr(config, "two_stage", False)
        return partial(read_queries, classes=config.num_labels, fixed=not chosen)
    if own.endswith("ForSemanticSegmentation"):
        return read_logits
    if own.endswith("ForUniversalSegmentation") or own == "MaskFormerForInstanceSegmentation":
        return read_masks
    return None


def read_queries(output: Any, classes: int, fixed: bool) -> Detections:
    """Return the answer of a detector with queries: each query is one object, or none.

    Where there is a column more than classes, the last one is "no object" and scores are a softmax (DETR, YOLOS);
    otherwise each class has a sigmoid (Conditional and Deformable DETR, RT-DETR, D-FINE).

    Args:
        output: What the model returned: `logits[image query class]` and `pred_boxes[image query 4]`, their centres and
            sizes as shares of the input.
        classes: How many classes there are.
        fixed: Whether a query is the same in every image.

    Raises:
        InputError: The model gives no boxes with a score for each class, as those that find text do not.
    """
    if not hasattr(output, "logits") or not hasattr(output, "pred_boxes"):
        raise InputError(
            f"the detector gives {type(output).__name__} without logits and pred_boxes, so no boxes of classes can be "
            "read from it; say how to read its answer with Backbone(..., output=), to cl.Detections or to scores"
        )
    logits = output.logits
    centre, extent = output.pred_boxes[..., :2], output.pred_boxes[..., 2:]
    scores = logits.softmax(2)[..., :classes] if logits.shape[2] > classes else None
    boxes = torch.cat([centre - extent / 2, centre + extent / 2], 2)
    return Detections(boxes, logits[..., :classes], scores, relative=True, fixed=fixed)


def read_logits(output: Any) -> PixelScores:
    """Return the answer of a model that scores every class at every place."""
    return PixelScores(output.logits)


def read_masks(output: Any) -> PixelScores:
    """Return the answer of MaskFormer, Mask2Former and OneFormer as scores of classes at places.

    `s_c(u) = sum_q p_q(c) m_q(u)`, the class probability of every query times its mask (MaskFormer, NeurIPS 2021,
    section 3.4, equation of semantic inference).

    Args:
        output: What the model returned: `class_queries_logits[image query class+1]`, of which the last is "no object",
            and `masks_queries_logits[image query rows columns]`.
    """
    classes = output.class_queries_logits.softmax(2)[..., :-1]
    return PixelScores(torch.einsum("nqc,nqhw->nchw", classes, output.masks_queries_logits.sigmoid()))
