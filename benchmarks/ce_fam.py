"""CE-FAM's regions of many concepts: ConceptLens beside the published way, one forward and backward a concept.

`python benchmarks/ce_fam.py [--json] [--quick]`. Time is processor time of one thread; see README.md in this folder.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.cams.class_activation import project
from conceptlens.concept_regions.branch import Branch, branch_layers, layer_widths
from conceptlens.concept_regions.ce_fam import channel_weights
from conceptlens.concept_regions.translator import Teacher, Translator
from conceptlens.io.fingerprint import weights_fingerprint
from measure import growth, median_seconds, seconds
from run_record import run_record

# Width of the image vectors of CLIP ViT-B/16, the paper's teacher.
DIMENSION = 512
COUNTS = (50, 500)
PACKAGES = ("conceptlens", "torch", "timm")
Reads = Mapping[str, Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Case:
    """One network, the layers its branch reads (by rule where none are named) and the branch's hidden sizes.

    With `own` there is no branch: concepts are directions in the model's own pooled features, as in the default.
    """

    name: str
    model: str
    layers: tuple[str, ...] = ()
    hidden: tuple[int, ...] | None = None
    own: bool = False


CASES = (
    Case("Lite0, blocks 2, 4, 6 and last", "timm:tf_efficientnet_lite0", ("blocks.2", "blocks.4", "blocks.6", "bn2")),
    Case("Lite0, layers by rule", "timm:tf_efficientnet_lite0"),
    Case("Lite0, last layer, own pair", "timm:tf_efficientnet_lite0", ("bn2",), own=True),
    Case("Lite0, last layer, linear branch", "timm:tf_efficientnet_lite0", ("bn2",), ()),
    Case("Lite0, last layer, published branch", "timm:tf_efficientnet_lite0", ("bn2",)),
    Case("ResNet-50, last layer, published branch", "timm:resnet50", ("layer4",)),
)


def main() -> None:
    """Measure every case in a process of its own, then print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--quick", action="store_true", help="a fifth of the concepts")
    asked = parser.parse_args()
    counts = tuple(count // 5 for count in COUNTS) if asked.quick else COUNTS
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        rows = [pool.submit(measure, case, count).result() for case in CASES for count in counts]
    command = ["python", "benchmarks/ce_fam.py", "--json", *(["--quick"] if asked.quick else [])]
    setting = run_record(PACKAGES, " ".join(command), threads=1)
    result = {"name": "ce_fam", "figures": figures(rows, counts), "details": {"cases": rows, "setting": setting}}
    print(json.dumps(result, indent=2)) if asked.json else show(result)


def measure(case: Case, count: int, device: str = "cpu", size: int = 224) -> dict[str, Any]:
    """Time both ways for `count` concepts of one image of `size x size`, and compare all their maps."""
    torch.set_num_threads(1)
    model = cl.load_model(case.model, pretrained=False, device=device)
    translator = random_branch(model, case)
    translator.branch.to(device)
    regions = own_regions if case.own else branch_regions
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device)
    width = translator.branch.width if case.own else DIMENSION
    texts = torch.randn(count, width, generator=torch.Generator().manual_seed(2)).to(device)
    observed = model.observe(images, translator.layers).layer_outputs
    reads = {name: observed[name].grid.read for name in translator.layers}
    del observed
    plain = torch.no_grad()(model.module.eval())
    plain(images)
    forward = median_seconds(lambda: plain(images), device)
    found: list[dict[str, Tensor]] = []
    grown = growth(lambda: found.append(regions(model, translator, images, texts)), device)
    took = median_seconds(lambda: regions(model, translator, images, texts), device, 4.0)
    theirs: list[dict[str, Tensor]] = []
    took_published = seconds(
        lambda: theirs.append(published(model.module, translator, images, texts, case.own, reads)), device
    )
    ten = seconds(lambda: released(model.module, translator, images, texts[:10], case.own, reads), device)
    return {
        "case": case.name,
        "layers": list(translator.layers),
        "concepts": count,
        "forward_ms": round(forward * 1000, 2),
        "ours_seconds": round(took, 4),
        "published_seconds": round(took_published, 3),
        "released_seconds": round(ten * count / 10, 3),
        "ours_in_forwards": round(took / forward, 3),
        "speedup": round(took_published / took, 2),
        "speedup_released": round(ten * count / 10 / took, 2),
        "megabytes": round(grown, 1),
        "map_difference": max(difference(found[0][name], theirs[0][name]) for name in translator.layers),
    }


def random_branch(model: cl.Backbone, case: Case) -> Translator:
    """Return an untrained branch; it costs what a trained one does."""
    layers = case.layers or branch_layers(model)
    torch.manual_seed(0)
    branch = Branch(layers, layer_widths(model, layers), DIMENSION, case.hidden)
    teacher = Teacher("random", "", "", 1.0, 0.0, False)
    return Translator(branch, teacher, model.name, weights_fingerprint(model.module))


def own_regions(model: cl.Backbone, translator: Translator, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
    """Regions in the last layer for directions in the model's own features: the closed form, found and verified."""
    observation = model.observe(images, translator.layers)
    weights = observation.pull(observation.embedding, texts[None])[..., :1, :1]
    return {observation.layer: project(weights, observation.feature()).relu()[0]}


def branch_regions(model: cl.Backbone, translator: Translator, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
    """Regions of every concept in every layer: one forward pass, exact weights by the cheapest way."""
    observation = model.observe(images, translator.layers)
    weights = channel_weights(observation, translator, texts[None], translator.layers)
    return {name: project(w[..., None, None], observation.feature(name)).relu()[0] for name, w in weights.items()}


def published(
    module: nn.Module, translator: Translator, images: Tensor, texts: Tensor, own: bool, reads: Reads
) -> dict[str, Tensor]:
    """The same by a forward and a backward pass for each concept, classifier and branch frozen (CE-FAM's own code).

    `reads` turns what each layer returns into cells `[image channel height width]`.
    """
    module.requires_grad_(False)
    kept: dict[str, Tensor] = {}
    handles = [
        module.get_submodule(name).register_forward_hook(keeping(kept, name, first=name == translator.layers[0]))
        for name in translator.layers
    ]
    maps: dict[str, list[Tensor]] = {name: [] for name in translator.layers}
    for text in texts:
        with torch.enable_grad():
            module(images)
            pooled = torch.cat([reads[name](kept[name]).mean((2, 3)) for name in reversed(translator.layers)], 1)
            score = (pooled if own else translator.branch(pooled))[0] @ text
            gradients = torch.autograd.grad(score, [kept[name] for name in translator.layers])
        for name, gradient in zip(translator.layers, gradients, strict=True):
            beta = reads[name](gradient).mean((2, 3), keepdim=True)
            maps[name].append((beta * reads[name](kept[name].detach())).sum(1).relu()[0])
    for handle in handles:
        handle.remove()
    return {name: torch.stack(values) for name, values in maps.items()}


def released(module: nn.Module, translator: Translator, images: Tensor, texts: Tensor, own: bool, reads: Reads) -> None:
    """The same as the authors' code does it, which copies both networks for each concept first."""
    for text in texts:
        part = replace(translator, branch=copy.deepcopy(translator.branch))
        published(copy.deepcopy(module), part, images, text[None], own, reads)


def keeping(kept: dict[str, Tensor], name: str, first: bool) -> Callable[..., Tensor]:
    """Return a hook that keeps a layer's output; the graph begins at the first one."""

    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        kept[name] = output.detach().requires_grad_() if first else output
        return kept[name].clone()

    return hook


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference of two stacks of maps, over the largest value."""
    return float((a - b).abs().max() / b.abs().max())


def figures(rows: Sequence[dict[str, Any]], counts: Sequence[int]) -> dict[str, float]:
    """Return the headline numbers; README.md says what each means."""
    by = {(row["case"], row["concepts"]): row for row in rows}
    several, rule, own, linear, lite, resnet = (case.name for case in CASES)
    few, many = counts
    return {
        "last_layer_500_forwards": by[own, many]["ours_in_forwards"],
        "last_layer_500_forwards_linear": by[linear, many]["ours_in_forwards"],
        "last_layer_500_forwards_mlp": by[lite, many]["ours_in_forwards"],
        "last_layer_500_forwards_mlp_resnet50": by[resnet, many]["ours_in_forwards"],
        "speedup_50": by[several, few]["speedup"],
        "speedup_50_released": by[several, few]["speedup_released"],
        "speedup_500": by[several, many]["speedup"],
        "speedup_50_rule": by[rule, few]["speedup"],
        "speedup_500_rule": by[rule, many]["speedup"],
        "max_map_difference": max(row["map_difference"] for row in rows),
        "megabytes_500": max(by[several, many]["megabytes"], by[rule, many]["megabytes"]),
    }


def show(result: dict[str, Any]) -> None:
    """Print the numbers as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    headline = [{"figure": name, "value": value} for name, value in result["figures"].items()]
    for rows in (result["details"]["cases"], headline):
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*(str(value) for value in row.values()))
        console.print(table)


if __name__ == "__main__":
    main()
