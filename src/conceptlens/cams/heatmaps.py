"""One call from a model and a batch to heat maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from conceptlens.cams.class_activation import cam
from conceptlens.cams.rules import Rule
from conceptlens.cams.targets import AnyTarget
from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.model.backbone import Backbone

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


def heatmaps(
    model: nn.Module | Backbone,
    batch: Any,
    targets: AnyTarget = None,
    rule: str | Rule = "grad_cam",
    layer: str | None = None,
    signed: bool = False,
) -> Float[np.ndarray, "image height width"]:
    """Return one class activation map for each image, at the batch's own size.

    The short form of `model.observe(batch)`, `cam(...)` and `Explanation.upsampled()`.

    Args:
        model: A PyTorch module, or a `Backbone` that says how to read its output, class names and photos.
        batch: Preprocessed images `image colour height width`, or whatever else `Backbone.observe` takes: a loader's
            `(images, labels)`, a dictionary, and, for a `Backbone` with preprocessing, photos, all of one size.
        targets: One question, as in `cam`: `None` for the predicted classes, a class, one class for each image (a
            list, tensor or array), or a target such as `cl.Contrast(3)`.
        rule: A name in `cl.RULES`, or a `cl.Rule`.
        layer: The layer to explain; by default one is chosen by rule (see `Backbone`).
        signed: Keep evidence against as negative values.

    Returns:
        `image height width`, raw and bilinearly enlarged; 0 where a photo was cut off before the model saw it.

    Raises:
        InputError: There are several questions, photos differ in size, or a class or layer is unknown.
        InputTypeError: `model` is neither a module nor a `Backbone`.

    Examples:
        >>> maps = cl.heatmaps(torchvision.models.resnet18(), images, targets=labels)
        >>> maps.shape  # a batch of 8 x 3 x 224 x 224
        (8, 224, 224)
    """
    if not isinstance(model, (nn.Module, Backbone)):
        raise InputTypeError(f"the model is given as {type(model).__name__}; expected a torch.nn.Module or cl.Backbone")
    known = model if isinstance(model, Backbone) else Backbone(model, type(model).__name__)
    found = cam(known.observe(batch, layer), targets, rule, signed=signed)
    questions = found.maps.shape[1]
    if questions != 1:
        raise InputError(
            f"{questions} questions were asked, and heatmaps returns one map for each image; use cl.cam for several, "
            "or give one class for each image"
        )
    return found.upsampled().float().cpu().numpy()[:, 0]
