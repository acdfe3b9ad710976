"""Networks whose evidence is planted: weights set by hand, so the truth of every explanation is known.

All take `image 3 height width` with pixels in 0..1 (no other preprocessing; sides divisible by 16) and give
one logit per colour of `SCENE_COLOURS`. The evidence for a colour is exactly the pixels of that colour.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from conceptlens.data.drawn_scene import SCENE_COLOURS, Scene

LABELS = tuple(SCENE_COLOURS)
SOLID = ("disc", "square", "triangle", "cross")  # kinds that a grid of 16-pixel cells resolves: energy above 0.8
PATCH = 16
COVER = 0.5  # a cell counts as evidence once more than this part of it shows the colour
GAIN = 40.0  # head weight: a disc of radius 0.2 gives a logit of about 4


def pixels(images: Iterable[Scene | Image.Image]) -> Tensor:
    """Return `image 3 height width` in 0..1."""
    plain = [image.image if isinstance(image, Scene) else image for image in images]
    arrays = np.stack([np.array(image.convert("RGB")) for image in plain])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def pixel_detector() -> nn.Sequential:
    """One channel per colour: 1 on a pixel of that colour, 0 on any other colour and on grey.

    A colour's filter is the sign of each of its channels; its answer is 1.2 on that colour, at most 0.4 on
    another and about 0 on grey, and the bias takes 0.8 away.
    """
    colours = torch.tensor(list(SCENE_COLOURS.values())) / 255 - 0.5
    signs = colours.sign()
    own = (signs * colours).sum(1)
    other = (signs @ colours.T).fill_diagonal_(-torch.inf).amax(1)
    threshold = (own + other) / 2
    scale = 1 / (own - threshold)
    conv = nn.Conv2d(3, len(LABELS), 1)
    conv.weight.copy_((signs * scale[:, None])[:, :, None, None])
    conv.bias.copy_(-(signs.sum(1) * 0.5 + threshold) * scale)
    return nn.Sequential(conv, nn.ReLU())


@torch.no_grad()
def patch_pool(channels: int) -> nn.Conv2d:
    """One cell per patch: 1 where the patch is covered, 0 or less below COVER of it."""
    pool = nn.Conv2d(channels, channels, PATCH, stride=PATCH, groups=channels)
    pool.weight.fill_(1 / (PATCH**2 * (1 - COVER)))
    pool.bias.fill_(-COVER / (1 - COVER))
    return pool


class ColourNet(nn.Module):
    """A CNN: pixel detector, patches of 16 x 16, ReLU (tap `features`), global average pooling, linear head.

    Channel c of `features` is the cover of each cell with colour c, so a 224 x 224 image has a 14 x 14 grid.
    A last channel is the sum of the others; `shared` is its weight for every class: evidence that says
    "coloured" but not which, seen by a class's own logit and gone from a difference of logits.
    """

    def __init__(self, shared: float = 0.0) -> None:
        super().__init__()
        colours = len(LABELS)
        self.detect = pixel_detector()
        self.pool = patch_pool(colours)
        self.mix = nn.Conv2d(colours, colours + 1, 1, bias=False)
        self.features = nn.ReLU()
        self.head = nn.Linear(colours + 1, colours)
        with torch.no_grad():
            self.mix.weight[:colours, :, 0, 0] = torch.eye(colours)
            self.mix.weight[colours] = 1.0
            self.head.weight[:, :colours] = GAIN * torch.eye(colours)
            self.head.weight[:, colours] = GAIN * shared
            self.head.bias.zero_()
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        cover = self.pool(self.detect(image)).relu()
        return self.head(self.features(self.mix(cover)).mean((2, 3)))


class Repeat(nn.Module):
    """Every channel `times` times, one after the other."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, cells: Tensor) -> Tensor:
        return cells.repeat_interleave(self.times, dim=1)


class ManyNet(nn.Module):
    """A CNN with twenty channels for each colour, so that the first twenty channels of a colour are all its own.

    `detect` has a cell for every pixel, `features` one for every patch; the head reads the mean of `features`.
    """

    def __init__(self, copies: int = 20) -> None:
        super().__init__()
        channels = copies * len(LABELS)
        self.detect = nn.Sequential(pixel_detector(), Repeat(copies))
        self.pool = patch_pool(channels)
        self.features = nn.ReLU()
        self.head = nn.Linear(channels, len(LABELS))
        with torch.no_grad():
            self.head.weight.copy_(GAIN / copies * torch.eye(len(LABELS)).repeat_interleave(copies, dim=1))
            self.head.bias.zero_()
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(self.pool(self.detect(image))).mean((2, 3)))


class Gather(nn.Module):
    """One attention head, hand-weighted: token 0 collects the tokens' values, more from those with evidence.

    The key of a token is the sum of its channels, the query is `sharpness`; 0 gives a plain mean.
    """

    def __init__(self, sharpness: float) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.tensor(sharpness))

    def forward(self, tokens: Tensor) -> Tensor:
        attention = (self.query * tokens.sum(-1)).softmax(-1)
        gathered = torch.einsum("it,itc->ic", attention, tokens)
        return torch.cat([gathered[:, None], tokens[:, 1:]], dim=1)


class TokenNet(nn.Module):
    """A vision transformer in small: patch embedding, prefix tokens, two blocks, a head on token 0.

    `blocks.0` (the layer to tap) gives `image token channel` with `prefix` tokens before the grid's, all zero
    there: the class token and registers. With `prefix=0` the head reads the mean of all tokens.
    """

    def __init__(self, prefix: int = 1, sharpness: float = 1.0) -> None:
        super().__init__()
        colours = len(LABELS)
        self.num_prefix_tokens = prefix
        self.stem = pixel_detector()
        self.patch_embed = patch_pool(colours)
        self.prefix = nn.Parameter(torch.zeros(1, prefix, colours))
        gather = [Gather(sharpness)] if prefix else []
        self.blocks = nn.Sequential(nn.ReLU(), *gather)
        self.head = nn.Linear(colours, colours)
        with torch.no_grad():
            self.head.weight.copy_(GAIN * torch.eye(colours))
            self.head.bias.zero_()
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patch_embed(self.stem(image)).flatten(2).transpose(1, 2)
        tokens = self.blocks(torch.cat([self.prefix.expand(len(image), -1, -1), patches], dim=1))
        return self.head(tokens[:, 0] if self.num_prefix_tokens else tokens.mean(1))
