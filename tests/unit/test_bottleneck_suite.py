"""The suite `loc-cbm`: numbers are those of the metrics, controls do not look for concepts, heads are refitted."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet
from typer.testing import CliRunner, Result

import conceptlens as cl
from coloured_birds import CLASSES, CONCEPTS, birds_seen, eye
from conceptlens.benchmark.benchmark_outputs import write_benchmark
from conceptlens.benchmark.benchmark_result import finished
from conceptlens.benchmark.benchmark_run import run_benchmark
from conceptlens.benchmark.bottleneck_suite import USUAL_METRICS, loc_cbm_suite, shared_concepts
from conceptlens.benchmark.concept_place_task import ConceptPlaceTask
from conceptlens.benchmark.control_places import ControlPlaces, class_maps, one_cell
from conceptlens.benchmark.masked_heads import near_peaks
from conceptlens.benchmark.result_parts import MeasuredValue
from conceptlens.benchmark.suite_options import SuiteOptions
from conceptlens.bottleneck.evaluate.bottleneck_evaluation import evaluate_bottleneck
from conceptlens.bottleneck.fit.recipe import RECIPES, Recipe, recipe_of
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.cli import app
from conceptlens.data.cub import Cub
from conceptlens.features.cell_source import CellBatch
from conceptlens.model import zoo

PLACES = ("keypoint_error", "keypoint_pointing", "keypoint_own", "keypoint_swap")
CONTROLS = ("centre", "random", "random_directions", "constant", "grad_cam")


def swapped(one: Bottleneck) -> Bottleneck:
    """Return a bottleneck whose bills and wings have each other's maps."""
    other = Bottleneck(one.concepts, one.classes, one.layer, one.weight.shape[1], one.locator, one.grid, one.backbone)
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        other.weight.copy_(one.weight[[2, 3, 0, 1, 4]])
    return other.eval().requires_grad_(False)


def options(birds: Path, model: cl.Backbone, spotter: Bottleneck, **given: Any) -> SuiteOptions:
    named = {"spotter": spotter, "swapped": swapped(spotter)}
    return SuiteOptions(**{"data": f"cub:{birds}", "model": model, "bottleneck": named, **given})


@pytest.fixture(scope="module")
def task(birds: Path, bird_model: cl.Backbone, spotter: Bottleneck) -> ConceptPlaceTask:
    found = loc_cbm_suite(options(birds, bird_model, spotter)).task
    assert isinstance(found, ConceptPlaceTask)
    return found


@pytest.fixture(scope="module")
def values(task: ConceptPlaceTask) -> list[MeasuredValue]:
    return [one for index in range(len(task.photo_names)) for one in task.rows(index).values]


def mean(values: list[MeasuredValue], method: str, metric: str) -> float:
    found = [one.value for one in values if (one.method, one.metric) == (method, metric) and one.value is not None]
    return float(np.mean(found))


class TestNumbers:
    def test_they_are_those_of_the_evaluation(
        self, birds: Path, bird_model: cl.Backbone, spotter: Bottleneck, values: list[MeasuredValue]
    ) -> None:
        own = evaluate_bottleneck(spotter, bird_model, Cub(birds, "test"), Cub(birds, "train"))
        for metric in (*PLACES, "accuracy"):
            assert own.metric(metric).value is not None
            assert mean(values, "spotter", metric) == pytest.approx(own.metric(metric).value.mean)  # pyright: ignore
        for metric in PLACES:
            for one in own.metric(metric).controls:
                name = {"uniform": "random"}.get(one.name, one.name)
                if name in CONTROLS and one.value is not None:
                    assert mean(values, name, metric) == pytest.approx(one.value.mean), (metric, name)

    def test_concepts_of_absent_or_hidden_parts_are_not_asked(
        self, birds: Path, task: ConceptPlaceTask, values: list[MeasuredValue]
    ) -> None:
        assert task.concepts == tuple(one.label for one in CONCEPTS[:4])
        photos = Cub(birds, "test")
        keypoints = photos.annotation.keypoints if photos.annotation else None
        assert keypoints is not None
        wing = keypoints.names.index("left wing")
        for index, (_, kind) in enumerate(zip(task.photo_names, photos.labels, strict=True)):
            asked = {one.question for one in task.rows(index).values if one.metric == "keypoint_error"}
            bill, side = list(CLASSES.values())[kind]
            assert asked == {f"{bill} bill", *([f"{side} wing"] if keypoints.visible[index, wing] else [])}
        whole = {one.question for one in values if one.metric in ("keypoint_swap", "accuracy")}
        assert whole == set(CLASSES)

    def test_swapped_maps_point_at_other_parts(self, values: list[MeasuredValue]) -> None:
        assert mean(values, "spotter", "keypoint_pointing") == 1
        assert mean(values, "swapped", "keypoint_pointing") < 0.3
        assert mean(values, "spotter", "keypoint_swap") > 5 > mean(values, "swapped", "keypoint_swap")
        # The same activations in another order: a head that is fitted anew knows as much.
        assert mean(values, "spotter", "accuracy_at_peaks") == mean(values, "swapped", "accuracy_at_peaks")

    def test_a_control_without_an_answer_has_no_accuracy(
        self, task: ConceptPlaceTask, values: list[MeasuredValue]
    ) -> None:
        assert {one.method for one in values if one.metric == "accuracy"} == {
            "spotter", "swapped", "random_directions"
        }  # fmt: skip
        assert {one.method for one in values if one.metric == "accuracy_at_peaks"} == {"spotter", "swapped", *CONTROLS}
        assert {(one.method, one.metric) for one in values} == {(one.method, one.metric) for one in task.protocols}

    def test_energy_is_that_inside_the_box(self, birds: Path, task: ConceptPlaceTask) -> None:
        photos = Cub(birds, "test")
        boxes = photos.annotation.boxes if photos.annotation else None
        assert boxes is not None
        found = {one.method: one.value for one in task.rows(3).values if one.metric == "pointing_energy"}
        left, top, right, bottom = boxes[3]
        assert found["random"] == pytest.approx((right - left) * (bottom - top), abs=0.03)
        table = cl.metrics.box_masks(torch.from_numpy(boxes[[3]]), (56, 56))[:, None]
        middle = one_cell(torch.tensor([[0.5, 0.5]]))
        assert found["centre"] == pytest.approx(cl.metrics.pointing_energy(middle, table).of(0, 0))

    def test_maps_of_the_photo_spread_over_cells_and_single_cells_do_not(
        self, birds: Path, bird_model: cl.Backbone, spotter: Bottleneck, task: ConceptPlaceTask,
        values: list[MeasuredValue],
    ) -> None:  # fmt: skip
        maps = spotter.output(spotter.observe(bird_model, [Cub(birds, "test")[3]])).maps[0].detach().double()
        found = {one.question: one.value for one in task.rows(3).values
                 if (one.method, one.metric) == ("spotter", "activation_norm_cells")}  # fmt: skip
        for label, value in found.items():
            own = maps[spotter.concept_index(label)].clamp(min=0)
            assert value == pytest.approx(float(own.sum() / own.max()), rel=1e-5), label
        assert found
        assert {one.method for one in values if one.metric == "activation_norm_cells"} == {
            "spotter", "swapped", "random_directions", "grad_cam"
        }  # fmt: skip

    def test_maps_of_other_grids_are_not_compared_in_cells(
        self, birds: Path, bird_model: cl.Backbone, spotter: Bottleneck
    ) -> None:
        fine = Bottleneck(
            spotter.concepts, spotter.classes, spotter.layer, spotter.weight.shape[1], spotter.locator,
            (2 * spotter.grid[0], 2 * spotter.grid[1]), spotter.backbone,
        )  # fmt: skip
        fine.load_state_dict(spotter.state_dict())
        both = {"spotter": spotter, "fine": fine.eval().requires_grad_(False)}
        suite = loc_cbm_suite(options(birds, bird_model, spotter, bottleneck=both))
        assert not [one for one in suite.task.protocols if one.metric.startswith("activation_norm")]
        assert any(
            "activation_norm_cells is left out: maps have 6 x 8 and 12 x 16 cells" in one for one in suite.remarks
        )
        with pytest.raises(cl.InputError, match="activation_norm_share counts shares"):
            loc_cbm_suite(options(birds, bird_model, spotter, bottleneck=both, metrics=["activation_norm_entropy"]))
        shares = loc_cbm_suite(options(birds, bird_model, spotter, bottleneck=both, metrics=["activation_norm_share"]))
        assert {one.metric for one in shares.task.protocols} == {"activation_norm_share"}

    def test_cells_of_train_photos_are_kept_for_the_next_run(
        self, birds: Path, bird_model: cl.Backbone, spotter: Bottleneck, tmp_path: Path
    ) -> None:
        given = options(birds, bird_model, spotter, metrics=["accuracy"], max_photos=3, cache=tmp_path)
        first, second = (loc_cbm_suite(given).task.rows(1) for _ in range(2))
        assert first == second
        # Both bottlenecks read the same cells; those of photos that are measured are not kept.
        assert [file.name for file in tmp_path.rglob("*.safetensors")] == ["000000.safetensors"]
        (own,) = (one for one in first.values if one.method == "random_directions")
        assert own.value in (0, 1)

    def test_it_can_be_sent_to_another_process(self, task: ConceptPlaceTask) -> None:
        there = pickle.loads(pickle.dumps(task))  # noqa: S301
        assert "heads" in vars(there)
        assert there.rows(2) == task.rows(2)


class TestControls:
    def test_near_a_place_is_a_gaussian_mean_around_its_highest_cell(self) -> None:
        generator = torch.Generator().manual_seed(0)
        maps, places = torch.randn(2, 3, 4, 5, generator=generator), torch.randn(2, 3, 4, 5, generator=generator)
        found = near_peaks(maps, places)
        for photo in range(2):
            for concept in range(3):
                at = int(places[photo, concept].argmax())
                total = weights = 0.0
                for row in range(4):
                    for column in range(5):
                        weight = np.exp(-((row - at // 5) ** 2 + (column - at % 5) ** 2) / 2)
                        total += weight * float(maps[photo, concept, row, column])
                        weights += weight
                assert float(found[photo, concept]) == pytest.approx(total / weights, abs=1e-5)

    def test_class_maps_are_grad_cam_of_the_predicted_class(
        self, birds: Path, bird_model: cl.Backbone, spotter: Bottleneck
    ) -> None:
        seen = spotter.observe(bird_model, [Cub(birds, "test")[index] for index in (0, 7)])
        cells, logits = seen.feature("deep").double(), spotter.output(seen).logits
        found = class_maps(spotter, {"deep": seen.feature("deep")})
        for photo in range(2):
            target = int(logits[photo].argmax())
            # Of mean-pooled maps the gradient is the same in every cell: sum_i W_ki w_i / std_i / cells.
            gradient = [
                sum(
                    float(spotter.head.weight[target, i] * spotter.weight[i, channel] / spotter.std[i])
                    for i in range(len(CONCEPTS))
                )
                for channel in range(4)
            ]
            wanted = sum(one * cells[photo, channel] for channel, one in enumerate(gradient)) / (6 * 8)
            assert isinstance(wanted, torch.Tensor)
            assert torch.allclose(found[photo, 0].double(), wanted.relu(), atol=1e-6)
        assert bool((found > 0).any())

    def test_directions_are_drawn_and_read_the_whole_photo(self, spotter: Bottleneck) -> None:
        batch = CellBatch(torch.tensor([4, 9]), {"deep": torch.rand(2, 4, 6, 8)}, torch.zeros(2, 3, 6, 8))
        one, again, other = (ControlPlaces(spotter, None, seed) for seed in (0, 0, 1))
        assert "constant" not in one.names
        first, second, third = (each.maps(batch) for each in (one, again, other))
        assert all(torch.equal(first[name], second[name]) for name in first)
        for name in ("random", "random_directions"):
            assert not torch.equal(first[name], third[name])
        assert torch.allclose(one.directions.weight.norm(dim=1), torch.ones(5))
        assert first["centre"].sum() == 2 * 5
        assert first["grad_cam"].shape == (2, 5, 6, 8)


class TestSuite:
    def test_every_bottleneck_stands_against_the_first(
        self, birds: Path, bird_model: cl.Backbone, spotter: Bottleneck
    ) -> None:
        suite = loc_cbm_suite(options(birds, bird_model, spotter))
        assert [(one.name, one.against, one.control) for one in suite.methods] == [
            ("spotter", "", False), ("swapped", "spotter", False), *((name, "", True) for name in CONTROLS)
        ]  # fmt: skip
        assert tuple(dict.fromkeys(one.metric for one in suite.task.protocols)) == USUAL_METRICS
        assert suite.remarks[0].startswith("4 concepts are measured")
        other = loc_cbm_suite(options(birds, bird_model, spotter, baseline="swapped", quick=True))
        assert [one.against for one in other.methods[:2]] == ["swapped", ""]
        assert len(other.task.photo_names) == 8

    def test_the_concepts_are_those_that_all_bottlenecks_have(self, birds: Path, spotter: Bottleneck) -> None:
        parts = [replace(one, part="tail") if one.label == "red bill" else one for one in spotter.concepts[:3]]
        fewer = Bottleneck(parts, spotter.classes, "deep", 4, spotter.locator, spotter.grid, spotter.backbone)
        found = shared_concepts({"one": spotter, "other": fewer}, Cub(birds, "test"))
        assert found == ("blue bill", "green wing")

    def test_what_cannot_be_measured_is_refused(
        self, birds: Path, bird_model: cl.Backbone, spotter: Bottleneck, tmp_path: Path
    ) -> None:
        refused: list[tuple[dict[str, Any], str]] = [
            ({"bottleneck": {}}, "--bottleneck DIR"), ({"methods": ["grad_cam"]}, "methods has no effect"),
            ({"metrics": ["keypoint_eror"]}, "keypoint_error"), ({"baseline": "third"}, "the baseline third"),
            ({"bottleneck": {"centre": spotter}}, "rename its folder"), ({"data": "drawn:3"}, "drawn"),
            ({"asked": "label"}, "asked has no effect"),
        ]  # fmt: skip
        for given, words in refused:
            with pytest.raises(cl.InputError, match=words):
                loc_cbm_suite(options(birds, bird_model, spotter, **given))
        shutil.copytree(birds, tmp_path / "plain")
        shutil.rmtree(tmp_path / "plain" / "attributes")
        with pytest.raises(cl.InputError, match="no concept of a part"):
            loc_cbm_suite(options(tmp_path / "plain", bird_model, spotter))
        shutil.rmtree(tmp_path / "plain" / "parts")
        with pytest.raises(cl.InputError, match="no keypoints"):
            loc_cbm_suite(options(tmp_path / "plain", bird_model, spotter))

    def test_bottlenecks_that_see_other_parts_of_a_photo_are_not_compared(
        self, birds: Path, bird_model: cl.Backbone, spotter: Bottleneck
    ) -> None:
        cropped = birds_seen(eye("center"), birds)
        with pytest.raises(cl.InputError, match="not measured alike"):
            loc_cbm_suite(options(birds, bird_model, spotter, bottleneck={"a": spotter, "b": cropped}))

    def test_recipes_are_known_again(self) -> None:
        for name, settings in RECIPES.items():
            record = Recipe(**settings).settings()
            known = {**record, "locator": "parts" if record["locator"] == "auto" else record["locator"]}
            assert recipe_of(known) == name
            assert recipe_of({**known, "loss": "other"}) is None
        assert recipe_of({}) is None


Run = Callable[..., Result]


class TestCommand:
    @pytest.fixture
    def run(
        self, birds: Path, bird_model: cl.Backbone, spotter: Bottleneck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Run:
        """Run the command on drawn birds; the folders `spotter` and `swapped` lie beside the run."""
        spotter.save_pretrained(tmp_path / "spotter")
        swapped(spotter).save_pretrained(tmp_path / "swapped")
        monkeypatch.setattr(zoo, "load_model", lambda *given, **settings: bird_model)

        def called(suite: str, *words: str) -> Result:
            place = ["--data", f"cub:{birds}", "--out-dir", str(tmp_path / "run")]
            return CliRunner().invoke(app, ["benchmark", suite, *place, *words])

        return called

    def test_two_folders_are_compared_and_a_run_goes_on(self, run: Run, tmp_path: Path) -> None:
        both = [f"--bottleneck={tmp_path / name}" for name in ("spotter", "swapped")]
        few = [*both, "--max-photos", "9", "--metrics", "keypoint_error,accuracy_at_peaks"]
        done = run("loc-cbm", *few)
        assert done.exit_code == 0, done.output
        assert "▼° " in done.stdout
        numbers = json.loads((tmp_path / "run" / "benchmark.json").read_text())
        assert [one["name"] for one in numbers["methods"]] == ["spotter", "swapped", *CONTROLS]
        rows = parquet.read_table(tmp_path / "run" / "rows.parquet").to_pylist()
        errors = [row["value"] for row in rows if (row["method"], row["metric"]) == ("spotter", "keypoint_error")]
        assert numbers["methods"][0]["cells"][0]["score"]["mean"] == pytest.approx(np.mean(errors))
        for part in sorted((tmp_path / "run" / "parts").iterdir())[4:]:
            part.unlink()
        again = run("loc-cbm", *few, "--resume", "--json")
        assert again.exit_code == 0, again.output
        assert json.loads(again.stdout)["methods"] == numbers["methods"]
        other = run("loc-cbm", *both, "--max-photos", "9", "--metrics", "keypoint_error", "--resume")
        assert other.exit_code == 2
        assert "resume with the options" in other.stderr

    def test_what_makes_no_sense_is_one_sentence(self, run: Run, tmp_path: Path) -> None:
        twice = [f"--bottleneck={tmp_path / 'spotter'}"] * 2
        for suite, words, said in (
            ("loc-cbm", twice, "names a folder twice"), ("loc-cbm", [], "none is given"),
            ("faithfulness", twice[:1], "--bottleneck has no effect on faithfulness"),
            ("faithfulness", [f"--cache={tmp_path / 'cells'}"], "--cache has no effect on faithfulness"),
        ):  # fmt: skip
            done = run(suite, *words)
            assert done.exit_code == 2
            assert said in done.stderr
            assert not (tmp_path / "run").exists()

    def test_all_includes_it_where_bottlenecks_are_given(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from conceptlens.benchmark.suites import SUITES

        monkeypatch.setattr("conceptlens.benchmark.suites.SUITES", {name: SUITES[name] for name in ("loc-cbm", "loce")})
        done = run("all", f"--bottleneck={tmp_path / 'spotter'}", "--quick", "--json")
        assert done.exit_code == 0, done.output
        assert [one["suite"] for one in json.loads(done.stdout)["suites"]] == ["loc-cbm"]
        assert "loce is left out" in done.stderr


def test_the_page_shows_the_concept_that_a_case_was_chosen_by(
    birds: Path, bird_model: cl.Backbone, spotter: Bottleneck, tmp_path: Path
) -> None:
    suite = loc_cbm_suite(options(birds, bird_model, spotter, metrics=["keypoint_error"]))
    assert suite.show is not None
    list(run_benchmark(suite.task, tmp_path))
    write_benchmark(tmp_path, finished(suite, tmp_path))
    page = (tmp_path / "benchmark.html").read_text()
    assert "Map of spotter for red bill" in page
    shown = suite.show(0)
    table = spotter.output(spotter.observe(bird_model, [Cub(birds, "test")[0]]))
    assert np.allclose(shown.maps["spotter"], table.maps[0, 0])
    assert set(shown.maps) == {"spotter", "swapped", *CONTROLS} - {"random"}
    assert shown.box == (0.0, 0.0, 1.0, 1.0)
