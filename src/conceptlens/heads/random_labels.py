"""A head for labels that mean nothing: whose maps look like those of the real head, does not show the classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from conceptlens.heads.logistic_head import fit_logistic
from conceptlens.io.errors import InputError
from conceptlens.model.backbone import Backbone, check_backbone
from conceptlens.model.class_head import ClassHead

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

# A weak ridge, so that the head learns the shuffled labels as far as the embedding lets it.
STRENGTH = 1e-4


def random_label_head(
    model: Backbone,
    vectors: Float[Tensor, "photo dimension"],
    labels: Int[Tensor, "photo"],
    class_names: tuple[str, ...],
    strength: float = STRENGTH,
    seed: int = 0,
) -> ClassHead:
    """Return a head fitted to shuffled labels, for the data randomisation test of Adebayo et al., NeurIPS 2018.

    Each class keeps its number of photos. `training["train_accuracy"]` says how far the shuffled labels were learned: a
    head that could not learn them is hardly a control.

    Args:
        model: The network that the vectors are of.
        vectors: What enters its classifier, as `conceptlens.heads.photo_embeddings.embed_photos` gives it.
        labels: The class of each photo.
        class_names: What the classes are called.
        strength: The ridge's strength, above 0.
        seed: Shuffles the labels.

    Returns:
        The head; `head.on(model)` explains classes with it.

    Raises:
        InputError: There are fewer than two classes, a class has no photo, shapes do not fit, or the strength is not
            above 0.
        InputTypeError: `model` is no `Backbone`.

    Examples:
        >>> control = random_label_head(model, seen.vectors, seen.labels, birds.classes).on(model)
        >>> maps = [cl.cam(one.observe(photos), cl.Logit("Sooty Albatross")) for one in (fitted.model, control)]
        >>> cl.metrics.random_label_similarity(*maps).mean()
    """
    check_backbone(model)
    if vectors.ndim != 2 or labels.shape != vectors.shape[:1] or not len(labels):
        raise InputError(
            f"vectors have shape {tuple(vectors.shape)} and labels {tuple(labels.shape)}; expected photo dimension, "
            "and a class for each photo"
        )
    order = torch.randperm(len(labels), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    shuffled = labels.cpu()[order]
    fitted = fit_logistic(vectors.cpu(), shuffled, strength)
    right = float((fitted(vectors.cpu()).argmax(1) == shuffled).double().mean())
    weight, bias = (values.float() for values in fitted.folded())
    training = {"labels": "shuffled", "strength": strength, "seed": seed, "train_accuracy": right}
    return ClassHead.of(model, weight, bias, class_names, training)
