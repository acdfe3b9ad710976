"""What a module was trained for, as far as it says so itself: its configuration, its loss, a head taken off."""

from __future__ import annotations

from itertools import dropwhile
from typing import Any

from torch import nn

from conceptlens.model.answer import Task

# What transformers' `problem_type` is called here.
_PROBLEM_TYPES: dict[Any, Task] = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}
# A loss that a module holds (Lightning modules do) says what its answer means.
_LOSSES: dict[type[nn.Module], Task] = {
    nn.CrossEntropyLoss: "single_label",
    nn.NLLLoss: "single_label",
    nn.BCEWithLogitsLoss: "multi_label",
    nn.BCELoss: "multi_label",
    nn.MultiLabelSoftMarginLoss: "multi_label",
    nn.MSELoss: "regression",
    nn.L1Loss: "regression",
    nn.SmoothL1Loss: "regression",
    nn.HuberLoss: "regression",
}


def found_task(module: nn.Module, names: int | None) -> Task | None:
    """Return what a module was trained for where it says so; `None` where it does not.

    Args:
        module: The module; it is not run.
        names: How many class names are given; `None` where there are none.
    """
    return _of_configuration(module, names) or _without_head(module, names) or _of_loss(module, names)


def _of_configuration(module: nn.Module, names: int | None) -> Task | None:
    """Return the task that a transformers, timm or open_clip module's own attributes tell."""
    usual: Task | None
    config: Any = getattr(module, "config", None)
    if hasattr(config, "model_type"):
        kind = type(module).__name__
        if "For" not in kind:  # the rule of transformers: ViTModel is a trunk, ViTForImageClassification has a head
            return "embedding"
        if "ForImageClassification" in kind:
            if config.problem_type is None and config.num_labels == 1 and names != 2:
                return "regression"  # so transformers fits it
            usual = "single_label" if config.num_labels > 1 else None
            return _PROBLEM_TYPES.get(config.problem_type) or usual
    classes, published = getattr(module, "num_classes", None), getattr(module, "pretrained_cfg", None)
    if classes == 0 or (isinstance(classes, int) and isinstance(published, dict)):
        return task_of_timm(classes, published or {})
    pair = hasattr(module, "encode_image") and hasattr(module, "encode_text")  # open_clip, CLIP
    return "embedding" if pair else None


def task_of_timm(classes: int, published: dict[str, Any]) -> Task | None:
    """Return what a timm model with the head that timm published is; `None` for a head of one's own.

    Its classifiers know ImageNet or what ImageNet is a part of; another number is the width of CLIP's space.

    Args:
        classes: How many numbers the head gives.
        published: The configuration of the published weights, `pretrained_cfg`.
    """
    if classes == 0:
        return "embedding"
    if classes != published.get("num_classes") or published.get("source") == "local-dir":
        return None
    if not (published.get("hf_hub_id") or "timm/").startswith("timm/"):
        return None  # somebody's on the hub: taggers are among them
    return "single_label" if classes == 1000 or classes > 10_000 else "embedding"


def _without_head(module: nn.Module, names: int | None) -> Task | None:
    """Return "embedding" where an identity stands in place of the head: `model.fc = nn.Identity()`."""
    leaves = _leaves(module)
    taken_off = bool(leaves) and isinstance(leaves[-1], nn.Identity) and not ends_in_linear(module)
    return "embedding" if taken_off and names is None else None


def ends_in_linear(module: nn.Module) -> bool:
    """Whether the last part of a module that computes anything is a linear layer of any kind, a quantised one too.

    Args:
        module: The module; it is not run.
    """
    leaves = list(dropwhile(lambda part: isinstance(part, (nn.Identity, nn.Dropout)), reversed(_leaves(module))))
    return bool(leaves) and "Linear" in type(leaves[0]).__name__


def ends_in_convolution(module: nn.Module, classes: int) -> bool:
    """Whether the last part of a module that computes anything gives each place `classes` numbers, with nothing behind.

    Such is the head of a segmentation model; a trunk ends in a norm or an activation, or in wider maps.

    Args:
        module: The module; it is not run.
        classes: How many numbers each place has.
    """
    passing = (nn.Identity, nn.Dropout, nn.Upsample)
    leaves: list[Any] = list(dropwhile(lambda part: isinstance(part, passing), reversed(_leaves(module))))
    return bool(leaves) and getattr(leaves[0], "out_channels", getattr(leaves[0], "out_features", None)) == classes


def _leaves(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if not any(True for _ in part.children())]


def _of_loss(module: nn.Module, names: int | None) -> Task | None:
    """Return the task of the one kind of loss that a module holds, which may be a subclass of a known one."""
    found: set[Task] = {task for part in module.modules() for loss, task in _LOSSES.items() if isinstance(part, loss)}
    if len(found) != 1:
        return None
    task = found.pop()
    return "binary" if task == "multi_label" and names == 1 else task  # a sigmoid's loss, and one class: it or not it
