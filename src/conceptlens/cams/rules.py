"""Rules that turn a gradient and a feature into weights of the channels; `RULES` lists all rules.

Each function takes `gradient[image question channel height width]`, `G` in the formulas, and `feature[image 1 channel
height width]`, `A`; it returns `weights[image question channel (1|height) (1|width)]`. Their papers stand in `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from conceptlens.cams import gradient_free
from conceptlens.cams.fast_score_cam import score_cam_fast

if TYPE_CHECKING:
    from jaxtyping import Float

    Gradient = Float[Tensor, "image question channel height width"]
    Feature = Float[Tensor, "image 1 channel height width"]
    Weights = Float[Tensor, "image question channel rows columns"]


@dataclass(frozen=True)
class Rule:
    """A way to weigh channels: a function, and what it reads.

    Args:
        name: What the rule is called in `RULES`, records and messages.
        weights: The function. With `reads="gradient"` it is called as `weights(gradient, feature)`, with
            `gradient[image question channel height width]` and `feature[image 1 channel height width]`. With
            `reads="model"` it is called as `weights(observation, questions, layer)`, for rules that run the model
            again or look at the features alone; `questions` are `BoundTarget`s. It returns
            `weights[image question channel (1|height) (1|width)]`; one that reads the model may return
            `(weights, notes)`, and its notes go into `Explanation.source.settings`.
        paper: Where the rule comes from.
        reads: "gradient" or "model".
        title: What tables call it; its name, where there is none.

    Examples:
        >>> mean = cl.Rule("mean", lambda gradient, feature: gradient.mean((-2, -1), keepdim=True), "my notes")
        >>> cl.cam(observation, "tabby", mean)
    """

    name: str
    weights: Callable[..., Any]
    paper: str
    reads: Literal["gradient", "model"] = "gradient"
    title: str = ""


def grad_cam(gradient: Gradient, feature: Feature) -> Weights:
    """`w_k = mean_ij G_k`.

    Args:
        gradient: Gradient of each score at the cells, `[image question channel height width]`.
        feature: The cells, `[image 1 channel height width]`.

    Returns:
        One weight for each channel, `[image question channel 1 1]`.
    """
    return gradient.mean((-2, -1), keepdim=True)


def grad_cam_plus_plus(gradient: Gradient, feature: Feature) -> Weights:
    """`w_k = sum_ij a ReLU(G)`, `a = G^2 / (2 G^2 + (sum_ij A) G^3)` (equation 19, exact for an exponential score).

    Args:
        gradient: Gradient of each score at the cells, `[image question channel height width]`.
        feature: The cells, `[image 1 channel height width]`.

    Returns:
        One weight for each channel, `[image question channel 1 1]`.
    """
    total = feature.sum((-2, -1), keepdim=True)
    below = 2 * gradient**2 + total * gradient**3
    share = torch.where(below != 0, gradient**2 / torch.where(below != 0, below, 1), 0)
    return (share * gradient.relu()).sum((-2, -1), keepdim=True)


def xgrad_cam(gradient: Gradient, feature: Feature) -> Weights:
    """`w_k = sum_ij (A / sum_ij A) G`; a channel that sums to zero gets no weight.

    Args:
        gradient: Gradient of each score at the cells, `[image question channel height width]`.
        feature: The cells, `[image 1 channel height width]`.

    Returns:
        One weight for each channel, `[image question channel 1 1]`.
    """
    total = feature.sum((-2, -1), keepdim=True)
    pulled = (gradient * feature).sum((-2, -1), keepdim=True)
    return torch.where(total != 0, pulled / torch.where(total != 0, total, 1), 0)


def hires_cam(gradient: Gradient, feature: Feature) -> Weights:
    """`w = G`, cell by cell.

    Args:
        gradient: Gradient of each score at the cells, `[image question channel height width]`.
        feature: The cells, `[image 1 channel height width]`.

    Returns:
        A weight for each channel and cell, `[image question channel height width]`.
    """
    return gradient


def element_wise_grad_cam(gradient: Gradient, feature: Feature) -> Weights:
    """`w = G where G A > 0`, so that the map is `sum_k ReLU(G A)`.

    Args:
        gradient: Gradient of each score at the cells, `[image question channel height width]`.
        feature: The cells, `[image 1 channel height width]`.

    Returns:
        A weight for each channel and cell, `[image question channel height width]`.
    """
    return torch.where(gradient * feature > 0, gradient, 0)


def layer_cam(gradient: Gradient, feature: Feature) -> Weights:
    """`w = ReLU(G)`, cell by cell.

    Args:
        gradient: Gradient of each score at the cells, `[image question channel height width]`.
        feature: The cells, `[image 1 channel height width]`.

    Returns:
        A weight for each channel and cell, `[image question channel height width]`.
    """
    return gradient.relu()


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("grad_cam", grad_cam, "Grad-CAM, Selvaraju et al., ICCV 2017, eq. 1", title="Grad-CAM"),
        Rule(
            "grad_cam++", grad_cam_plus_plus, "Grad-CAM++, Chattopadhay et al., WACV 2018, eq. 19", title="Grad-CAM++"
        ),
        Rule("xgrad_cam", xgrad_cam, "XGrad-CAM, Fu et al., BMVC 2020, eq. 8", title="XGrad-CAM"),
        Rule("hires_cam", hires_cam, "HiResCAM, Draelos and Carin, 2020", title="HiResCAM"),
        Rule(
            "element_wise",
            element_wise_grad_cam,
            "element-wise Grad-CAM, Pillai and Pirsiavash, AAAI 2021",
            title="element-wise Grad-CAM",
        ),
        Rule("layer_cam", layer_cam, "LayerCAM, Jiang et al., TIP 2021, eq. 6", title="LayerCAM"),
        Rule("score_cam", gradient_free.score_cam, "Score-CAM, Wang et al., CVPRW 2020", "model", "Score-CAM"),
        Rule(
            "score_cam_fast",
            score_cam_fast,
            "Score-CAM from a few masked images, predicted: ours",
            "model",
            "Score-CAM, predicted",
        ),
        Rule(
            "ablation_cam",
            gradient_free.ablation_cam,
            "Ablation-CAM, Desai and Ramaswamy, WACV 2020",
            "model",
            "Ablation-CAM",
        ),
        Rule("eigen_cam", gradient_free.eigen_cam, "Eigen-CAM, Muhammad and Yeasin, IJCNN 2020", "model", "Eigen-CAM"),
        Rule("random", gradient_free.random, "weights drawn at random: a control", "model", "random weights"),
    )
}
