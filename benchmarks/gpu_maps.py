"""Maps of several class questions on a GPU, beside the peers, in bfloat16 and with channels last."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import cases
from gpu_part import GpuSettings, Part
from measure import growth, in_turns, seconds
from peers import TOOLS, Network

OURS, FORWARD = "conceptlens", "forward"
COMPARED = 8  # maps of more questions are measured and not kept
# Options of running a network: whether under autocast to bfloat16, and whether with channels last in memory.
OPTIONS = {
    "float32": (False, False),
    "bfloat16": (True, False),
    "channels_last": (False, True),
    "bfloat16_channels_last": (True, True),
}


@dataclass
class Maps:
    """One network, its batch, and the tools that did not fail, with the seconds that a question took last."""

    name: str
    size: tuple[int, int]
    device: str
    forward: Callable[[], Any]
    tools: dict[str, Callable[[list[int]], Any]]
    pace: dict[str, float]


def questions(part: Part, settings: GpuSettings, name: str) -> None:
    """Measure 1 to 64 questions about every image of a batch by every tool, in plain forward passes of the batch."""
    maps = ready(part, settings, name)
    megabytes = growth(maps.forward, settings.device)
    part.figures[f"{name}_forward_megabytes"] = round(megabytes, 1)
    part.rows.append({"tool": FORWARD, "batch": settings.batch, "megabytes": round(megabytes, 1)})
    for count in settings.questions:
        measured = first_calls(part, maps, count)
        if OURS in measured:
            rounds(part, settings, maps, count, measured)


def ready(part: Part, settings: GpuSettings, name: str) -> Maps:
    """Build the network and every tool, and let each answer one question, which pays for what is set up once."""
    network = settings.networks[name]
    module = network.build(settings.device)
    images = cases.noise(settings.batch, settings.size, settings.device)
    forward = partial(torch.no_grad()(module), images)
    forward()
    maps = Maps(name, (settings.size, settings.size), settings.device, forward, {}, {})
    for tool, build in TOOLS.items():
        with allowed_to_fail(part, tool, f"{tool}, warm-up"), part.as_far_as_memory_goes(f"{tool}, warm-up"):
            run = partial(build(module, network), images)
            run([0])
            maps.pace[tool] = seconds(partial(run, [0]), settings.device)
            maps.tools[tool] = run
    return maps


def allowed_to_fail(part: Part, tool: str, what: str) -> contextlib.AbstractContextManager[None]:
    """A peer's failure is noted and the run goes on; ours is the part's error."""
    return contextlib.nullcontext() if tool == OURS else part.peer(what)


def first_calls(part: Part, maps: Maps, count: int) -> dict[str, dict[str, Any]]:
    """Measure the memory of every tool once, and compare its maps with ours; skip what memory and time do not hold."""
    measured: dict[str, dict[str, Any]] = {}
    ours: Tensor | None = None
    classes = list(range(count))
    for tool, run in maps.tools.items():
        what = f"{tool}, {count} questions"
        promised = sum(count * maps.pace[name] for name in measured)  # for a round of those before it
        if not part.has_time(what, promised + 2 * count * maps.pace[tool]):
            continue
        with allowed_to_fail(part, tool, what), part.as_far_as_memory_goes(what):
            kept: list[Any] = []
            taken: list[float] = []
            once = partial(call_once, run, classes, maps.device, kept, taken, keep=count <= COMPARED)
            row: dict[str, Any] = {"megabytes": round(growth(once, maps.device), 1)}
            maps.pace[tool] = taken[0] / count
            if kept and tool == OURS:
                ours = kept[0].maps.float().cpu()
            elif kept and ours is not None:
                row["difference"] = difference(tool, ours, kept[0], maps.size)
            measured[tool] = row
    return measured


def call_once(
    run: Callable[[list[int]], Any], classes: list[int], device: str, kept: list[Any], taken: list[float], keep: bool
) -> None:
    """Time one call, and keep its maps where they are compared."""
    taken.append(seconds(lambda: kept.append(run(classes)), device))
    if not keep:
        kept.clear()


def rounds(part: Part, settings: GpuSettings, maps: Maps, count: int, measured: dict[str, dict[str, Any]]) -> None:
    """Time the forward pass and all tools in turns, as many rounds as fit into half of what is left, and note all."""
    calls = {FORWARD: maps.forward, **{tool: partial(maps.tools[tool], list(range(count))) for tool in measured}}
    taken = in_turns(calls, settings.device, settings.rounds, part.left() / 2)
    middle = {name: median(values) for name, values in taken.items()}
    for tool, row in measured.items():
        part.rows.append(
            {
                "tool": tool, "batch": settings.batch, "questions": count, "rounds": len(taken[tool]),
                "milliseconds": round(1000 * middle[tool], 3), "forwards": round(middle[tool] / middle[FORWARD], 3),
                **row,
            }
        )  # fmt: skip
        if tool == OURS:
            part.figures[f"{maps.name}_forwards_{count}"] = round(middle[tool] / middle[FORWARD], 3)
            part.figures[f"{maps.name}_megabytes_{count}"] = row["megabytes"]
            continue
        peer = tool.replace("-", "_")
        part.figures[f"{maps.name}_speedup_{peer}_{count}"] = round(middle[tool] / middle[OURS], 2)
        if measured[OURS]["megabytes"] > 0:
            more = row["megabytes"] / measured[OURS]["megabytes"]
            part.figures[f"{maps.name}_memory_vs_{peer}_{count}"] = round(more, 2)
        if isinstance(row.get("difference"), float):
            part.figures[f"{maps.name}_difference_{peer}_{count}"] = row["difference"]


def difference(tool: str, ours: Tensor, made: Any, size: tuple[int, int]) -> float | str:
    """Return the largest difference of a peer's maps from ours, over the largest value; or why there is none.

    grad-cam shifts, scales and enlarges its maps; its own function does the same to ours.
    """
    if tool == "grad-cam":
        theirs = torch.from_numpy(np.stack(made, 1))
        ours = torch.from_numpy(np.stack([scaled(one.numpy(), size) for one in ours.unbind(1)], 1))
    elif tool == "torchcam":
        theirs = torch.stack([one[0] for one in made], 1).detach().float().cpu()
    else:
        theirs = torch.stack([one[:, 0] for one in made], 1).float().cpu()
    if theirs.shape != ours.shape:
        return f"its maps are of shape {tuple(theirs.shape)} where ours are {tuple(ours.shape)}"
    return largest_difference(ours, theirs)


def scaled(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return maps as grad-cam gives them out: scaled and enlarged for the layer, then scaled for all layers."""
    from pytorch_grad_cam.utils.image import scale_cam_image

    return scale_cam_image(scale_cam_image(maps, size), size)


def largest_difference(a: Tensor, b: Tensor) -> float:
    """Largest difference of two stacks of maps, over the largest value of the second."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(torch.finfo(torch.float32).tiny))


def options(part: Part, settings: GpuSettings, name: str) -> None:
    """Measure the forward pass and 8 questions in bfloat16 and with channels last, in turns with float32."""
    network = settings.networks[name]
    classes = list(range(settings.questions[1]))
    calls: dict[str, Callable[[], Any]] = {}
    rows: dict[str, dict[str, Any]] = {}
    exact: Tensor | None = None
    for option in OPTIONS:
        with part.as_far_as_memory_goes(f"{name}, {option}"):
            forward, asked = optional(settings, network, option, classes)
            forward()
            maps = asked().maps.float().cpu()
            exact = maps if exact is None else exact
            rows[option] = {
                "option": option, "batch": settings.batch, "questions": len(classes),
                "forward_megabytes": round(growth(forward, settings.device), 1),
                "megabytes": round(growth(asked, settings.device), 1),
                "difference": largest_difference(maps, exact),
            }  # fmt: skip
            calls |= {f"{option} forward": forward, f"{option} maps": asked}
    taken = in_turns(calls, settings.device, settings.rounds, part.left() / 2)
    for option, row in rows.items():
        for kind in ("forward", "maps"):
            row[f"{kind}_milliseconds"] = round(1000 * median(taken[f"{option} {kind}"]), 3)
        part.rows.append({**row, "rounds": len(taken[f"{option} maps"])})
        if option != "float32" and "float32" in rows:
            for kind in ("forward", "maps"):
                both = (median(taken[f"{one} {kind}"]) for one in ("float32", option))
                part.figures[f"{name}_{option}_{kind}_speedup"] = round(next(both) / next(both), 2)
            part.figures[f"{name}_{option}_megabytes"] = row["megabytes"]
            part.figures[f"{name}_{option}_difference"] = row["difference"]


def optional(
    settings: GpuSettings, network: Network, option: str, classes: list[int]
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return the forward pass and the maps of a network of its own, run by one option."""
    rounded, channels_last = OPTIONS[option]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module: nn.Module = network.build(settings.device).to(memory_format=layout)
    images = cases.noise(settings.batch, settings.size, settings.device).contiguous(memory_format=layout)
    tool = TOOLS[OURS](module, network)
    plain = torch.no_grad()(module)

    def under(call: Callable[[], Any]) -> Any:
        with torch.autocast(torch.device(settings.device).type, torch.bfloat16, enabled=rounded):
            return call()

    return partial(under, partial(plain, images)), partial(under, partial(tool, images, classes))
