"""CE-FAM's channel weights in every layer a branch reads, exactly and with the fewest products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from conceptlens.concept_regions.branch import pooled
from conceptlens.concept_regions.translator import Translator
from conceptlens.model.forward import full_precision
from conceptlens.model.forward_mode import channel_derivatives
from conceptlens.model.observation import Observation

if TYPE_CHECKING:
    from jaxtyping import Float

Mode = Literal["auto", "forward", "reverse"]


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
    translator: Translator, pooled: Float[Tensor, "image width"], gradients: Tensor
) -> Float[Tensor, "image question width"]:
    """Return `dS/dz`, by batched products through the branch alone."""
    branch = translator.branch.to(pooled.device)
    with torch.inference_mode(False), torch.enable_grad(), full_precision(pooled):
        point = pooled.detach().clone().float().requires_grad_()
        vectors = branch(point)
        by_question = gradients.to(vectors).transpose(0, 1)
        (back,) = torch.autograd.grad(vectors, point, by_question, is_grads_batched=True)
    return back.transpose(0, 1).to(pooled.dtype)


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
