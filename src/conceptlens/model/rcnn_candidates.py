"""The candidates of an R-CNN: proposals, and the class scores and boxes of each, with their graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from conceptlens.io.errors import InputError
from conceptlens.model.box_operators import pool_boxes, suppress

if TYPE_CHECKING:
    from jaxtyping import Float


def rcnn_candidates(
    rpn: Any, roi_heads: Any, features: Mapping[str, Tensor], images: Any
) -> tuple[Float[Tensor, "image candidate class 4"], Float[Tensor, "image candidate class"]]:
    """Return the box and the logit of every class at each proposal.

    Proposals are constants, as in training: the gradient runs through the features that are pooled from them. Images
    with fewer proposals than others repeat their last one.

    Args:
        rpn: torchvision's `RegionProposalNetwork`.
        roi_heads: torchvision's `RoIHeads`.
        features: The feature maps, by name.
        images: The batch, as an `ImageList`.

    Raises:
        InputError: An image has no proposal, as where its values are not finite.
    """
    proposals = _proposals(rpn, list(features.values()), images)
    pooled = torch.cat([_pooled(roi_heads.box_roi_pool, features, images, i, one) for i, one in enumerate(proposals)])
    logits, deltas = roi_heads.box_predictor(roi_heads.box_head(pooled))
    boxes = roi_heads.box_coder.decode(deltas, proposals)
    counts = [len(one) for one in proposals]
    return _batched(boxes, counts), _batched(logits, counts)


def _batched(rows: Tensor, counts: list[int]) -> Float[Tensor, "image candidate ..."]:
    """Return the rows of every image as one batch; where an image has fewer, its last one is repeated."""
    most = max(counts)
    return torch.stack(
        [torch.cat([own, own[-1:].expand(most - len(own), *own.shape[1:])]) for own in rows.split(counts)]
    )


def _proposals(rpn: Any, levels: list[Tensor], images: Any) -> list[Float[Tensor, "proposal 4"]]:
    """Return the proposals of every image, as torchvision's `filter_proposals` chooses them."""
    objectness, deltas = rpn.head(levels)
    anchors = rpn.anchor_generator(images, levels)
    per_level = [one[0].numel() for one in objectness]
    flat = [_by_anchor(part, 1) for part in objectness]
    surely = torch.cat(flat, 1).detach()[..., 0]
    moves = torch.cat([_by_anchor(part, 4) for part in deltas], 1).detach()
    found = []
    for scores, own, start in zip(surely, moves, anchors, strict=True):
        boxes = rpn.box_coder.decode_single(own, start).view(-1, 4)
        found.append(_best(rpn, boxes, scores, per_level, images.image_sizes[0]))
    if not all(len(one) for one in found):
        raise InputError("the detector proposes no box in an image; give an image with finite values and a few pixels")
    return found


def _by_anchor(values: Tensor, size: int) -> Float[Tensor, "image anchor size"]:
    """Return `image (anchor size) rows columns` with a row for each anchor, in the order of the anchors."""
    return values.unflatten(1, (-1, size)).permute(0, 3, 4, 1, 2).flatten(1, 3)


def _best(
    rpn: Any, boxes: Tensor, scores: Tensor, per_level: list[int], size: tuple[int, int]
) -> Float[Tensor, "proposal 4"]:
    """Return the proposals of one image: the best of each level, clipped, without near doubles."""
    at_most = rpn.pre_nms_top_n()
    chosen, level, offset = [], [], 0
    for i, count in enumerate(per_level):
        best = scores[offset : offset + count].topk(min(count, at_most)).indices + offset
        chosen.append(best)
        level.append(torch.full_like(best, i))
        offset += count
    rows, levels = torch.cat(chosen), torch.cat(level)
    boxes, surely = boxes[rows], scores[rows].sigmoid()
    boxes = torch.minimum(boxes.clamp_min(0), boxes.new_tensor([size[1], size[0], size[1], size[0]]))
    fits = ((boxes[:, 2:] - boxes[:, :2]) >= rpn.min_size).all(1) & (surely >= rpn.score_thresh)
    boxes, surely, levels = boxes[fits], surely[fits], levels[fits]
    return boxes[suppress(boxes, surely, rpn.nms_thresh, levels, rpn.post_nms_top_n())]


def _pooled(
    pool: Any, features: Mapping[str, Tensor], images: Any, image: int, boxes: Tensor
) -> Float[Tensor, "proposal channel rows columns"]:
    """Return what torchvision's `MultiScaleRoIAlign` pools from one image, each box from the level of its size."""
    levels = [features[name] for name in pool.featmap_names if name in features]
    scales = [2.0 ** round(math.log2(one.shape[2] / images.image_sizes[0][0])) for one in levels]
    lowest, highest = -math.log2(scales[0]), -math.log2(scales[-1])
    side = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(1).sqrt()
    wanted = torch.floor(pool.canonical_level + torch.log2(side / pool.canonical_scale) + 1e-6)
    own = (wanted.clamp(lowest, highest) - lowest).long() if len(levels) > 1 else torch.zeros_like(wanted).long()
    pooled = levels[0].new_zeros(len(boxes), levels[0].shape[1], *pool.output_size)
    for i, (level, scale) in enumerate(zip(levels, scales, strict=True)):
        mine = (own == i).nonzero()[:, 0]
        if len(mine):
            read = pool_boxes(level[image], boxes[mine], pool.output_size, scale, pool.sampling_ratio)
            pooled = pooled.index_copy(0, mine, read)
    return pooled
