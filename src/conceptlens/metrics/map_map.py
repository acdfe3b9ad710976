"""How far two maps, or the maps of several methods, agree. Agreement is no proof: methods may err alike.

The functions take two maps of the same images and questions, explanations or raw `maps[image question height width]`,
on any grids: both are enlarged bilinearly to `size`, by default the finer of their grids. They return a `Score` with
`values[image question]` that applies where neither map is the same everywhere, and raise `InputError` where shapes do
not fit or a map is not finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from torch.nn.functional import conv2d

from conceptlens.io.argument_kinds import check_number, check_size
from conceptlens.io.errors import InputError, InputTypeError, near
from conceptlens.metrics.map_pairs import compare_maps
from conceptlens.statistics.score import Metric, Score

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps

# Wang et al. 2004: an 11 x 11 Gaussian window, and constants as shares of the range squared.
WINDOW, WINDOW_SIGMA, LUMINANCE, CONTRAST = 11, 1.5, 0.01**2, 0.03**2
SSIM_SIZE = (56, 56)

SimilarityName: TypeAlias = Literal["map_spearman", "map_pearson", "map_ssim", "top_overlap"]


def map_spearman(first: Maps, second: Maps, size: tuple[int, int] | None = None) -> Score:
    """Return Spearman's correlation of two maps' pixels; -1 to 1, 1 is the same order, chance 0.

    Equal pixels share their mean rank. Adebayo et al., NeurIPS 2018, take it of absolute maps too; give `maps.abs()`.

    Args:
        first: Maps.
        second: Maps of the same images and questions.
        size: Rows and columns to which both are enlarged.

    Returns:
        `values[image question]`.

    Raises:
        InputError: Shapes do not fit, or a map is not finite.
    """
    return compare_maps(first, second, _spearman, size)


def map_pearson(first: Maps, second: Maps, size: tuple[int, int] | None = None) -> Score:
    """Return Pearson's correlation of two maps' pixels; -1 to 1, 1 is the same map up to scale and offset, chance 0.

    Args:
        first: Maps.
        second: Maps of the same images and questions.
        size: Rows and columns to which both are enlarged.

    Returns:
        `values[image question]`.

    Raises:
        InputError: Shapes do not fit, or a map is not finite.
    """
    return compare_maps(first, second, _pearson, size)


def map_ssim(first: Maps, second: Maps, size: tuple[int, int] | None = None) -> Score:
    """Return the structural similarity of two maps, each stretched to 0..1; -1 to 1, 1 is the same picture.

    Wang et al., IEEE TIP 2004: the mean over windows of `(2 m_a m_b + C1)(2 s_ab + C2) / ((m_a^2 + m_b^2 + C1)(s_a^2 +
    s_b^2 + C2))`, with a Gaussian window of 11 x 11 pixels (sigma 1.5) that lies wholly in the map. Its value depends
    on `size`, so compare values of one size.

    Args:
        first: Maps.
        second: Maps of the same images and questions.
        size: Rows and columns to which both are enlarged, at least 11 each; by default 56, or a grid that is finer.

    Returns:
        `values[image question]`.

    Raises:
        InputError: `size` is smaller than the window, shapes do not fit, or a map is not finite.
    """
    if size is not None and min(check_size(size, "size")) < WINDOW:
        raise InputError(f"size is {size[0]} x {size[1]}; SSIM's window takes at least {WINDOW} x {WINDOW} pixels")
    return compare_maps(first, second, _ssim, size or _at_least_ssim(first, second))


def top_overlap(first: Maps, second: Maps, size: tuple[int, int] | None = None, share: float = 0.05) -> Score:
    """Return how many of two maps' highest pixels are the same; 0 to 1, 1 is all, chance `share`.

    `|top_k(a) and top_k(b)| / k`, the feature agreement of Krishna et al., TMLR 2024. Where equal pixels lie at the
    border, each is taken in part, so that k are taken; a pixel counts by the smaller of its two parts.

    Args:
        first: Maps.
        second: Maps of the same images and questions.
        size: Rows and columns to which both are enlarged.
        share: k as a share of the pixels, above 0 and below 1; at least one pixel is taken.

    Returns:
        `values[image question]`.

    Raises:
        InputError: `share` is out of range, shapes do not fit, or a map is not finite.
    """
    check_number(share, "share", "a share of the pixels, above 0 and below 1", lambda one: 0 < one < 1)
    return compare_maps(first, second, partial(_top_overlap, share=share), size)


def map_similarity(name: str, first: Maps, second: Maps) -> Score:
    """Return one of `MAP_MAP_METRICS` by its name, with its defaults.

    Args:
        name: The name.
        first: Maps.
        second: Maps of the same images and questions.

    Raises:
        InputError: There is no such metric, or as it raises.
    """
    if not isinstance(name, str) or name not in MAP_MAP_METRICS:
        raise InputError(f"no similarity '{name}'; {near(str(name), tuple(MAP_MAP_METRICS), 'there are', 5)}")
    return MAP_MAP_METRICS[name].compute(first, second)


def agreement_matrix(methods: Mapping[str, Maps], similarity: SimilarityName = "map_spearman") -> Score[np.ndarray]:
    """Return how far every two methods agree, the mean over images and questions where both maps say something.

    Args:
        methods: Maps of the same images and questions, by the method's name; at least two.
        similarity: A name of `MAP_MAP_METRICS`.

    Returns:
        `values[method method]` with the names as labels; it does not apply where no pair of maps does.

    Raises:
        InputError: There are fewer than two methods, or as in the similarity.
        InputTypeError: They are not named.

    Examples:
        >>> agreement_matrix({"Grad-CAM": cl.cam(seen), "HiResCAM": cl.cam(seen, rule="hires_cam")}).of(0, 1)
    """
    if not isinstance(methods, Mapping):
        raise InputTypeError(f"methods are given as {type(methods).__name__}; expected maps by name, in a dictionary")
    names = tuple(methods)
    if len(names) < 2:
        raise InputError(f"there are maps of {len(names)} methods; agreement needs at least two")
    values, applies = np.zeros((len(names),) * 2), np.zeros((len(names),) * 2, bool)
    for row, name in enumerate(names):
        for column in range(row, len(names)):
            mean = map_similarity(similarity, methods[name], methods[names[column]]).mean()
            if mean is not None:
                values[[row, column], [column, row]] = mean
                applies[[row, column], [column, row]] = True
    return Score(values, applies, names)


def _pearson(first: Float[Tensor, "pair *any"], second: Float[Tensor, "pair *any"]) -> Float[Tensor, "pair"]:
    one, other = (maps.flatten(1) - maps.flatten(1).mean(1, keepdim=True) for maps in (first, second))
    # scaled first, so that squares of tiny or huge values stay in range
    one, other = (maps / maps.abs().amax(1, keepdim=True) for maps in (one, other))
    return ((one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))).clamp(-1, 1)


def _spearman(first: Float[Tensor, "pair *any"], second: Float[Tensor, "pair *any"]) -> Float[Tensor, "pair"]:
    from scipy.stats import rankdata  # takes a second to load

    return _pearson(*(torch.from_numpy(rankdata(maps.flatten(1).numpy(), axis=1)) for maps in (first, second)))


def _ssim(first: Float[Tensor, "pair rows columns"], second: Float[Tensor, "pair rows columns"]) -> Tensor:
    places = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    bell = torch.exp(-0.5 * (places / WINDOW_SIGMA) ** 2)
    bell = bell / bell.sum()

    def windowed(maps: Tensor) -> Tensor:
        return conv2d(conv2d(maps[:, None], bell[None, None, None]), bell[None, None, :, None])[:, 0]

    a, b = (_stretched(maps) for maps in (first, second))
    mean_a, mean_b = windowed(a), windowed(b)
    var_a, var_b = windowed(a * a) - mean_a**2, windowed(b * b) - mean_b**2
    both = windowed(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + LUMINANCE) / (mean_a**2 + mean_b**2 + LUMINANCE)
    structure = (2 * both + CONTRAST) / (var_a + var_b + CONTRAST)
    return (luminance * structure).mean((1, 2)).clamp(-1, 1)


def _stretched(maps: Float[Tensor, "pair rows columns"]) -> Float[Tensor, "pair rows columns"]:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def _top_overlap(first: Float[Tensor, "pair *any"], second: Float[Tensor, "pair *any"], share: float) -> Tensor:
    count = max(1, round(share * first[0].numel()))
    taken = [_taken(maps.flatten(1), count) for maps in (first, second)]
    return torch.minimum(*taken).sum(1) / count


def _taken(values: Float[Tensor, "pair pixel"], count: int) -> Float[Tensor, "pair pixel"]:
    """Return how much of each pixel is taken so that `count` are, from the highest down."""
    border = values.topk(count, dim=1).values[:, -1:]
    above, equal = values > border, values == border
    part = (count - above.sum(1, keepdim=True)).double() / equal.sum(1, keepdim=True)
    return above + equal * part


def _at_least_ssim(first: Maps, second: Maps) -> tuple[int, int]:
    grids = [SSIM_SIZE]
    for given in (first, second):
        shape = getattr(getattr(given, "maps", given), "shape", ())
        grids += [(int(shape[2]), int(shape[3]))] if len(shape) == 4 else []
    return max(grid[0] for grid in grids), max(grid[1] for grid in grids)


_NEEDS = ("map", "second map")
_KRISHNA = "Krishna et al., TMLR 2024"
MAP_MAP_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("map_spearman", "Spearman", map_spearman, True, -1, 1, "0", "Adebayo et al., NeurIPS 2018", _NEEDS),
        Metric("map_pearson", "Pearson", map_pearson, True, -1, 1, "0", "common practice", _NEEDS),
        Metric("map_ssim", "SSIM", map_ssim, True, -1, 1, "near 0 for noise", "Wang et al., IEEE TIP 2004", _NEEDS),
        Metric("top_overlap", "top 5 % in common", top_overlap, True, 0, 1, "0.05", _KRISHNA, _NEEDS),
    )
}
