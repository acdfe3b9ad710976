"""Models by name: one small builder per source, in one table."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlens.io.errors import InputError, InputTypeError, near
from conceptlens.io.torchvision_operators import mend_torchvision

if TYPE_CHECKING:
    from conceptlens.model.answer import Task
    from conceptlens.model.backbone import Backbone

DEFAULT_MODEL = "timm:tf_efficientnet_lite0"


# Where a model comes from, to the module of this package whose `load` builds it.
LOADERS: dict[str, str] = {
    "timm": "from_timm",
    "torchvision": "from_torchvision",
    "hf": "from_transformers",
    "open_clip": "from_open_clip",
    "head": "from_head",
}


def load_model(
    name: str = DEFAULT_MODEL,
    *,
    pretrained: bool = True,
    weights: str | Path | None = None,
    class_names: Sequence[str] | None = None,
    layers: str | Iterable[str] = (),
    task: Task | None = None,
    crop_mode: str | None = None,
    device: str = "cpu",
    autocast: bool = False,
    channels_last: bool = False,
) -> Backbone:
    """Return a model by `source:name`, such as `timm:resnet50`, with its own preprocessing and class names.

    The default model's weights come from a pip package; others are fetched by their own libraries when first used.

    Args:
        name: `timm:NAME`, `torchvision:NAME`, `hf:OWNER/MODEL` or `hf:FOLDER` (transformers),
            `open_clip:MODEL/PRETRAINED`, or the folder that `conceptlens fit head` wrote, also as `head:FOLDER`.
        pretrained: False gives random weights.
        weights: Your own weights, as training left them: safetensors, an index of shards, a checkpoint, or a folder
            with one of them; see `load_weights`. Nothing is unpickled.
        class_names: One name for each class, in the order of the logits; given to a CLIP model they become a
            zero-shot classifier over these texts.
        layers: Names of the layers to observe; by default one is chosen.
        task: What the model was trained for, where its configuration does not say (see `Backbone`): "multi_label",
            "binary", "regression", ...
        crop_mode: "center" shows the model the central crop that it was evaluated with, "squash" the whole photo in
            changed proportions; by default what the model's own configuration says.
        device: "cpu", "cuda", "mps" or another name that torch knows.
        autocast: Whether the network runs under autocast to bfloat16 (see `Backbone`).
        channels_last: Whether the network's weights, and so its maps, lie in memory with channels last, which suits
            the convolutions of many processors; numbers change by rounding alone.

    Returns:
        The model in evaluation mode on `device`, ready to `observe`.

    Raises:
        InputError: There is no such model or task, its weights cannot be fetched or do not fit, or an option is out of
            range.
        InputTypeError: `name` is no text.

    Example:
        >>> model = cl.load_model("timm:resnet50", crop_mode="squash")
        >>> observation = model.observe("cat.png")
    """
    if callable(getattr(name, "state_dict", None)):  # a module; torch is loaded later
        raise InputTypeError(
            f"the module {type(name).__name__} was given as the model; expected SOURCE:NAME, such as {DEFAULT_MODEL}; "
            "for a module of your own use cl.Backbone(net, name, transform=cl.Preprocess((height, width)))"
        )
    if not isinstance(name, str):
        raise InputTypeError(
            f"a {type(name).__name__} was given as the model; expected SOURCE:NAME, such as {DEFAULT_MODEL}"
        )
    source, _, rest = name.partition(":")
    if (source not in LOADERS or not rest) and Path(name).is_dir():
        source, rest = "head", name
    if source not in LOADERS or not rest:
        raise InputError(
            f"no model source in '{name}'; write SOURCE:NAME with one of {', '.join(LOADERS)}, such as {DEFAULT_MODEL}"
        )
    mend_torchvision()
    names = (layers,) if isinstance(layers, str) else tuple(layers)
    loader = importlib.import_module(f"conceptlens.model.zoo.{LOADERS[source]}")
    texts, of_numbers = _class_names(task, class_names)
    model = loader.load(rest, pretrained and weights is None, weights, of_numbers, names)
    if task is not None:
        model = dataclasses.replace(model, task=task, class_names=texts or model.class_names)
    if crop_mode is not None:
        if crop_mode not in ("center", "squash"):
            raise InputError(f"crop_mode is '{crop_mode}'; expected center or squash")
        known = model.known_preprocess("crop_mode= cannot change it")
        model = dataclasses.replace(model, transform=dataclasses.replace(known, crop_mode=crop_mode))
    model.module.eval()  # a forward pass of the user's own must not move a batch norm's statistics
    if channels_last:
        import torch

        model.module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] # torch's stubs lack it
    return dataclasses.replace(model, autocast=autocast).to(device)


def _class_names(task: Task | None, given: Sequence[str] | None) -> tuple[Sequence[str] | None, Sequence[str] | None]:
    """Return a name for each class, and one for each number that the model puts out: K - 1 of K ordered classes."""
    from conceptlens.model.answer import ANSWERS, check_task
    from conceptlens.model.class_names import class_names_of

    check_task(task)
    if given is None or isinstance(given, str):
        return given, given  # one text is refused where classes are counted
    names = class_names_of(task, given)
    return names, names if task is None else names[ANSWERS[task].more_classes :]


def model_names(source: str) -> list[str]:
    """Return the names that a source knows without a network; transformers has none, for its models lie on a hub."""
    if source not in LOADERS:
        raise InputError(f"no model source '{source}'; {near(source, LOADERS, 'sources')}")
    mend_torchvision()
    if source == "timm":
        import timm

        return timm.list_models()
    if source == "torchvision":
        from conceptlens.model.zoo.from_torchvision import names_of_models

        return names_of_models()
    if source == "open_clip":
        from conceptlens.model.zoo.from_open_clip import names

        return names()
    return []


def find_models(search: str) -> tuple[list[str], dict[str, Any]]:
    """Return the known models whose name contains `search`, with their tasks, as lines and as numbers."""
    from conceptlens.model.answer import ANSWERS

    found = {s: [n for n in model_names(s) if search.lower() in f"{s}:{n}".lower()] for s in LOADERS if _installed(s)}
    every: list[tuple[str, Task | None]] = [
        (f"{source}:{name}", model_task(source, name)) for source, names in found.items() for name in names
    ]
    lines = [name if task is None else f"{name:<56} {ANSWERS[task].words}" for name, task in every]
    tasks = {name: task for name, task in every if task is not None}
    if not search:
        lines.append(
            "hf:OWNER/MODEL (any image classifier, CLIP, SigLIP, detector or segmentation model of transformers, or a "
            "local folder)"
        )
    return lines, {"schema": "conceptlens.models/1", "default": DEFAULT_MODEL, "models": found, "tasks": tasks}


def model_task(source: str, name: str) -> Task | None:
    """Return what a model that `model_names` lists was trained for, as far as it is known without building it.

    Args:
        source: Where it comes from.
        name: Its name there.
    """
    if source == "timm":
        from conceptlens.model.zoo.from_timm import published_task

        return published_task(name)
    if source == "torchvision":
        from conceptlens.model.zoo.from_torchvision import published_task

        return published_task(name)
    return "embedding" if source == "open_clip" else None


def list_layers(name: str) -> tuple[list[str], dict[str, Any]]:
    """Return the task of a model and its layers with a grid, as lines and as numbers."""
    from conceptlens.model.answer import ANSWERS

    model = load_model(name, pretrained=False)  # layers do not depend on the weights
    rows = [
        {"name": x.name, "channels": x.grid.channels, "height": x.grid.height, "width": x.grid.width,
         "reaches_output": x.reached, "default": x.name in model.default_layers}
        for x in model.anatomy.layers
    ]  # fmt: skip
    notes = ["default" if r["default"] else "" if r["reaches_output"] else "does not reach the output" for r in rows]
    task = model.known_task
    words = "not known, say --task" if task is None else f"{ANSWERS[task].words} (task {task})"
    lines = [f"{model.name} gives {words}" if task else f"what {model.name} gives is {words}"]
    lines += [
        f"{r['name']:<40} {r['channels']:>5} x {r['height']} x {r['width']}  {note}".rstrip()
        for r, note in zip(rows, notes, strict=True)
    ]
    return lines, {"schema": "conceptlens.layers/1", "model": model.name, "task": task, "layers": rows}


def _installed(source: str) -> bool:
    return source != "open_clip" or importlib.util.find_spec("open_clip") is not None
