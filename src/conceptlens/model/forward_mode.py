"""What a shift of each channel does to everything after it: forward-mode products, for any number of questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from conceptlens.io.quiet_warnings import quiet_warnings
from conceptlens.model.forward import Watch, forward, frozen, full_precision, trunk_kept
from conceptlens.model.observation import Observation

if TYPE_CHECKING:
    from jaxtyping import Float

# How many bytes of tangents at the layer are pushed through the rest of the model at once.
TANGENT_BYTES = 2 * 2**20


def channel_derivatives(
    observation: Observation, layer: str, after: Sequence[str], read: Callable[[Mapping[str, Tensor]], Tensor]
) -> Float[Tensor, "image channel dimension"]:
    """Return the derivative of `read(cells)` for a uniform shift of each channel of `layer`, over its cells' number.

    `read` turns the cells of `layer` and of the layers `after` it, each `image channel height width`, into
    `image dimension`. For any direction `v` in that space, `channel_derivatives @ v` is the spatial mean of the
    gradient of `v . read` at `layer`: the weights of Grad-CAM and CE-FAM, for any number of questions at the price of
    one forward-mode product a channel. A product of the other mode costs one backward pass a question.

    Args:
        observation: What was observed, with the graph of `layer`.
        layer: The layer whose channels are shifted.
        after: Later layers whose cells `read` needs too.
        read: From the cells of these layers, by name, to `(image, dimension)`; differentiable in forward mode.

    Returns:
        `[image channel dimension]`.
    """
    layer_output = observation.layer_output(layer)
    grid, raw = layer_output.grid, layer_output.raw.detach()
    channels = torch.eye(grid.channels, dtype=raw.dtype, device=raw.device) / (grid.height * grid.width)

    def rest(raw: Tensor) -> Tensor:
        cells = {layer: grid.read(raw)}
        watches: dict[str, Watch] = {layer: lambda _: raw.clone()}  # what follows may work in place
        watches.update({name: _keeping(cells, name, observation) for name in after})
        forward(observation.model.module, observation.given, watches)
        return read(cells)

    def product(channel: Tensor) -> Tensor:
        shift = channel[None, :, None, None].expand(len(raw), -1, grid.height, grid.width)
        return jvp(rest, (raw,), (grid.write(torch.zeros_like(raw), shift),))[1]

    at_once = max(1, TANGENT_BYTES // max(1, raw.numel() * raw.element_size()))
    with ExitStack() as stack:
        stack.enter_context(frozen(observation.model.module))
        stack.enter_context(trunk_kept(observation.model.module, observation.given, layer))
        stack.enter_context(full_precision(raw))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        # Of torch itself: how it makes some forward-mode formulas, and operations that it repeats instead of batching.
        stack.enter_context(quiet_warnings("`torch.jit.script` is deprecated", DeprecationWarning))
        stack.enter_context(quiet_warnings("There is a performance drop", UserWarning))
        chunks = [vmap(product)(chunk) for chunk in channels.split(at_once)]
    return torch.cat(chunks).transpose(0, 1).detach()


def _keeping(cells: dict[str, Tensor], name: str, observation: Observation) -> Watch:
    def watch(tensor: Tensor) -> Tensor:
        cells[name] = observation.layer_output(name).grid.read(tensor)
        return tensor.clone()

    return watch
