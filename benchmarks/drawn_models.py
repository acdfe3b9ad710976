"""Architectures drawn at random from the lists of timm and transformers, built small with random weights."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # random weights need no network, and a draw must not depend on one

from conceptlens.io.torchvision_operators import mend_torchvision

mend_torchvision()

import timm  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from transformers.models.auto import modeling_auto  # noqa: E402

MOST_WEIGHTS = 60e6
# Rows and columns that are tried, smallest first; then the model's own size. Wider than tall: no axis may hide.
SIZES = ((96, 128), (128, 192), (128, 128))
# Lists of transformers: what takes photos alone, without a text.
KINDS = (
    "IMAGE_CLASSIFICATION", "OBJECT_DETECTION", "SEMANTIC_SEGMENTATION", "INSTANCE_SEGMENTATION",
    "UNIVERSAL_SEGMENTATION", "IMAGE",
)  # fmt: skip
# Sizes of a small network. What a configuration does not have is left out.
_SHALLOW = {
    "num_hidden_layers": 2, "encoder_layers": 1, "decoder_layers": 2, "num_layers": 2, "num_encoder_layers": 1,
    "num_queries": 10, "num_labels": 12, "mask_ratio": 0.75,
}  # fmt: skip
_NARROW = {
    "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "d_model": 64, "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "embed_dim": 24,
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A model drawn at random.

    Args:
        name: Its name in the list that it was drawn from.
        module: The model, in eval mode, with random weights none of which is zero.
        size: Rows and columns of the images that it takes.
    """

    name: str
    module: nn.Module
    size: tuple[int, int]


def draw(seed: int, of_timm: int, of_transformers: int) -> Iterator[Drawn | str]:
    """Yield models drawn with a seed, no two of one family in a list; in between, why a name was drawn again.

    Args:
        seed: The seed.
        of_timm: How many from timm's list.
        of_transformers: How many from the lists of transformers.
    """
    chance = random.Random(seed)
    torch.manual_seed(seed)
    pairs = [(kind, family) for kind in KINDS for family in _mapping(kind)]
    yield from _drawn_from(timm.list_models(), _timm_family, _timm_model, of_timm, chance)
    yield from _drawn_from(pairs, lambda pair: _class_name(*pair), _transformers_model, of_transformers, chance)


def _drawn_from(
    names: list[Any],
    family: Callable[[Any], str],
    build: Callable[[Any], Drawn | str],
    count: int,
    chance: random.Random,
) -> Iterator[Drawn | str]:
    seen: set[str] = set()
    order = chance.sample(names, len(names))
    for name in order:
        if family(name) in seen:
            continue
        found = build(name)
        yield found
        if isinstance(found, Drawn):
            seen.add(family(name))
        if len(seen) == count:
            return


def _timm_family(name: str) -> str:
    return timm.model_entrypoint(name).__module__


def _timm_model(name: str) -> Drawn | str:
    with torch.device("meta"):
        try:
            weights = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
        except (RuntimeError, NotImplementedError, TypeError, ValueError):
            weights = 0  # not to be built without memory: counted as it is built
    if weights > MOST_WEIGHTS:
        return f"{name}: {weights / 1e6:.0f} M weights"
    own = timm.get_pretrained_cfg(name)
    sizes = [*SIZES, *([] if own is None else [tuple(own.input_size[1:])])]
    ways = [(size, options) for size in sizes for options in ({"img_size": size}, {})]
    return _first_that_runs(
        f"timm {name}", [(size, lambda o=options: timm.create_model(name, **o)) for size, options in ways]
    )


def _mapping(kind: str) -> dict[str, Any]:
    return dict(getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES"))


def _class_name(kind: str, family: str) -> str:
    found = _mapping(kind)[family]
    return found if isinstance(found, str) else found[0]


def _transformers_model(pair: tuple[str, str]) -> Drawn | str:
    name = _class_name(*pair)
    ways = []
    for changes in ({**_SHALLOW, **_NARROW}, _SHALLOW):
        for size in SIZES:
            for image_size in (size, max(size)):
                if isinstance(image_size, tuple) or size[0] == size[1]:
                    ways.append((size, lambda c=changes, i=image_size: _small(pair, name, {**c, "image_size": i})))
        ways.append((None, lambda c=changes: _small(pair, name, c)))
    return _first_that_runs(f"transformers {name}", ways)


def _small(pair: tuple[str, str], name: str, changes: dict[str, Any]) -> nn.Module:
    config = transformers.AutoConfig.for_model(pair[1])
    _shrink(config, changes)
    weights = getattr(transformers, name)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in weights(config).parameters())
    if count > MOST_WEIGHTS:
        raise ValueError(f"{count / 1e6:.0f} M weights")
    return weights(config)


def _shrink(config: Any, changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(getattr(config, key, None), (int, tuple, list)) and key in vars(config):
            setattr(config, key, list(value) if isinstance(value, tuple) else value)
    if isinstance(getattr(config, "depths", None), (list, tuple)):
        config.depths = [1] * len(config.depths)
    if hasattr(config, "use_pretrained_backbone"):
        config.use_pretrained_backbone = False
    for part in vars(config).values():
        if isinstance(part, transformers.PreTrainedConfig):
            _shrink(part, changes)


def _first_that_runs(name: str, ways: list[tuple[tuple[int, int] | None, Callable[[], nn.Module]]]) -> Drawn | str:
    """Return the first way in which a model builds and takes an image, or why the last did not."""
    why = ""
    for size, build in ways:
        try:
            module = build()
            if sum(parameter.numel() for parameter in module.parameters()) > MOST_WEIGHTS:
                return f"{name}: too many weights"
            size = size or _own_size(module)
            _settle(stir(module).eval(), noise(size, 4))
        except Exception as error:  # whatever a configuration that does not fit raises: the next is tried
            why = f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"
            continue
        return Drawn(name, module, size)
    return f"{name}: {why}"


@torch.no_grad()
def _settle(module: nn.Module, images: Tensor) -> None:
    """Run a module, in which batch norms take the statistics of what they see: else a signal dies or explodes."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    try:
        module(images)
    finally:
        for norm in norms:
            norm.eval()
            norm.momentum = 0.1
    module(images[:2])


def _own_size(module: nn.Module) -> tuple[int, int]:
    own = getattr(getattr(module, "config", None), "image_size", None) or 224
    return (own, own) if isinstance(own, int) else (own[0], own[1])


@torch.no_grad()
def stir(module: nn.Module) -> nn.Module:
    """Give weights the size that passes a signal on, and what starts constant (a zero head, a unit norm) noise."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d)) and part.weight.numel() > part.weight.shape[0]:
            gain = 1.0 if isinstance(part, nn.Linear) else 2.0
            part.weight *= (gain * len(part.weight) / part.weight.numel()) ** 0.5 / part.weight.std().clamp_min(1e-6)
    for parameter in module.parameters():
        if parameter.numel() and parameter.is_floating_point() and parameter.max() == parameter.min():
            parameter += 0.2 * torch.randn(parameter.shape)
    for name, buffer in module.named_buffers():
        if name.endswith(".weight"):  # of a frozen batch norm
            buffer += 0.2 * torch.randn(buffer.shape)
    return module


def noise(size: tuple[int, int], count: int) -> Tensor:
    """Return images of coloured spots and grain: `image 3 rows columns`."""
    spots = nn.functional.interpolate(torch.rand(count, 3, 5, 8), size=size, mode="bicubic")
    return 2.5 * (spots - 0.5) + 0.7 * torch.rand(count, 3, *size)
