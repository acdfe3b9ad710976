"""Where the regions of a transformer with a class token lie: official ones, and competing ones by three readings.

`python benchmarks/transformer_regions.py [--json] [--scenes 40] [--weights FOLDER]`. Three small vision transformers
learn to name the coloured shapes of drawn scenes, two minutes of processor time each; maps of the colours and kinds of
shape are measured against exact masks in other scenes. Trained networks are kept in FOLDER and taken from there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import conceptlens as cl
from conceptlens.concepts.class_knowledge import ClassKnowledge, KnownClass
from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.data.drawn_scene import FIRST_SEED, KINDS, SCENE_COLOURS, Scene, random_scene
from conceptlens.io.torchvision_operators import mend_torchvision
from conceptlens.localization.baseline_maps import centre
from conceptlens.localization.methods import MethodContext, build_methods
from conceptlens.metrics import bootstrap_difference, bootstrap_mean, ranked_area_corrected
from run_record import run_record

SIZE = 64
SEEDS = (0, 1, 2)
STEPS, BATCH, RATE = 1600, 32, 2e-3
TRAINED_ON = 6000  # scenes for each seed, which share none
CLASSES = [(colour, kind) for colour in SCENE_COLOURS for kind in KINDS]


def network(seed: int) -> nn.Module:
    """Return a vision transformer with a class token, 4 blocks of 64 channels on 8 x 8 patches, without training."""
    mend_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(seed)
    return VisionTransformer(
        img_size=SIZE, patch_size=8, embed_dim=64, depth=4, num_heads=2, num_classes=len(CLASSES)
    )  # fmt: skip


def drawn(seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return scenes as inputs, and the classes of their shapes, which share each scene's probability."""
    images, targets = [], torch.zeros(len(seeds), len(CLASSES))
    for row, seed in enumerate(seeds):
        scene = random_scene(seed, SIZE)
        images.append(torch.from_numpy(np.array(scene.image)))
        targets[row, [CLASSES.index((shape.colour, shape.kind)) for shape in scene.shapes]] = 1 / len(scene.shapes)
    return torch.stack(images).permute(0, 3, 1, 2).float() / 127.5 - 1, targets


def trained(seed: int, kept: Path | None) -> nn.Module:
    """Return a network that names the shapes of scenes, from the folder where it is there."""
    net = network(seed)
    file = None if kept is None else kept / f"vit_{seed}.pt"
    if file is not None and file.is_file():
        net.load_state_dict(torch.load(file))
        return net.eval()
    first = FIRST_SEED["train"] + seed * TRAINED_ON
    images, targets = drawn(range(first, first + TRAINED_ON))
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.15)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (BATCH,), generator=draw)
        shift = torch.randint(-4, 5, (2,), generator=draw).tolist()
        batch = images[chosen].roll(shift, (2, 3))
        F.cross_entropy(net(batch), targets[chosen]).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), file)
    return net.eval()


class Patches(nn.Module):
    """Each patch of a trained transformer read as its class token is: averaged, then the transformer's classifier.

    `values` reads what the last block's attention would carry from a patch to the class token (MaskCLIP); without it,
    patches of the last block pass the final norm (the logit lens; Vilas et al., NeurIPS 2023).
    """

    def __init__(self, net: Any, values: bool) -> None:
        super().__init__()
        self.net, self.values, self.head = net, values, net.head
        self.cells = Cells()

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.net._pos_embed(self.net.patch_embed(images))
        for block in self.net.blocks[:-1]:
            tokens = block(tokens)
        last = self.net.blocks[-1]
        if self.values:
            tokens = last.attn.proj(last.attn.qkv(last.norm1(tokens)).chunk(3, -1)[2])
        else:
            tokens = self.net.norm(last(tokens))
        return self.head(self.cells(tokens[:, 1:]).mean((2, 3)))


class Cells(nn.Module):
    """Patches as a map `image channel row column`: the layer that is read."""

    def forward(self, patches: Tensor) -> Tensor:
        return patches.transpose(1, 2).unflatten(2, (SIZE // 8, SIZE // 8))


def model_of(net: nn.Module, layers: tuple[str, ...] = ()) -> cl.Backbone:
    """Return a network as a classifier whose stand-in encoder reads texts, and what its classes show."""
    names = tuple(f"{colour} {kind}" for colour, kind in CLASSES)
    shown = [{ConceptName(colour, "colour"): 0.93, ConceptName(kind): 0.93} for colour, kind in CLASSES]
    known = [KnownClass(name, (kind,), rates) for name, (_, kind), rates in zip(names, CLASSES, shown, strict=True)]
    whole = cl.Preprocess((SIZE, SIZE), (0.5,) * 3, (0.5,) * 3, crop_mode="squash")
    knowledge = ClassKnowledge(tuple(known), "drawn scenes")
    return cl.Backbone(net, "vit", layers, whole, class_names=names, knowledge=knowledge)


def methods(net: nn.Module) -> dict[str, Any]:
    """Return each way to make regions, from a photo and concepts to an explanation."""
    model = model_of(net)
    readings = {
        name: model_of(Patches(net, values), ("cells",)) for name, values in (("final norm", False), ("values", True))
    }
    once = cl.Competition(input_scales=(1.0,))

    def by(read: cl.Backbone) -> Any:
        return lambda photo, concepts: cl.compete(read.observe(photo), concepts, competition=once)

    return {
        "centre": lambda photo, concepts: centre(model.observe(photo), concepts),
        "official": build_methods(["ce_fam"], MethodContext(model, ()))["ce_fam"],
        "competing, all products": by(model),
        **{f"competing, {name} of each patch": by(read) for name, read in readings.items()},
        "official, values of each patch": build_methods(["ce_fam"], MethodContext(readings["values"], ()))["ce_fam"],
    }


def measured(explained: cl.Explanation, scene: Scene) -> dict[str, list[float]]:
    """Return figures of a scene's colours and kinds: against their masks, and less those of another shape's mask."""
    groups = [torch.from_numpy(np.stack(list(masks.values())))[None] for masks in (scene.masks, scene.kinds)]
    masks, others = torch.cat(groups, 1), torch.cat([group.roll(1, 1) for group in groups], 1)
    own = ranked_area_corrected(explained, masks).values[0]
    other = ranked_area_corrected(explained, others).values[0]
    large = F.interpolate(explained.maps.float(), size=(SIZE, SIZE), mode="bilinear")[0].flatten(1)
    peaks = masks[0].flatten(1).gather(1, large.argmax(1)[:, None])[:, 0]
    count = len(scene.masks)
    return {
        "nra": own.tolist(),
        "colours": own[:count].tolist(),
        "kinds": own[count:].tolist(),
        "peak_inside": peaks.float().tolist(),
        "right_minus_wrong": (own - other).tolist() if count > 1 else [],
    }


def named_right(net: nn.Module, seeds: Sequence[int]) -> float:
    """Return how many of the shapes of scenes are among as many classes with the highest scores."""
    images, targets = drawn(seeds)
    with torch.no_grad():
        scores = net(images)
    counts = (targets > 0).sum(1).tolist()
    found = [targets[i, scores[i].topk(n).indices].gt(0).float().mean() for i, n in enumerate(counts)]
    return float(torch.stack(found).mean())


def evaluated(seed: int, scenes: Sequence[int], kept: Path | None) -> dict[str, Any]:
    """Return the figures of every way for one network: means over scenes, and the gain over official regions."""
    net = trained(seed, kept)
    made = methods(net)
    values: dict[str, list[dict[str, list[float]]]] = {}
    for number in scenes:
        scene = random_scene(number, SIZE)
        concepts = [*(ConceptName(c, "colour") for c in scene.masks), *(ConceptName(k) for k in scene.kinds)]
        for name, method in made.items():
            values.setdefault(name, []).append(measured(method(scene.image, concepts), scene))
    by_scene = {name: [float(np.mean(row["nra"])) for row in rows] for name, rows in values.items()}
    official = by_scene["official"]
    rows = []
    for name, found in values.items():
        means = {key: round(float(np.mean([v for row in found for v in row[key]])), 3) for key in found[0]}
        interval = str(bootstrap_mean(by_scene[name], list(scenes)))
        gain = str(bootstrap_difference(by_scene[name], official, list(scenes)))
        rows.append({"regions": name, **means, "nra_by_scene": interval, "gain_over_official": gain})
    return {"seed": seed, "named_right": round(named_right(net, scenes), 3), "rows": rows}


def main() -> None:
    """Train and measure each network, then print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--scenes", type=int, default=40, help="how many held-out scenes")
    parser.add_argument("--weights", type=Path, help="folder of trained networks")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    scenes = range(FIRST_SEED["val"], FIRST_SEED["val"] + asked.scenes)
    networks = [evaluated(seed, scenes, asked.weights) for seed in SEEDS]
    setting = {**run_record(("timm",)), "scenes": asked.scenes}
    result = {"name": "transformer_regions", "networks": networks, "setting": setting}
    print(json.dumps(result, indent=2)) if asked.json else show(networks)


def show(networks: list[dict[str, Any]]) -> None:
    """Print the figures of every network as a table."""
    from rich.console import Console
    from rich.table import Table

    printed = Table("seed", *networks[0]["rows"][0])
    for network in networks:
        for row in network["rows"]:
            printed.add_row(str(network["seed"]), *(str(value) for value in row.values()))
    Console(width=200).print(printed)


if __name__ == "__main__":
    main()
