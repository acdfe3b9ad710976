"""A fit that is broken off goes on to the same bytes; one in the same folder with other settings does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn_birds import CONCEPTS, LABELS, write_birds
from fit_process import pupil, teacher_of

import conceptlens as cl
from conceptlens.bottleneck.fit import fit_loc_cbm, fitted_locator
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.training import loop
from conceptlens.training.run_folder import read_json
from conceptlens.training.schedule import StepSchedule

pytestmark = pytest.mark.wide

FILES = ("bottleneck.safetensors", "config.json", "failures.json")


class Killed(BaseException):
    """What stands for a signal that nobody can catch."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"cub:{write_birds(tmp_path_factory.mktemp('birds'), train=8)}"


@pytest.fixture(scope="module")
def model() -> cl.Backbone:
    return pupil()


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIND", "GUIDE", "POINT"):
        monkeypatch.setattr(fitted_locator, name, StepSchedule(8, 16, 0.02))


def fit(model: cl.Backbone, data: str, out: Path, **choices: Any) -> Bottleneck:
    little = {"restarts": 2, "penalties": (0.1,), "holdout": 0.25, "checkpoint_seconds": 0}
    return cl.fit_loc_cbm(model, data, out, **{**little, **choices})


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Once a training of this name has saved so many checkpoints, everything stops."""
    when: dict[str, int] = {}
    save = loop.save_state

    def saving(folder: Path, *others: Any) -> None:
        save(folder, *others)
        if folder.name in when:
            when[folder.name] -= 1
            if not when[folder.name]:
                when.clear()
                raise Killed

    monkeypatch.setattr(loop, "save_state", saving)
    yield when
    assert not when  # it was


@pytest.mark.parametrize("where", ["parts-1", "finer", "last-stage", "layer"])
def test_a_fit_that_was_killed_ends_as_if_it_had_not_been(
    model: cl.Backbone, data: str, tmp_path: Path, killed: dict[str, int], where: str
) -> None:
    choices: dict[str, dict[str, Any]] = {
        "parts-1": {},
        "finer": {"size": 64},
        "last-stage": {"locator": "whole", "finetune": 8},
        "layer": {"locator": "peaks", "loss": "mse", "steps": 8, "batch": 8},
    }
    fit(model, data, tmp_path / "whole", **choices[where])
    killed[where] = 4
    with pytest.raises(Killed):
        fit(model, data, tmp_path / "broken", **choices[where])
    assert not (tmp_path / "broken" / "config.json").exists()
    assert (tmp_path / "broken" / "training" / where / "checkpoint.safetensors").exists()

    with pytest.raises(cl.InputError, match=r"holds a run already; go on with it by resume=True \(--resume\)"):
        fit(model, data, tmp_path / "broken", **choices[where])
    with pytest.raises(cl.InputError, match=r"the run in .* was another one: seed was 0 and is 1; give its settings"):
        fit(model, data, tmp_path / "broken", resume=True, seed=1, **choices[where])

    taken: list[int] = []
    train = loop.train_network

    def counting(task: Any, how: StepSchedule, run: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if run.folder.name == where:
                patch.setattr(loop, "save_state", lambda folder, state, *others: taken.append(state.step))
            train(task, how, run)

    with pytest.MonkeyPatch.context() as patch:
        for module in ("fitted_locator", "finetune", "concept_vectors"):
            patch.setattr(f"conceptlens.bottleneck.fit.{module}.train_network", counting)
        made = fit(model, data, tmp_path / "broken", resume=True, **choices[where])
    assert taken[0] == 5  # it goes on, it does not begin anew
    for name in FILES:
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    again = fit(model, data, tmp_path / "broken", resume=True, **choices[where])  # finished: what is there is given
    assert torch.equal(again.head.weight, made.head.weight)
    assert not list(tmp_path.glob("**/.*.part"))


def stop(*arguments: Any) -> None:
    raise Killed


def test_what_another_run_left_is_not_taken(
    model: cl.Backbone, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off before any checkpoint, a folder is free for other settings: the pair's vectors there are another's."""
    choices: dict[str, Any] = {"recipe": "ridge", "concepts": ["cat", "dog", "tree"]}
    with monkeypatch.context() as patch:
        patch.setattr(fit_loc_cbm, "read_photos", stop)
        with pytest.raises(Killed):
            fit(model, data, tmp_path / "a", vlm=teacher_of(2), **choices)
    assert list((tmp_path / "a").glob("vectors-*"))
    fit(model, data, tmp_path / "a", vlm=teacher_of(3), **choices)
    fit(model, data, tmp_path / "b", vlm=teacher_of(3), **choices)
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"seed": 3}, "seed was 0 and is 3"),
        ({"locator_layers": ["second"]}, "locator_layers was ['first', 'second'] and is ['second']"),
        ({"concepts": CONCEPTS[::-1]}, "concepts was "),
        ({"size": 64}, "view was "),
        ({"grid": (4, 4)}, "grid was [] and is [4, 4]"),
        ({"together": 1.0}, "together was 3.0 and is 1.0"),
    ],
    ids=lambda case: next(iter(case)) if isinstance(case, dict) else "",
)
def test_parts_of_other_settings_are_neither_taken_nor_lost(
    model: cl.Backbone, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], text: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fit_loc_cbm, "read_photos", stop)
        with pytest.raises(Killed):
            fit(model, data, tmp_path, concepts=CONCEPTS)
    assert list((tmp_path / "training").glob("parts-*.safetensors"))
    with pytest.raises(cl.InputError) as caught:
        fit(model, data, tmp_path, resume=True, **{"concepts": CONCEPTS, **changed})
    assert text in str(caught.value)


def test_what_was_found_is_not_found_again(
    model: cl.Backbone, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(model, data, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(fit_loc_cbm, "read_photos", stop)
        with pytest.raises(Killed):
            fit(model, data, tmp_path / "broken")
    monkeypatch.setattr(fitted_locator, "find_parts", stop)
    fit(model, data, tmp_path / "broken", resume=True)
    assert (tmp_path / "broken" / FILES[0]).read_bytes() == (tmp_path / "whole" / FILES[0]).read_bytes()


def test_files_of_concepts_and_targets_count_by_what_is_in_them(model: cl.Backbone, data: str, tmp_path: Path) -> None:
    named, told = tmp_path / "named.txt", tmp_path / "told.csv"
    named.write_text("\n".join(LABELS))
    rows = ["Ash Wren,.1,.9,.3,.2", "Bay Tern,.5,.2,.7,.3", "Cliff Crow,.9,.4,.1,.8"]
    told.write_text("\n".join([",".join(["name", *LABELS]), *rows]))
    choices: dict[str, Any] = {"concepts": named, "targets": str(told), "recipe": "ridge"}
    fit(model, data, tmp_path / "a", **choices)
    fit(model, data, tmp_path / "a", resume=True, **choices)
    for file, text in ((named, "\n".join(LABELS[:3])), (told, told.read_text().replace(".9,.3", ".8,.3"))):
        kept = file.read_text()
        file.write_text(text)
        with pytest.raises(cl.InputError, match=rf"was another one: {'concepts' if file is named else 'targets'} was"):
            fit(model, data, tmp_path / "a", resume=True, **choices)
        file.write_text(kept)
    about = read_json(tmp_path / "a" / "run.json")
    assert about is not None
    assert about["concepts"].startswith(f"{named} ")
