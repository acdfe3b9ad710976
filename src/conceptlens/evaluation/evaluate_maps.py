"""Score anybody's maps: against masks, on a data set with masks, or by what they say of a network."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from conceptlens.evaluation.evaluated_maps import EvaluatedMaps
from conceptlens.evaluation.given_methods import AnyMaps, chosen_metrics, control_maps, maps_alone, named_methods
from conceptlens.evaluation.score_row import ScoreRow
from conceptlens.io.errors import Failure, InputError, InputTypeError
from conceptlens.localization.evaluate_localization import evaluate_localization
from conceptlens.localization.methods import MethodContext, build_methods
from conceptlens.localization.own_metrics import check_metrics, own_scores
from conceptlens.localization.result_rows import ORACLE, Row
from conceptlens.metrics.faithfulness_table import FAITHFULNESS_METRICS
from conceptlens.metrics.given_maps import maps_of, tensor_of
from conceptlens.metrics.map_mask import MAP_MASK_METRICS, map_mask_scores
from conceptlens.metrics.pixel_fills import FILLS
from conceptlens.metrics.removal_order import maps_for
from conceptlens.metrics.scored_images import ScoredImages
from conceptlens.record import Explanation
from conceptlens.statistics.random_seed import check_seed

if TYPE_CHECKING:
    from torch import Tensor

    from conceptlens.data.masked_set import MaskedSet
    from conceptlens.metrics.given_maps import Ignored, Masks
    from conceptlens.model.backbone import Backbone
    from conceptlens.statistics.score import Metric, Score

# Fills disagree, so two are taken.
DEFAULT_FILLS = ("mean", "blur")
ANY_SCORE = ("deletion", "insertion", "road", "comprehensiveness", "sufficiency")
OF_CLASSES = ("relative_drop_5", "relative_drop_10")
WRONG_CONCEPT = " (wrong concept)"
# The methods of a data set that know nothing.
CONTROLS = ("random", "centre", "edges")

Names = Sequence[Sequence[str]]


def evaluate(
    maps: AnyMaps | Mapping[str, AnyMaps] | Sequence[str],
    data: Masks | MaskedSet | ScoredImages,
    metrics: Iterable[str | Metric] | None = None,
    *,
    ignored: Ignored = None,
    fills: Sequence[str] | None = None,
    model: Backbone | None = None,
    controls: bool = True,
    seed: int = 0,
) -> EvaluatedMaps:
    """Score maps of any library, or methods, beside controls that know nothing.

    Args:
        maps: Maps `image question height width` or, of one question, `image height width`: an array, a tensor, an
            `Explanation`; of a data set also a method (see `evaluate_localization`), or with `model` the name of one,
            such as `layer_cam:concept`. Several by name in a dictionary, or as a list of names.
        data: What they are scored by.

            - masks, bool `[image rows columns]` or `[image question rows columns]`, of what the model saw;
            - a data set with masks, `cl.open_set(name)`, whose photos and concepts the maps' own name
              (`cl.Explanation.from_maps` with labels and photos); each is compared with a wrong concept too;
            - `cl.metrics.ScoredImages`, of a network that the maps explain: from `cl.metrics.score_module(net, batch,
              classes)`, or of an observation from `conceptlens.cams.image_scoring.scored_images(seen)`.
        metrics: Names and `Metric`s of your own; by default all of `cl.metrics.MAP_MASK_METRICS` for masks, and
            deletion, insertion, ROAD, comprehensiveness, sufficiency and relative drops for a network. Your own are
            called as `compute(maps, masks, ignored)`, or as `compute(maps, scored)`, with `fill=` where they take it.
        ignored: Pixels to leave out, bool `[image rows columns]`, beside masks.
        fills: What stands in the place of removed pixels, for a network: names of `cl.metrics.FILLS`; by default "mean"
            and "blur", since fills disagree.
        model: The model of named methods.
        controls: Whether `random` and `centre` maps are scored too, and `edges` where images are known; of a data set,
            where `model` is given.
        seed: Draws random maps and wrong concepts.

    Returns:
        Rows, means with intervals, a table when printed, `to_frame()` for pandas.

    Raises:
        InputError: Maps do not fit the data, a metric, a fill or a method is unknown, or no photo could be scored.
        InputTypeError: `maps`, `data` or `metrics` are none of the above.

    Examples:
        >>> maps = captum.attr.LayerGradCam(net, net.layer4).attribute(batch, target=classes)
        >>> print(cl.evaluate(maps, masks))
        >>> print(cl.evaluate(maps, cl.metrics.score_module(net, batch, classes[:, None])))
    """
    check_seed(seed)
    named = named_methods(maps)
    of_masks, of_network = isinstance(data, (np.ndarray, torch.Tensor)), isinstance(data, ScoredImages)
    of_set = hasattr(data, "concepts") and hasattr(data, "__getitem__")
    if not (of_masks or of_network or of_set):
        raise InputTypeError(
            f"a {type(data).__name__} was given as the data; expected bool masks, a data set with masks "
            "(cl.open_set(name)), or cl.metrics.ScoredImages of a network"
        )
    unused = {"ignored": (ignored, of_masks), "fills": (fills, of_network), "model": (model, of_set)}
    for name, (value, used) in unused.items():
        if value is not None and not used:
            raise InputError(f"{name} has no effect with this kind of data; leave it out")
    if of_set:
        return _on_set(named, data, metrics, model, controls, seed)  # pyright: ignore[reportArgumentType]
    alone = maps_alone(named)
    scored = data if isinstance(data, ScoredImages) else None
    images, questions = _names(alone, scored)
    added = {}
    if controls:
        known = _controls(alone, scored, images, seed)
        added = {name: one for name, one in known.items() if name not in alone}
    if isinstance(data, ScoredImages):
        taken = chosen_metrics(metrics, FAITHFULNESS_METRICS, _default(data))
        rows = _by_network({**alone, **added}, data, taken, _fills(fills), images, questions)
    else:
        taken = chosen_metrics(metrics, MAP_MASK_METRICS, MAP_MASK_METRICS)
        rows = _by_masks({**alone, **added}, data, ignored, taken, images, questions)  # pyright: ignore[reportArgumentType]
    return EvaluatedMaps(tuple(rows), taken, tuple(added))


def _controls(
    maps: Mapping[str, Explanation | Tensor], scored: ScoredImages | None, images: Sequence[str], seed: int
) -> dict[str, Tensor]:
    """Return maps that know nothing, on the grid of the first maps."""
    first = next(iter(maps.values()))
    own = maps_of(first) if scored is None else maps_for(first, scored)
    return control_maps(images, own.shape[1], (own.shape[2], own.shape[3]), scored, seed)


def _default(scored: ScoredImages) -> tuple[str, ...]:
    known = scored.probabilities is not None and scored.classes is not None
    return (*OF_CLASSES, *ANY_SCORE) if known else ANY_SCORE


def _fills(fills: Any) -> Sequence[str]:
    """Return the fills that are asked for, or two."""
    if fills is None:
        return DEFAULT_FILLS
    if isinstance(fills, str) or not isinstance(fills, Sequence):
        raise InputTypeError(f"fills are given as {type(fills).__name__}; expected a list such as ['mean', 'blur']")
    if not fills:
        raise InputError(f"no fill is named; fills: {', '.join(FILLS)}")
    return tuple(dict.fromkeys(fills))


def _by_masks(
    maps: Mapping[str, Explanation | Tensor],
    masks: Masks,
    ignored: Ignored,
    metrics: Mapping[str, Metric],
    images: Sequence[str],
    questions: Names,
) -> Iterator[ScoreRow]:
    """Yield the values of metrics of a map and a mask, those of ours from one sort for each map."""
    own = check_metrics(metric for name, metric in metrics.items() if name not in MAP_MASK_METRICS)
    for method, given in maps.items():
        raw = maps_of(given)
        scores = map_mask_scores(given, masks, ignored) if len(own) < len(metrics) else {}
        scores |= own_scores(own, raw, *_same_axes(raw, masks, ignored))
        for name in metrics:
            yield from _rows_of(method, name, "", scores[name], images, questions)


def _same_axes(maps: Tensor, masks: Masks, ignored: Ignored) -> tuple[Tensor, Tensor | None]:
    """Return masks with an axis of questions, as metrics of one's own take them on a data set too."""
    given = tensor_of(masks, "masks")
    several = given[:, None].expand(-1, maps.shape[1], -1, -1) if given.ndim == 3 else given
    return several, None if ignored is None else tensor_of(ignored, "ignored")


def _by_network(
    maps: Mapping[str, Explanation | Tensor],
    scored: ScoredImages,
    metrics: Mapping[str, Metric],
    fills: Sequence[str],
    images: Sequence[str],
    questions: Names,
) -> Iterator[ScoreRow]:
    """Yield the values of metrics of a map and a network, once for each fill where a metric takes one."""
    for method, given in maps.items():
        for name, metric in metrics.items():
            for fill in fills if _takes_fill(metric) else ("",):
                score = metric.measure(given, scored, fill=fill) if fill else metric.measure(given, scored)
                yield from _rows_of(method, name, score.fill or fill, score, images, questions)


def _takes_fill(metric: Metric) -> bool:
    taken = inspect.signature(metric.compute).parameters
    return "fill" in taken or any(one.kind is one.VAR_KEYWORD for one in taken.values())


def _rows_of(
    method: str, metric: str, fill: str, score: Score, images: Sequence[str], questions: Names
) -> Iterator[ScoreRow]:
    if score.values.ndim != 2 or tuple(score.values.shape) != (len(images), len(questions[0])):
        raise InputError(
            f"metric '{metric}' gave values of shape {tuple(score.values.shape)} for '{method}'; expected "
            f"{len(images)} images and {len(questions[0])} questions, as the first maps have"
        )
    for i, image in enumerate(images):
        for q, question in enumerate(questions[i]):
            yield ScoreRow(method, image, question, metric, fill, score.of(i, q))


def _names(maps: Mapping[str, Explanation | Tensor], scored: ScoredImages | None) -> tuple[list[str], Names]:
    """Return what images and questions are called: as the first explanation says, else by number."""
    first = next(iter(maps.values()))
    count, asked = (first.maps if isinstance(first, Explanation) else first).shape[:2]
    record = next((one for one in maps.values() if isinstance(one, Explanation)), None)
    info = record.source.image_info if record is not None else scored.image_info if scored is not None else ()
    names = [one.name for one in info]
    if len(set(names)) != count:  # equal names would be taken for one image
        names = [f"image[{i}]" for i in range(count)]
    labels = () if record is None or tuple(record.maps.shape[:2]) != (count, asked) else record.labels
    return names, labels or [[f"question[{q}]" for q in range(asked)]] * count


def _on_set(
    named: Mapping[str, Any],
    data: MaskedSet,
    metrics: Iterable[str | Metric] | None,
    model: Backbone | None,
    controls: bool,
    seed: int,
) -> EvaluatedMaps:
    """Return the evaluation of a data set with masks."""
    taken = chosen_metrics(metrics, MAP_MASK_METRICS, MAP_MASK_METRICS)
    own = [metric for name, metric in taken.items() if name not in MAP_MASK_METRICS]
    methods, added = _methods(named, data, model, controls, seed)
    rows: list[ScoreRow] = []
    failures: list[Failure] = []
    for one in evaluate_localization(data, methods, seed=seed, metrics=own):
        if isinstance(one, Failure):
            failures.append(one)
        else:
            rows += [value for row in one for value in _values(row, taken, added)]
    if not rows:
        raise InputError(f"no photo could be scored: {failures[0].reason if failures else 'none shows a concept'}")
    known = dict.fromkeys(row.method for row in rows)
    controlling = tuple(n for n in known if n.endswith(WRONG_CONCEPT) or n.removesuffix(ORACLE) in added)
    return EvaluatedMaps(tuple(rows), taken, controlling, tuple(failures))


def _methods(
    named: Mapping[str, Any], data: MaskedSet, model: Backbone | None, controls: bool, seed: int
) -> tuple[dict[str, Any], set[str]]:
    """Return methods and maps for the data set, named ones built, and the controls added to them."""
    for name, one in named.items():
        if isinstance(one, (np.ndarray, torch.Tensor)):
            raise InputTypeError(
                f"maps '{name}' do not say which photos and concepts of the data set they are of; give "
                "cl.Explanation.from_maps(maps, labels, photos)"
            )
    wanted = {name: one for name, one in named.items() if isinstance(one, str)}
    if wanted and model is None:
        raise InputError(f"'{next(iter(wanted))}' is the name of a method; give the model that it explains, as model=")
    if model is None:
        return dict(named), set()
    added = {name for name in CONTROLS if controls and name not in named}
    context = MethodContext(model, data.concepts, seed=seed)
    built = {name: build_methods([one], context) for name, one in {**wanted, **{name: name for name in added}}.items()}
    ready = {name: next(iter(methods.values())) for name, methods in built.items()}
    return {name: ready.get(name, one) for name, one in named.items()} | {name: ready[name] for name in added}, added


def _values(row: Row, metrics: Iterable[str], controls: Collection[str]) -> Iterator[ScoreRow]:
    """Yield the values of a row, and those of the wrong concept's map where the row is no control itself."""
    for name in metrics:
        yield ScoreRow(row.method, row.photo, row.concept, name, "", row.scores[name])
        if row.wrong_scores and not row.oracle and row.method not in controls:
            yield ScoreRow(row.method + WRONG_CONCEPT, row.photo, row.concept, name, "", row.wrong_scores[name])
