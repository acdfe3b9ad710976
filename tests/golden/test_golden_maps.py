"""Every method's maps of drawn scenes by a trained network are those that were kept, and lie on what is asked for.

To write them anew after a change that is meant: `python benchmarks/cards.py`, then look at the cards' pictures. The
tolerance is in shares of a map's peak, so that any processor passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import conceptlens as cl

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Maps that say nothing of the question: a control, and what the features have most of.
ASK_NOTHING = ("random", "eigen_cam")


@pytest.fixture(scope="module")
def golden() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import golden_maps

        yield golden_maps


@pytest.fixture(scope="module")
def kept(golden: Any) -> dict[str, Tensor]:
    return golden.read_golden()


@pytest.fixture(scope="module")
def made(golden: Any) -> dict[str, Tensor]:
    from drawn_network import load_network

    return golden.make_maps(load_network())


def test_maps_are_those_that_were_kept(golden: Any, kept: dict[str, Tensor], made: dict[str, Tensor]) -> None:
    assert set(kept) == set(made)
    assert set(made) == {*cl.RULES, "finer_cam", "ce_fam", "loc_cbm", "loce"}
    for name, maps in made.items():
        peaks = kept[name].abs().amax((1, 2))
        assert bool((peaks > 0).all()), name
        largest = (maps - kept[name]).abs().amax((1, 2)) / peaks
        assert float(largest.max()) <= golden.TOLERANCE, (name, largest)


def test_a_map_that_moved_would_be_seen(golden: Any, kept: dict[str, Tensor]) -> None:
    """Methods that are not the same are further apart than the tolerance, so that it tells them from each other."""
    names = [name for name in kept if name not in ("element_wise", "score_cam_fast")]  # twins by their definition here
    shares = {name: kept[name] / kept[name].abs().amax((1, 2), keepdim=True) for name in names}
    for place, name in enumerate(names):
        for other in names[:place]:
            assert float((shares[name] - shares[other]).abs().amax((1, 2)).min()) > 5 * golden.TOLERANCE, (name, other)


def test_maps_lie_on_what_is_asked_for(golden: Any, kept: dict[str, Tensor]) -> None:
    """In the scenes where it lies once: of two red shapes, the cells between them see both."""
    masks = torch.stack([torch.from_numpy(case.mask) for case in golden.golden_cases()])[:2, None]
    for name, maps in kept.items():
        if name not in ASK_NOTHING:
            ranked = cl.metrics.pixel_roc(maps[:2, None], masks).values
            assert float(ranked.min()) > (0.5 if name == "grad_cam++" else 0.7), (name, ranked)


def test_the_network_knows_what_the_scenes_show(golden: Any) -> None:
    from drawn_network import NAMES, labels_of, load_network

    scenes = [case.scene for case in golden.golden_cases()]
    logits = load_network().observe([scene.image for scene in scenes]).logits
    assert torch.equal((logits > 0).float(), torch.tensor([labels_of(scene) for scene in scenes])), NAMES
