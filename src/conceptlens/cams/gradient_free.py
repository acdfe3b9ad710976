"""Rules without a gradient, from more forward passes or from features alone.

Each rule takes an `Observation`, the targets bound to it, and the name of an observed layer; it returns `weights[image
question channel 1 1]`.

Every forward pass serves all questions. Memory is bounded: one pass takes at most `MASKED_BYTES` of masked images or
`CELL_BYTES` of changed cells, and at least one variant (`ACCELERATOR_FACTOR` times as much on a GPU, which small
batches leave idle).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from conceptlens.cams.bound_target import BoundTarget
from conceptlens.model.model_output import ModelOutput
from conceptlens.model.observation import Observation
from conceptlens.statistics.distinct_rows import distinct_rows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    Weights = Float[Tensor, "image question channel 1 1"]

MASKED_BYTES = 4 * 2**20
CELL_BYTES = 16 * 2**20
ACCELERATOR_FACTOR = 16
# The constant of Score-CAM's own normalisation: a channel that is the same everywhere gives an empty mask.
EPSILON = 1e-8


def score_cam(observation: Observation, questions: Sequence[BoundTarget], layer: str) -> Weights:
    """`w = softmax_k S(x . H_k)`, `H_k` the channel enlarged to the image and brought to 0..1.

    Score-CAM, Wang et al., CVPRW 2020. Its baseline term `- S(x_b)` is the same for every channel, so the softmax
    cancels it; for a `Contrast`, the scores are Finer-CAM's equation 9. Channels are enlarged bilinearly with aligned
    corners, as in pytorch-grad-cam, so that the maps are equal to its maps.

    Args:
        observation: One forward pass of a batch.
        questions: Targets bound to it.
        layer: An observed layer.

    Returns:
        `weights[image question channel 1 1]`, which sum to 1 over the channels.

    Raises:
        InputError: The layer was not observed.
    """
    scores = []
    for image, cells in enumerate(observation.feature(layer)):
        channels = torch.arange(len(cells), device=cells.device)
        scores.append(masked_scores(observation, questions, cells, image, channels))
    return torch.stack(scores).softmax(2)[..., None, None]


def masked_scores(
    observation: Observation,
    questions: Sequence[BoundTarget],
    cells: Float[Tensor, "channel height width"],
    image: int,
    channels: Int[Tensor, "masked"],
) -> Float[Tensor, "question masked"]:
    """Score one image under the masks of `channels`, in chunks of at most `MASKED_BYTES`, masks included.

    Channels of the same mask share one pass: those that are the same everywhere (often half of them), whose mask is
    empty, and those that differ by a factor, as where one and the same cell alone is not 0.

    Args:
        observation: One forward pass of a batch.
        questions: Targets bound to it.
        cells: The cells of one image.
        image: Its index in the batch.
        channels: Indices of the channels whose masks are run.

    Returns:
        `scores[question masked]`, in the order of `channels`.
    """
    one = observation.images[image]
    firsts, column = distinct_masks(cells[channels])
    bytes_each = one.numel() * one.element_size() + one[0].numel() * max(4, one.element_size())
    scores = []
    for chunk in channels[firsts].split(_at_once(MASKED_BYTES, bytes_each, cells)):
        masks = channel_masks(cells[chunk], (one.shape[1], one.shape[2])).to(one.dtype)
        scores.append(_score_all(questions, observation.forward(one * masks[:, None], image), image, len(chunk)))
    return torch.cat(scores, dim=1)[:, column]


def distinct_masks(
    cells: Float[Tensor, "channel height width"],
) -> tuple[Int[Tensor, "distinct"], Int[Tensor, "channel"]]:
    """Return the first channels of all that have the same mask, and for each channel which of those has its mask.

    Args:
        cells: `[channel height width]`.

    Returns:
        Indices of channels, and for every channel an index into them.
    """
    flat = precise(cells).flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    return distinct_rows((flat - low) / (high - low + EPSILON))


def channel_masks(
    cells: Float[Tensor, "channel height width"], size: tuple[int, int]
) -> Float[Tensor, "channel rows columns"]:
    """Return each channel enlarged to `size` and brought to 0..1; a channel that is the same everywhere gives zeros.

    Args:
        cells: `[channel height width]`.
        size: Rows and columns of the masks, in pixels.

    Returns:
        Masks `[channel rows columns]` from 0 to 1, float32 or float64.
    """
    large = interpolate(precise(cells)[None], size=size, mode="bilinear", align_corners=True)[0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    scaled = large.sub_(low).div_(high - low + EPSILON)
    return scaled.masked_fill_(~varies(cells)[:, None, None], 0)


def varies(cells: Float[Tensor, "channel height width"]) -> Bool[Tensor, "channel"]:
    """Say which channels are not the same everywhere.

    Args:
        cells: `[channel height width]`.

    Returns:
        A bool for each channel.
    """
    return cells.flatten(1).amax(1) != cells.flatten(1).amin(1)


def precise(values: Tensor) -> Tensor:
    """Return half-precision values as float32, others as they are.

    Args:
        values: A tensor of any shape.

    Returns:
        The values in float32 or better.
    """
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def ablation_cam(observation: Observation, questions: Sequence[BoundTarget], layer: str) -> Weights:
    """`w_k = (S - S_{-k}) / |S|`, `S_{-k}` the score with channel `k` set to zero.

    Ablation-CAM, Desai and Ramaswamy, WACV 2020. The paper divides by `S`, which turns the map around
    where a score is negative, as a margin can be; its absolute value does not. A score of zero divides nothing. Where
    the cells reach the root through their mean and one linear map, the model is not run at all.

    Args:
        observation: One forward pass of a batch.
        questions: Targets bound to it.
        layer: An observed layer.

    Returns:
        `weights[image question channel 1 1]`: the share of the score that is lost without the channel.

    Raises:
        InputError: The layer was not observed.
    """
    feature = observation.feature(layer)
    rows = torch.arange(len(feature), device=feature.device)
    roots = [question.root(observation) for question in questions]
    known = [observation.readout(root, layer) for root in roots]
    rerun = [question for question, matrix in zip(questions, known, strict=True) if matrix is None]
    reruns = iter(_rerun_without(observation, rerun, feature, layer) if rerun else ())
    weights = []
    for question, root, matrix in zip(questions, roots, known, strict=True):
        before = question.measure(root.detach(), rows)[:, None]
        after = next(reruns) if matrix is None else _readout_without(question, root.detach(), matrix, feature)
        weights.append((before - after) / torch.where(before != 0, before.abs(), 1))
    return torch.stack(weights, dim=1).detach()[..., None, None]


def eigen_cam(observation: Observation, questions: Sequence[BoundTarget], layer: str) -> Weights:
    """`w = v_1`, the first right singular vector of the matrix `cell x channel`; the same for every question.

    Eigen-CAM, Muhammad and Yeasin, IJCNN 2020. The matrix is not centred, as in the paper (grad-cam
    centres it). Found from the smaller Gram matrix. A singular vector has no sign; here the map's sum is positive.

    Args:
        observation: One forward pass of a batch.
        questions: Targets bound to it.
        layer: An observed layer.

    Returns:
        `weights[image question channel 1 1]`, of length 1 over the channels.

    Raises:
        InputError: The layer was not observed.
    """
    feature = observation.feature(layer)
    cells = feature.flatten(2).transpose(1, 2).double()
    if cells.shape[1] <= cells.shape[2]:
        left = torch.linalg.eigh(cells @ cells.mT).eigenvectors[..., -1]
        right = torch.einsum("npk,np->nk", cells, left)
        right = right / right.norm(dim=1, keepdim=True).clamp_min(torch.finfo(right.dtype).tiny)
    else:
        right = torch.linalg.eigh(cells.mT @ cells).eigenvectors[..., -1]
    total = torch.einsum("npk,nk->n", cells, right)
    right = torch.where(total[:, None] < 0, -right, right).to(feature.dtype)
    return right[:, None, :, None, None].expand(-1, len(questions), -1, -1, -1)


def random(observation: Observation, questions: Sequence[BoundTarget], layer: str) -> Weights:
    """`w_k` uniform in -1..1: a control that every method must beat.

    Seeded by the photo's fingerprint, or by the input tensor's own values where there is none, and by the question's
    label: an image has the same weights alone and in a batch, a question alone and among others.

    Args:
        observation: One forward pass of a batch.
        questions: Targets bound to it.
        layer: An observed layer.

    Returns:
        `weights[image question channel 1 1]`.

    Raises:
        InputError: The layer was not observed.
    """
    feature = observation.feature(layer)
    drawn = []
    for index, (image, info) in enumerate(zip(observation.images, observation.image_info, strict=True)):
        known = info.fingerprint.encode() or image.float().cpu().numpy().tobytes()
        rows = [_drawn(known + question.labels[index].encode(), feature.shape[1]) for question in questions]
        drawn.append(torch.stack(rows))
    return torch.stack(drawn).to(feature)[..., None, None]


def _drawn(key: bytes, channels: int) -> Float[Tensor, "channel"]:
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7]))
    return torch.rand(channels, generator=generator, dtype=torch.float32, device="cpu") * 2 - 1


def _score_all(
    questions: Sequence[BoundTarget], output: ModelOutput, image: int, variants: int
) -> Float[Tensor, "question variant"]:
    """Score the variants of one image by every question; questions that share a root read it once."""
    roots: dict[Callable[[ModelOutput], Tensor], Tensor] = {}
    for question in questions:
        if question.root not in roots:
            roots[question.root] = question.root(output).detach()
    rows = torch.full((variants,), image, device=next(iter(roots.values())).device)
    return torch.stack([precise(question.measure(roots[question.root], rows)) for question in questions])


def _rerun_without(
    observation: Observation, questions: Sequence[BoundTarget], feature: Tensor, layer: str
) -> Float[Tensor, "question image channel"]:
    """Return every score with each channel set to zero in turn, in chunks of at most `CELL_BYTES`."""
    scores = []
    for image, cells in enumerate(feature):
        channels = torch.arange(len(cells), device=cells.device)
        parts = []
        for chunk in channels.split(_at_once(CELL_BYTES, cells.numel() * cells.element_size(), cells)):
            variants = cells.repeat(len(chunk), 1, 1, 1)
            variants[torch.arange(len(chunk), device=cells.device), chunk] = 0
            parts.append(_score_all(questions, observation.rerun(variants, image, layer), image, len(chunk)))
        scores.append(torch.cat(parts, dim=1))
    return torch.stack(scores, dim=1)


def _readout_without(
    question: BoundTarget, root: Tensor, matrix: Tensor, feature: Tensor
) -> Float[Tensor, "image channel"]:
    """Return one question's `_rerun_without` in closed form: channel `k` adds `M_k mean(A_k)` to the root."""
    scores = []
    for image, mean in enumerate(feature.flatten(2).mean(2)):
        parts = []
        channels = torch.arange(len(mean), device=mean.device)
        for chunk in channels.split(_at_once(CELL_BYTES, root[0].numel() * 4, mean)):
            without = root[image] - (matrix[:, chunk] * mean[chunk]).T
            rows = torch.full((len(chunk),), image, device=mean.device)
            parts.append(precise(question.measure(without, rows)))
        scores.append(torch.cat(parts))
    return torch.stack(scores)


def _at_once(max_bytes: int, bytes_each: int, like: Tensor) -> int:
    """Return how many variants of `bytes_each` fit into `max_bytes`, at least one."""
    return max(1, max_bytes * (1 if like.device.type == "cpu" else ACCELERATOR_FACTOR) // bytes_each)
