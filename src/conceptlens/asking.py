"""Rules that ask the model again, or look at the features alone: `(seen, questions, layer) -> weights`.

They need no gradient. Those that ask share every answer among all questions and work in bounded memory: the model
never meets more than `MASKED_BYTES` of masked images, or `CELL_BYTES` of changed cells, at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from conceptlens.observe import Answer, Observation
from conceptlens.regression import farthest, regress
from conceptlens.target import Question

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    Weights = Float[Tensor, "image question channel 1 1"]

# How many bytes of masked images, masks included, one forward pass of Score-CAM may hold.
MASKED_BYTES = 8 * 2**20
# How many bytes of changed cells one forward pass of Ablation-CAM may hold.
CELL_BYTES = 32 * 2**20
# Score-CAM's own constant: a channel that is the same everywhere gives an empty mask.
_TINY = 1e-8


def score_cam(seen: Observation, questions: Sequence[Question], layer: str) -> Weights:
    """`w = softmax_k(S(x . H_k))`, `H_k` the channel enlarged to the image and brought to 0..1 (Score-CAM, eq. 3 to 6).

    Wang et al., CVPRW 2020. The baseline term `- S(x_b)` is the same for every channel, so the softmax cancels it; a
    `Contrast` gives Finer-CAM's equation 9 before the softmax. Enlarged bilinearly with aligned corners, so that maps
    equal grad-cam's. Every masked image is scored once, for all questions.
    """
    scores = [
        _masked_scores(seen, questions, features, image, torch.arange(len(features), device=features.device))
        for image, features in enumerate(seen.feature(layer))
    ]
    return torch.stack(scores).softmax(2)[..., None, None]


def score_cam_fast(
    seen: Observation,
    questions: Sequence[Question],
    layer: str,
    least: int = 64,
    share: float = 1 / 16,
    held_out: int = 16,
) -> tuple[Weights, dict[str, object]]:
    """Score-CAM from a sixteenth of the masked images, and how near it is to the exact one.

    Of the `max(least, share * channels)` channels that are asked, `held_out` are drawn at random only to judge the
    others. Half of the rest are spread over the masks (farthest first, distance times the size of the channel); a
    kernel regression over masks predicts all scores; the other half are the channels with the largest predicted part
    in a map. What is asked is taken as it is, the rest as predicted, then `score_cam`'s softmax.

    The second value goes into `Explanation.source.settings`: how many channels were asked, and per image and question
    `estimated_correlation` with the exact map: what remains when every predicted score is changed by an error that
    the held-out channels showed.
    """
    weights, estimates = [], []
    features = seen.feature(layer)
    channels = features.shape[1]
    asked = max(least, int(share * channels))
    if asked >= channels:
        return score_cam(seen, questions, layer), {"channels": channels, "channels_asked": channels}
    for image, cells in enumerate(features):
        scores, errors = _predicted_scores(seen, questions, cells.float(), image, asked - held_out, held_out)
        weights.append(scores.softmax(1))
        estimates.append(_estimated_correlation(scores, errors, cells.float()))
    notes = {"channels": channels, "channels_asked": asked, "estimated_correlation": estimates}
    return torch.stack(weights)[..., None, None], notes


def ablation_cam(seen: Observation, questions: Sequence[Question], layer: str) -> Weights:
    """`w_k = (S - S_{-k}) / |S|`, `S_{-k}` the score with channel `k` set to zero (Ablation-CAM, WACV 2020, eq. 2).

    The paper divides by `S`, which turns the map around where a score is negative, as a margin can be; its absolute
    value does not. A score of zero divides nothing. Where the cells reach the root through their mean and one linear
    map, the model is not asked at all.
    """
    features = seen.feature(layer)
    columns = []
    for question in questions:
        root = question.root(seen).detach()
        matrix = seen.readout(question.root(seen), layer)
        rows = torch.arange(len(root), device=root.device)
        before = question.measure(root, rows)
        known = None if matrix is None else _ablated_roots(root, matrix, features)
        columns.append((question, before, known))
    asked = [question for question, _, known in columns if known is None]
    answers = iter(_ablated_scores(seen, asked, features, layer)) if asked else iter(())
    weights = []
    for question, before, known in columns:
        after = next(answers) if known is None else _each(question.measure, known)
        scale = torch.where(before != 0, before.abs(), 1)
        weights.append((before[:, None] - after) / scale[:, None])
    return torch.stack(weights, dim=1)[..., None, None]


def eigen_cam(seen: Observation, questions: Sequence[Question], layer: str) -> Weights:
    """`w = v_1`, the first right singular vector of the `cell channel` matrix (Eigen-CAM, IJCNN 2020, eq. 3 and 4).

    Muhammad and Yeasin. The matrix is not centred, as in the paper (grad-cam centres it). Found from the smaller Gram
    matrix. A singular vector has no sign: here the map's sum is positive. The same for every question.
    """
    cells = seen.feature(layer).flatten(2).transpose(1, 2).double()
    if cells.shape[1] <= cells.shape[2]:
        left = torch.linalg.eigh(cells @ cells.mT).eigenvectors[..., -1]
        right = torch.einsum("npk,np->nk", cells, left)
        length = right.norm(dim=1, keepdim=True)
        right = torch.where(length > 0, right / length.clamp_min(torch.finfo(right.dtype).tiny), 0)
    else:
        right = torch.linalg.eigh(cells.mT @ cells).eigenvectors[..., -1]
    total = torch.einsum("npk,nk->n", cells, right)
    right = torch.where(total[:, None] < 0, -right, right).to(seen.feature(layer).dtype)
    return right[:, None, :, None, None].expand(-1, len(questions), -1, -1, -1)


def random(seen: Observation, questions: Sequence[Question], layer: str) -> Weights:
    """`w_k` uniform in -1..1: a control that any method must beat.

    Seeded by the photo's fingerprint, so a photo has the same weights alone and in a batch; where there is none, by
    its place in the batch.
    """
    features = seen.feature(layer)
    drawn = []
    for place, picture in enumerate(seen.pictures):
        seed = int.from_bytes(hashlib.sha256((picture.fingerprint or str(place)).encode()).digest()[:7])
        generator = torch.Generator().manual_seed(seed)
        drawn.append(torch.rand(len(questions), features.shape[1], generator=generator) * 2 - 1)
    return torch.stack(drawn).to(features)[..., None, None]


def channel_masks(
    cells: Float[Tensor, "channel height width"], size: tuple[int, int]
) -> Float[Tensor, "channel rows columns"]:
    """Return each channel enlarged to `size` and brought to 0..1; a constant channel gives zeros."""
    large = interpolate(cells[None].float(), size=size, mode="bilinear", align_corners=True)[0]
    least, most = torch.aminmax(large.flatten(1), dim=1)
    return large.sub_(least[:, None, None]).div_((most - least + _TINY)[:, None, None])


def _masked_scores(
    seen: Observation, questions: Sequence[Question], cells: Tensor, image: int, channels: Int[Tensor, "asked"]
) -> Float[Tensor, "question asked"]:
    """Score one image under the masks of `channels`, in chunks of at most `MASKED_BYTES` (at least one image)."""
    one = seen.images[image]
    bytes_each = (one.numel() + one[0].numel()) * one.element_size()
    scores = []
    for chunk in channels.split(max(1, MASKED_BYTES // bytes_each)):
        masks = channel_masks(cells[chunk], (one.shape[1], one.shape[2])).to(one.dtype)
        scores.append(_ask_all(questions, seen.forward(one * masks[:, None]), image, len(chunk)))
    return torch.cat(scores, dim=1)


def _ask_all(
    questions: Sequence[Question], answer: Answer, image: int, variants: int
) -> Float[Tensor, "question variant"]:
    """Ask every question of the variants of one image; questions that share a root read it once."""
    roots: dict[Callable[[Answer], Tensor], Tensor] = {}
    for question in questions:
        if question.root not in roots:
            roots[question.root] = question.root(answer).detach()
    device = next(iter(roots.values())).device
    rows = torch.full((variants,), image, device=device)
    return torch.stack([question.measure(roots[question.root], rows).float() for question in questions])


def _predicted_scores(
    seen: Observation, questions: Sequence[Question], cells: Tensor, image: int, budget: int, held_out: int
) -> tuple[Float[Tensor, "question channel"], Float[Tensor, "question held"]]:
    """Return every channel's score, asked or predicted, and the errors of prediction on the held-out channels."""
    masks = cells.flatten(1) - cells.flatten(1).amin(1, keepdim=True)
    masks = masks / (masks.amax(1, keepdim=True) + _TINY)
    size = cells.flatten(1).norm(dim=1)
    order = torch.randperm(len(cells), generator=torch.Generator().manual_seed(0)).to(cells.device)
    judges, others = order[:held_out], order[held_out:]
    asked = others[farthest(masks[others], size[others], budget // 2)]
    scores = _masked_scores(seen, questions, cells, image, asked)

    part = regress(masks[asked], scores, masks).softmax(1) * size
    part = (part / part.sum(1, keepdim=True).clamp_min(torch.finfo(part.dtype).tiny)).amax(0)
    part[torch.cat([asked, judges])] = -1
    leading = part.topk(budget - len(asked)).indices
    scores = torch.cat([scores, _masked_scores(seen, questions, cells, image, leading)], dim=1)
    asked = torch.cat([asked, leading])

    predicted = regress(masks[asked], scores, masks)
    truth = _masked_scores(seen, questions, cells, image, judges)
    errors = truth - predicted[:, judges]
    predicted[:, torch.cat([asked, judges])] = torch.cat([scores, truth], dim=1)
    return predicted, errors
