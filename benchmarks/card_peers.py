"""How far other implementations' maps are from ours on the same networks and images: the cards' conformance."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from conceptlens.io.torchvision_operators import mend_torchvision

mend_torchvision()

import timm  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn.functional import interpolate  # noqa: E402

import conceptlens as cl  # noqa: E402
from card_texts import words  # noqa: E402
from drawn_network import NAMES, load_network  # noqa: E402
from golden_maps import golden_cases  # noqa: E402

# As shares of the peak: the tolerance of tests/oracle/test_peers.py.
EQUAL = 1e-4


@dataclass(frozen=True, eq=False)
class Ground:
    """A network, images and classes, on which implementations are compared."""

    name: str
    model: cl.Backbone
    images: Tensor
    classes: list[int]
    layer: str
    tokens: bool = False
    large: bool = False

    def seen(self) -> cl.Observation:
        """Return the images as ours sees them."""
        return self.model.observe(self.images, self.layer)

    def options(self) -> dict[str, Any]:
        """Return how peers are told to read tokens."""
        return {"reshape_transform": _cells_of} if self.tokens else {}

    @property
    def module(self) -> Any:
        """The network itself, and below its explained layer."""
        return self.model.module


def grounds() -> list[Ground]:
    """Return a trained network of drawn scenes, the embedded classifier, and a transformer with random weights."""
    drawn, lite = load_network(), cl.load_model()
    cases = golden_cases()
    scenes = drawn.observe([case.scene.image for case in cases])
    photos = lite.observe([_photo("chelsea"), _photo("coffee")])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = cl.Backbone(timm.create_model("vit_tiny_patch16_224").eval(), "vit_tiny", "blocks.11.norm1")
    noise = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    predicted = photos.logits.argmax(1).tolist()
    return [
        Ground("drawn network", drawn, scenes.images, [NAMES.index(case.asked) for case in cases], "cells"),
        Ground("EfficientNet-Lite0", lite, photos.images, predicted, lite.default_layers[-1], large=True),
        Ground("ViT-Tiny, random weights", vit, noise, [3], "blocks.11.norm1", tokens=True),
    ]


def _photo(name: str) -> Any:
    from skimage import data

    return getattr(data, name)()


def _cells_of(raw: Tensor) -> Tensor:
    side = round((raw.shape[1] - 1) ** 0.5)
    return raw[:, 1:].transpose(1, 2).unflatten(2, (side, side))


# --- maps of others


def grad_cam_maps(ground: Ground, method: str) -> Tensor:
    """Return what a class of pytorch-grad-cam says; Finer-CAM is asked about the predicted class."""
    import pytorch_grad_cam
    from pytorch_grad_cam.ablation_layer import AblationLayerVit
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = None if method == "FinerCAM" else [ClassifierOutputTarget(c) for c in ground.classes]
    layer = ground.module.get_submodule(ground.layer)
    options = {"ablation_layer": AblationLayerVit()} if method == "AblationCAM" and ground.tokens else {}
    made = getattr(pytorch_grad_cam, method)(ground.module, [layer], **ground.options(), **options)
    with made as peer, contextlib.redirect_stderr(io.StringIO()):  # Score-CAM and Ablation-CAM draw progress bars
        return torch.from_numpy(peer(ground.images.clone(), targets))


def torchcam_maps(ground: Ground, method: str) -> Tensor:
    """Return what a class of torch-cam says; Finer-CAM is asked about the predicted class."""
    import torchcam.methods

    predicted = ground.seen().logits.argmax(1).tolist()
    with getattr(torchcam.methods, method)(ground.module, ground.layer, **ground.options()) as peer:
        scores = ground.module(ground.images)
        return peer(predicted if method == "FinerCAM" else ground.classes, scores, normalized=False)[0].detach()


def captum_maps(ground: Ground) -> Tensor:
    """Return captum's `LayerGradCam`."""
    from captum.attr import LayerGradCam

    method = LayerGradCam(ground.module, ground.module.get_submodule(ground.layer))
    found: Any = method.attribute(ground.images.clone(), target=ground.classes, relu_attributions=True)
    return found.detach()[:, 0]


def released_score_cam(ground: Ground) -> Tensor:
    """Return Score-CAM as its authors' code computes it: `ReLU(sum_k p(x . H_k) A_k)`, without a softmax over k."""
    seen, maps = ground.seen(), []
    for image, cells, label in zip(ground.images, seen.feature().detach(), ground.classes, strict=True):
        large = interpolate(cells[:, None], image.shape[1:], mode="bilinear", align_corners=False)
        low, high = large.amin((1, 2, 3), keepdim=True), large.amax((1, 2, 3), keepdim=True)
        masks = ((large - low) / (high - low)).nan_to_num()
        with torch.no_grad():
            likely = torch.cat([ground.module(image * part).softmax(1)[:, label] for part in masks.split(16)])
        maps.append(torch.einsum("k,khw->hw", likely * (high != low).flatten(), cells).relu())
    return torch.stack(maps)


def released_rule(ground: Ground, weights: Callable[[Tensor, Tensor], Tensor], signed: bool = False) -> Tensor:
    """Return the maps of a rule that is written as in its authors' code."""
    rule = cl.Rule("released", weights, "its authors' code")
    return cl.cam(ground.seen(), cl.Logit(ground.classes), rule, signed=signed).maps[:, 0]


def released_grad_cam_plus_plus(gradient: Tensor, feature: Tensor) -> Tensor:
    """Return equation 19's weights with each channel's `a` divided by their sum over the cells."""
    below = 2 * gradient**2 + feature.sum((-2, -1), keepdim=True) * gradient**3
    share = torch.where(below != 0, gradient**2 / torch.where(below != 0, below, 1), 0)
    total = share.sum((-2, -1), keepdim=True)
    return (share / torch.where(total != 0, total, 1) * gradient.relu()).sum((-2, -1), keepdim=True)


def released_xgrad_cam(gradient: Tensor, feature: Tensor) -> Tensor:
    """Return XGrad-CAM's weights with the authors' constant below the line."""
    return (gradient * feature).sum((-2, -1), keepdim=True) / (feature.sum((-2, -1), keepdim=True) + 1e-6)


# --- ours, treated alike


def our_maps(ground: Ground, rule: str = "grad_cam", signed: bool = False) -> Tensor:
    """Return our maps of the classes."""
    return cl.cam(ground.seen(), cl.Logit(ground.classes), rule, signed=signed).maps[:, 0].detach()


def our_contrast(ground: Ground, **settings: Any) -> Tensor:
    """Return our Finer-CAM of the predicted class."""
    return cl.cam(ground.seen(), cl.Contrast(**settings)).maps[:, 0].detach()


def as_grad_cam_shows(ground: Ground, maps: Tensor) -> Tensor:
    """Return maps rectified, shifted, scaled and resized by pytorch-grad-cam's own function."""
    from pytorch_grad_cam.utils.image import scale_cam_image

    rows, columns = ground.images.shape[2:]
    return torch.from_numpy(scale_cam_image(scale_cam_image(maps.relu().numpy(), (columns, rows))))


def as_it_is(ground: Ground, maps: Tensor) -> Tensor:
    """Return maps unchanged."""
    return maps


# --- who is compared


@dataclass(frozen=True, eq=False)
class Peer:
    """Another implementation of a card's method, how ours is called beside it, and why they differ where they do."""

    card: str
    tool: str
    method: str
    theirs: Callable[[Ground], Tensor]
    ours: Callable[[Ground], Tensor]
    shown: Callable[[Ground, Tensor], Tensor] = as_it_is
    departs: str = ""
    about: str = ""
    slow: bool = False
    tokens: bool = True

    @property
    def key(self) -> str:
        """What tells it from the others."""
        return f"{self.card}: {self.tool} {self.method} {self.about}".strip()

    def difference(self, ground: Ground) -> float | None:
        """Return the largest difference of two maps, each in shares of its peak; None where it is not compared."""
        if (self.slow and ground.large) or (ground.tokens and not self.tokens):
            return None
        theirs, ours = self.theirs(ground), self.shown(ground, self.ours(ground))
        return float((_shares(ours) - _shares(theirs)).abs().max())


def _shares(maps: Tensor) -> Tensor:
    return maps / maps.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def _of_grad_cam(card: str, method: str, departs: str = "", ours: Any = None, **options: Any) -> Peer:
    ours, theirs = ours or partial(our_maps, rule=card), partial(grad_cam_maps, method=method)
    return Peer(card, "grad-cam", method, theirs, ours, as_grad_cam_shows, departs, **options)


def _of_torchcam(card: str, method: str, departs: str = "", ours: Any = None, **options: Any) -> Peer:
    ours, theirs = ours or partial(our_maps, rule=card), partial(torchcam_maps, method=method)
    return Peer(card, "torchcam", method, theirs, ours, as_it_is, departs, **options)


def _of_authors(card: str, weights: Any, where: str, departs: str = "", signed: bool = False, **options: Any) -> Peer:
    theirs = partial(released_rule, weights=weights, signed=signed)
    ours = options.pop("ours", None) or partial(our_maps, rule=card)
    return Peer(card, "authors", where, theirs, ours, departs=departs, **options)


def _of_authors_signed(card: str, weights: Any, where: str, departs: str) -> list[Peer]:
    """Return authors' code that leaves out the ReLU, beside ours as it is and beside ours without one."""
    signed = partial(our_maps, rule=card, signed=True)
    return [
        _of_authors(card, weights, where, departs, signed=True),
        _of_authors(card, weights, where, signed=True, ours=signed, about="beside `signed=True`"),
    ]


def peers() -> list[Peer]:
    """Return every implementation that is compared."""
    why = words("peers")
    official = partial(our_contrast, gamma=1.0, objective="official")
    return [
        _of_grad_cam("grad_cam", "GradCAM"),
        _of_torchcam("grad_cam", "GradCAM"),
        Peer("grad_cam", "captum", "LayerGradCam", captum_maps, our_maps, tokens=False),
        _of_authors("grad_cam", lambda g, a: g.sum((-2, -1), keepdim=True), "ramprs/grad-cam"),
        _of_grad_cam("grad_cam++", "GradCAMPlusPlus", why["epsilon"]),
        _of_torchcam("grad_cam++", "GradCAMpp", why["forgotten"]),
        _of_authors(
            "grad_cam++", released_grad_cam_plus_plus, "adityac94/Grad_CAM_plus_plus", why["normalised"]
        ),
        _of_grad_cam("xgrad_cam", "XGradCAM"),
        _of_torchcam("xgrad_cam", "XGradCAM"),
        _of_authors("xgrad_cam", released_xgrad_cam, "Fu0511/XGrad-CAM"),
        _of_grad_cam("hires_cam", "HiResCAM"),
        *_of_authors_signed("hires_cam", lambda g, a: g, "rachellea/hirescam", why["no_relu"]),
        _of_grad_cam("element_wise", "GradCAMElementWise"),
        _of_grad_cam("layer_cam", "LayerCAM"),
        _of_torchcam("layer_cam", "LayerCAM"),
        *_of_authors_signed(
            "layer_cam", lambda g, a: g.relu(), "PengtaoJiang/LayerCAM-jittor", why["no_relu_layer"]
        ),
        _of_grad_cam("score_cam", "ScoreCAM", slow=True),
        _of_torchcam("score_cam", "ScoreCAM", why["corners"], slow=True),
        Peer(
            "score_cam", "authors", "haofanwang/Score-CAM", released_score_cam, partial(our_maps, rule="score_cam"),
            departs=why["no_softmax"], slow=True,
        ),
        _of_grad_cam("ablation_cam", "AblationCAM", why["far_below"], slow=True),
        _of_grad_cam("eigen_cam", "EigenCAM", why["centred"]),
        _of_torchcam("finer_cam", "FinerCAM", ours=our_contrast),
        _of_grad_cam(
            "finer_cam", "FinerCAM", why["official"], ours=partial(our_contrast, gamma=1.0), about="beside `gamma=1.0`"
        ),
        _of_grad_cam("finer_cam", "FinerCAM", ours=official, about='beside `gamma=1.0, objective="official"`'),
    ]  # fmt: skip


def compare(all_peers: Sequence[Peer]) -> list[dict[str, Any]]:
    """Return each peer's differences; stop where one differs without a reason, or has a reason and does not differ."""
    places, rows, wrong = grounds(), [], []
    for peer in all_peers:
        found = {ground.name: peer.difference(ground) for ground in places}
        known = [value for value in found.values() if value is not None]
        wrong += [peer.key] if bool(peer.departs) == (max(known) <= EQUAL) else []
        kept = {name: None if value is None else float(f"{value:.1e}") for name, value in found.items()}
        rows.append({"peer": peer.key, "differences": kept})
        print(peer.key, kept, flush=True)
    if wrong:
        raise SystemExit(f"these differ without a reason, or have a reason and do not differ: {'; '.join(wrong)}")
    return rows
