"""CE-FAM: a region, a layer and a contribution for every named concept, from one forward pass (ICCV 2025)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from conceptlens.cams.asked_classes import ClassName, class_indices
from conceptlens.cams.class_activation import project, source
from conceptlens.concept_regions.branch import pooled
from conceptlens.concept_regions.channel_masking import associations, masking_contributions
from conceptlens.concept_regions.concept_scores import ConceptScores, score_concepts
from conceptlens.concept_regions.translator import Translator
from conceptlens.concepts.vocabulary import ConceptName, everyday_words, parse_concepts
from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.model.forward import full_precision
from conceptlens.model.forward_mode import channel_derivatives
from conceptlens.model.observation import Observation, check_observation
from conceptlens.record import Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Mode = Literal["auto", "forward", "reverse"]


def ce_fam(
    observation: Observation,
    translator: Translator,
    concepts: str | Iterable[str | ConceptName] | None = None,
    target: ClassName | Sequence[ClassName] | None = None,
    top: int = 8,
    layer: str | None = None,
    with_contributions: bool = True,
) -> Explanation:
    """Return the region of each concept, in the layer that holds it best, and its contribution to a class.

    For every layer that the branch reads (CE-FAM, ICCV 2025, sections 3.2-3.3):

    - region: `ReLU(sum_k beta_k A_k)` with `beta_k = mean_ij dS/dA_k`, where `S` is the concept's score before any
      softmax; early layers receive gradient through the classifier's later layers too.
    - layer: the one with the highest association score (see `associations`), for each image and concept.
    - contribution: the masking curve on the classifier in that layer (`masking_contributions`), negative values kept.

    Args:
        observation: Photos observed at `translator.layers`.
        translator: A trained branch with its teacher's text encoder.
        concepts: Concepts to explain; by default the `top` scores of the vocabulary, for each image.
        target: Class of the contributions, one for all images or one for each; by default the predicted one.
        top: Number of concepts where `concepts` is left out.
        layer: One layer to read, instead of the one that holds each concept best.
        with_contributions: False leaves the contributions out, which are the larger part of the work.

    Returns:
        Maps `[image question height width]`. Of several layers, they stand at the finest grid, each enlarged
        bilinearly from its own layer, which `layers` names; `components` holds an explanation per layer, where the
        equation holds. `contributions` is `None` where a layer's cells do not reach the class scores.

    Raises:
        InputError: Where the branch was trained for another model, or does not read `layer`.
        InputTypeError: `observation` is no `Observation`, or `translator` no `Translator`.

    Examples:
        >>> observation = model.observe("cat.png", layers=translator.layers)
        >>> ce_fam(observation, translator, ["whiskers"]).maps.shape
    """
    check_observation(observation)
    if not isinstance(translator, Translator):
        raise InputTypeError(
            f"a {type(translator).__name__} was given as the branch; load one with cl.Translator.load(folder)"
        )
    translator.check(observation.model)
    given = None if concepts is None else parse_concepts(concepts)
    scored = score_concepts(observation, translator, everyday_words() if given is None else given)
    chosen = scored.top_indices(top) if given is None else scored.all_indices()
    layers = translator.layers if layer is None else (_one_of(layer, translator.layers),)
    weights = channel_weights(observation, translator, scored.score_gradients(chosen), layers)
    settings: dict[str, object] = {"text": translator.name, "target": repr(target), "branch": translator.name}
    parts = [layer_regions(observation, name, weights[name], scored, chosen, settings) for name in layers]
    layer_index = torch.zeros_like(chosen)
    if len(layers) > 1:
        layer_index = associations(observation, translator, weights, scored, chosen).argmax(2)
    shares, names = None, ()
    if with_contributions and (target is not None or observation.class_scores is not None):
        classes = class_indices(observation, target)
        names = tuple(observation.model.class_name(int(i)) for i in classes)
        shares = _contributions(observation, weights, layer_index, classes)
    return _joined(parts, layer_index, shares, names if shares is not None else ())


def _one_of(layer: str, layers: Sequence[str]) -> str:
    if layer not in layers:
        raise InputError(f"the branch does not read layer '{layer}'; it reads {', '.join(layers)}")
    return layer


def layer_regions(
    observation: Observation,
    layer: str,
    weights: Float[Tensor, "image question channel"],
    scored: ConceptScores,
    chosen: Int[Tensor, "image question"],
    settings: dict[str, object],
    method: str = "ce_fam",
) -> Explanation:
    """Return one layer's regions of chosen concepts, `ReLU(sum_k weights_k A_k)`. (CE-FAM, ICCV 2025, section 3.2.)

    Args:
        observation: Photos observed at `layer`.
        layer: Name of the layer whose channels are weighed.
        weights: Weight of each channel.
        scored: Scores of all concepts.
        chosen: Indices of the concepts that `weights` belong to.
        settings: What is kept in the record's source.
        method: Name of the method in the record's source.
    """
    return Explanation(
        maps=project(weights[..., None, None], observation.feature(layer)).relu(),
        weights=weights[..., None, None],
        scores=scored.scores.gather(1, chosen),
        labels=scored.labels(chosen),
        concept_types=scored.types(chosen),
        source=source(observation, layer, method, settings),
    )


def channel_weights(
    observation: Observation,
    translator: Translator,
    gradients: Float[Tensor, "image question dimension"],
    layers: Sequence[str],
    mode: Mode = "auto",
) -> dict[str, Float[Tensor, "image question channel"]]:
    """Return `beta_k = mean_ij dS/dA_k` at each of `layers`. (CE-FAM, ICCV 2025, section 3.2.)

    The gradient goes back through the branch alone, to `dS/dz`. From there on:

    - at the last layer the branch reads, `beta = dS/dz / (height width)`: nothing lies between it and its own mean;
    - *reverse*: at earlier layers, one vector-Jacobian product a question, which serves them all;
    - *forward*: `beta` is linear in `dS/dz`, so one forward-mode product a channel serves any number of questions.

    Args:
        observation: Photos observed at `translator.layers`.
        translator: The trained branch.
        gradients: Gradients `dS/dh` of the scores at the branch's output.
        layers: The layers to weigh.
        mode: `auto` takes the mode with fewer products, each weighed by the share of layers that it passes, and the
            reverse mode where torch has no forward mode for an operation of the model.

    Returns:
        Weights by layer, detached.
    """
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has turned off
        point = pooled(observation, translator.layers)
    back = _through_branch(translator, point.detach(), gradients)
    last = translator.layers[-1]
    earlier = [name for name in layers if name != last]
    found: dict[str, Tensor] = {}
    if earlier and mode == "forward":
        found = _forward(observation, translator, back, earlier)
    elif earlier and mode == "auto" and _forward_is_cheaper(observation, earlier, back.shape[1]):
        try:
            found = _forward(observation, translator, back, earlier)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # an operation that torch has no forward mode for
            found = observation.pull_means(point, back, earlier)
    elif earlier:
        found = observation.pull_means(point, back, earlier)
    if last in layers:
        grid = observation.layer_output(last).grid
        found[last] = back[..., : grid.channels] / (grid.height * grid.width)
    return {name: found[name].detach() for name in layers}


def _through_branch(
    translator: Translator, inputs: Float[Tensor, "image width"], gradients: Tensor
) -> Float[Tensor, "image question width"]:
    """Return `dS/dz`, by batched products through the branch alone."""
    branch = translator.branch.to(inputs.device)
    with torch.inference_mode(False), torch.enable_grad(), full_precision(inputs):
        point = inputs.detach().clone().float().requires_grad_()
        vectors = branch(point)
        by_question = gradients.to(vectors).transpose(0, 1)
        (back,) = torch.autograd.grad(vectors, point, by_question, is_grads_batched=True)
    return back.transpose(0, 1).to(inputs.dtype)


def _forward_is_cheaper(observation: Observation, layers: Sequence[str], questions: int) -> bool:
    """Whether a product for each channel of `layers` costs less than a product for each question.

    A forward-mode product takes about twice the time of a reverse one through as many layers.
    """
    shares = [1 - number / len(layers) for number in range(len(layers))]  # a later layer has less of the model to pass
    channels = [observation.layer_output(name).grid.channels for name in layers]
    return 2 * sum(c * s for c, s in zip(channels, shares, strict=True)) < questions


def _forward(
    observation: Observation, translator: Translator, back: Tensor, layers: Sequence[str]
) -> dict[str, Float[Tensor, "image question channel"]]:
    found = {}
    for name in layers:
        after = translator.layers[translator.layers.index(name) + 1 :]
        order = (*reversed(after), name)

        def read(cells: Mapping[str, Tensor], order: Sequence[str] = order) -> Tensor:
            return torch.cat([cells[part].flatten(2).mean(2) for part in order], dim=1)

        change = channel_derivatives(observation, name, after, read)
        with full_precision(back):
            found[name] = back[..., : change.shape[2]] @ change.transpose(1, 2)
    return found


def _contributions(
    observation: Observation,
    weights: dict[str, Tensor],
    layer_index: Int[Tensor, "image question"],
    classes: Int[Tensor, "image"],
) -> Float[Tensor, "image question"] | None:
    """Return each concept's contribution in its layer; `None` where a layer does not reach the class scores."""
    shares = torch.zeros_like(layer_index, dtype=torch.float32)
    for number, (name, weight) in enumerate(weights.items()):
        selected = layer_index == number
        if not selected.any():
            continue
        if not observation.reaches(observation.logits, name):
            return None
        found = masking_contributions(observation, weight, classes, layer=name, selected=selected)
        shares = torch.where(selected, found.to(shares), shares)
    return shares


def _joined(
    parts: list[Explanation], layer_index: Tensor, shares: Tensor | None, explained_classes: tuple[str, ...]
) -> Explanation:
    """Return one explanation whose maps come from the layer that holds each concept."""
    first = parts[0]
    if len(parts) == 1:
        return replace(first, contributions=shares, explained_classes=explained_classes)
    size = max((tuple(part.maps.shape[-2:]) for part in parts), key=lambda s: s[0] * s[1])
    large = [torch.nn.functional.interpolate(p.maps, size=size, mode="bilinear", align_corners=False) for p in parts]
    maps = torch.stack(large, dim=2).take_along_dim(layer_index[..., None, None, None], dim=2)[:, :, 0]
    names = [part.source.layer for part in parts]
    settings = {**first.source.settings, "layers": "by association score"}
    origin = replace(first.source, layer=" + ".join(names), method="ce_fam", settings=settings)
    return replace(
        first,
        maps=maps,
        weights=None,
        source=origin,
        contributions=shares,
        explained_classes=explained_classes,
        layers=tuple(tuple(names[int(number)] for number in row) for row in layer_index),
        components=tuple(parts),
    )
