"""What contributions by evidence are held to on every architecture: they add up, and no photo sees another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache

import pytest
import torch
from torch import Tensor

import conceptlens as cl
from architectures import ARCHITECTURES, FEW, backbone, observation_of, random_images
from branches import text_vector
from conceptlens.cams.cell_evidence import MAX_RESIDUAL, CellEvidence, cell_evidence
from conceptlens.explainer.class_evidence import named_shares
from conceptlens.model.layer_cells import empty_cells
from conceptlens.model.observation import Observation

EXACT = torch.float64  # what is said of sums and batches is checked where rounding cannot blur it
CLASSES = [name for name, architecture in ARCHITECTURES.items() if architecture.answers == "classes"]
MOST_SLOW = [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in CLASSES]
TARGET, OTHER = 3, 7
ASKED = "cat, wheel, red:colour"


class ByLogits:
    """Words that are compared with the class scores, which every classifier has."""

    name, scale, normalised = "by logits", 1.0, False

    def encode_image(self, output: Observation) -> Tensor:
        return output.logits

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([text_vector(text, 12) for text in texts])


@cache
def looking(name: str) -> Observation:
    """Return two images seen by an architecture that reads words, observed once a session."""
    model = dataclasses.replace(backbone(name, EXACT), text=ByLogits())
    return model.observe(random_images(ARCHITECTURES[name].size))


@cache
def evidence_of(name: str, target: int = TARGET, against: int | None = None) -> CellEvidence:
    found = cell_evidence(looking(name), target, against)
    assert found is not None
    return found


@cache
def explained(name: str, target: int = TARGET, against: int | None = OTHER) -> cl.Explanation:
    return cl.explain(looking(name), ASKED, target, against=against, regions="official")


def near(found: Tensor | None, expected: Tensor | None, scale: Tensor | float, tolerance: float = 1e-8) -> bool:
    """Whether two tensors agree to `tolerance` of `scale`, the largest part of a sum."""
    assert found is not None
    assert expected is not None
    return bool(((found - expected).abs() <= tolerance * scale + 1e-13).all())


def largest(evidence: CellEvidence) -> Tensor:
    """Return the largest part of each sum."""
    return torch.stack([evidence.cells.abs().amax((1, 2)), evidence.margins.abs(), evidence.unplaced.abs()]).amax(0)


@pytest.mark.parametrize("against", [None, OTHER])
@pytest.mark.parametrize("name", MOST_SLOW)
def test_evidence_adds_up_to_the_margin(name: str, against: int | None) -> None:
    observation, found = looking(name), evidence_of(name, against=against)
    logits = observation.logits.detach()
    rest = logits.clone()
    rest[:, TARGET] = -torch.inf
    rivals = (rest.softmax(1) * logits).sum(1) if against is None else logits[:, against]
    assert near(found.margins, logits[:, TARGET] - rivals, largest(found))
    whole = found.cells.sum((1, 2)) + found.unplaced + found.residuals
    assert near(whole, found.margins, largest(found), 1e-5)
    change = torch.maximum((found.margins - found.unplaced).abs(), found.margins.abs())
    assert bool((found.residuals.abs() <= MAX_RESIDUAL * change).all())
    assert bool((found.cells.flatten(1).std(1) > 1e-6 * found.cells.flatten(1).abs().amax(1)).all()), "even: no proof"


@pytest.mark.parametrize("name", MOST_SLOW)
def test_evidence_is_the_gradient_times_the_cells_where_logits_are_linear_in_them(name: str) -> None:
    """And elsewhere what is unplaced is the margin of an empty photo's cells, put in place of the photo's."""
    observation, found = looking(name), evidence_of(name, against=OTHER)
    feature, logits = observation.feature(), observation.logits
    if observation.readout(logits) is not None:
        slopes = observation.gradient(logits[:, TARGET] - logits[:, OTHER])[:, 0]
        spoken = (slopes * feature).sum(1)
        even = (found.margins - spoken.sum((1, 2))) / feature[0, 0].numel()  # the bias, the same for every cell
        assert near(found.cells, spoken + even[:, None, None], largest(found)[:, None, None])
        assert not bool(found.unplaced.any() or found.residuals.any())
        return
    empty = empty_cells(observation.model, observation.given, observation.layer).to(feature)
    for i in range(len(feature)):
        answer = observation.rerun(empty[i : i + 1], i).logits.detach()[0]
        assert near(found.unplaced[i], answer[TARGET] - answer[OTHER], largest(found)[i])
    assert bool((found.unplaced - found.margins).abs().gt(0).all())


@pytest.mark.parametrize("name", MOST_SLOW)
def test_neither_the_batch_nor_its_order_changes_evidence_and_contributions(name: str) -> None:
    observation = looking(name)
    images = observation.images.detach()
    evidence, found = evidence_of(name), explained(name)
    scale = largest(evidence)
    swapped = observation.model.observe(images.flip(0))
    turned = cell_evidence(swapped, TARGET)
    again = cl.explain(swapped, ASKED, TARGET, against=OTHER, regions="official")
    assert turned is not None
    assert near(turned.cells.flip(0), evidence.cells, scale[:, None, None])
    assert near(turned.unplaced.flip(0), evidence.unplaced, scale)
    assert found.contributions is not None
    most = found.contributions.abs().amax(1, keepdim=True)
    assert again.contributions is not None
    assert near(again.contributions.flip(0), found.contributions, most, 1e-5)
    for i in range(2):
        one = observation.model.observe(images[i : i + 1])
        alone = cell_evidence(one, TARGET)
        assert alone is not None
        assert near(alone.cells[0], evidence.cells[i], scale[i])
        assert near(alone.residuals[0], evidence.residuals[i], scale[i])
        shown = cl.explain(one, ASKED, TARGET, against=OTHER, regions="official")
        assert shown.contributions is not None
        assert near(shown.contributions[0], found.contributions[i], most[i], 1e-5)


@pytest.mark.parametrize("name", MOST_SLOW)
def test_contributions_and_the_rest_of_the_cells_are_the_margin(name: str) -> None:
    evidence, found = evidence_of(name, against=OTHER), explained(name)
    shares = named_shares(found, (evidence.cells.shape[1], evidence.cells.shape[2]), named=True).double()
    scale = largest(evidence)
    assert found.contributions is not None
    assert near(found.contributions, torch.einsum("iqhw,ihw->iq", shares, evidence.cells), scale[:, None], 1e-5)
    assert bool(found.contributions.any()), "contributions of zero prove nothing"
    rest = ((1 - shares.sum(1)) * evidence.cells).sum((1, 2)) + evidence.unplaced
    assert near(found.unnamed, rest, scale, 1e-5)
    assert found.unnamed is not None
    assert found.residuals is not None
    assert near(found.contributions.sum(1) + found.unnamed + found.residuals, found.margins, scale, 1e-5)


@pytest.mark.parametrize("name", MOST_SLOW)
def test_evidence_turns_round_with_the_two_classes(name: str) -> None:
    forth, back = evidence_of(name, against=OTHER), evidence_of(name, OTHER, TARGET)
    for part in ("cells", "margins", "unplaced", "residuals"):
        scale = largest(forth)[:, None, None] if part == "cells" else largest(forth)
        assert near(getattr(forth, part), -getattr(back, part), scale), part
    one, other = explained(name), explained(name, OTHER, TARGET)
    assert one.contributions is not None
    assert other.contributions is not None
    assert near(one.contributions, -other.contributions, one.contributions.abs().amax(), 1e-5)
    assert one.explained_classes == (f"kind {TARGET} / kind {OTHER}",) * 2
    assert other.explained_classes == (f"kind {OTHER} / kind {TARGET}",) * 2


def test_a_model_without_classes_has_no_contributions() -> None:
    observation = observation_of("open_clip vit")
    model = dataclasses.replace(observation.model, text=ByEmbedding())
    found = cl.explain(model.observe(observation.images), ASKED, regions="official")
    assert (found.contributions, found.margins, found.unnamed, found.explained_classes) == (None, None, None, ())
    with pytest.raises(cl.InputError, match="gives no class scores"):
        cell_evidence(observation)


class ByEmbedding:
    """Words that are compared with what a tower answers."""

    name, scale, normalised = "by embedding", 1.0, False

    def encode_image(self, output: Observation) -> Tensor:
        return output.embedding

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([text_vector(text, 16) for text in texts])
