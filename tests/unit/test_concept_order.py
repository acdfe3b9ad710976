"""The suite `ce-fam`: concepts in the order of their contributions, CE-FAM's averages, and neurons with labels."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.nn.functional import interpolate
from typer.testing import CliRunner

import conceptlens as cl
from conceptlens.benchmark.comparison import ComparedMethod, compare_methods
from conceptlens.benchmark.comparison_table import text_tables
from conceptlens.benchmark.concept_order import RANDOM_ORDER
from conceptlens.benchmark.concept_suites import ce_fam_suite
from conceptlens.benchmark.mask_map_task import MIN_AREA, MaskMapTask
from conceptlens.benchmark.protocol import Measure, Protocol
from conceptlens.benchmark.published_averages import averages_json, averages_tables, published_averages
from conceptlens.benchmark.result_parts import MeasuredValue, PhotoRows
from conceptlens.benchmark.suite_options import SuiteOptions
from conceptlens.cams.image_scoring import scored_cells, scored_images
from conceptlens.cli import app
from conceptlens.concept_regions.channel_masking import masking_contributions
from conceptlens.localization.methods import build_methods

REGION, CHANNEL = ("concept_deletion", "concept_insertion"), ("channel_deletion", "channel_insertion")


def trapezoid(values: Sequence[float]) -> float:
    return sum((one + two) / 2 for one, two in itertools.pairwise(values)) / (len(values) - 1)


@pytest.fixture(scope="module")
def task() -> MaskMapTask:
    options = SuiteOptions(
        "drawn:4", cl.load_model(crop_mode="squash"), methods=["ce_fam", "grad_cam"],
        metrics=["ranked_area", "concept_deletion", "channel_deletion"], max_photos=2, fills=["blur", "mean"],
    )  # fmt: skip
    found = ce_fam_suite(options).task
    assert isinstance(found, MaskMapTask)
    return found


@pytest.mark.wide
class TestOrder:
    def test_values_are_those_of_regions_removed_one_by_one(self, task: MaskMapTask) -> None:
        one = task.photos[0].with_min_area(MIN_AREA)
        model = task.context.model
        seen = model.observe(one.photo)
        target = int(seen.logits.detach().argmax())
        found = build_methods(["ce_fam"], task.context)["ce_fam"](one.photo, one.concepts)
        assert found.weights is not None
        weights = found.weights[..., 0, 0]
        counts = masking_contributions(seen, weights, torch.tensor([target]))[0]
        order = counts.argsort(descending=True).tolist()
        large = interpolate(found.maps.double(), seen.images.shape[2:], mode="bilinear")[0]
        regions = [(one >= one.max() / 2) & (one > 0) for one in large]
        probability = scored_images(seen, cl.Probability(target))
        row = torch.zeros(1, dtype=torch.long)

        def said(image: torch.Tensor) -> float:
            return float(probability.run(image, row))

        image = seen.images.detach()
        mean = image.mean((2, 3), keepdim=True)
        gone = torch.zeros_like(regions[0])
        curve = [said(image)]
        for index in order:
            gone = gone | regions[index]
            curve.append(said(torch.where(gone, mean, image)))
        cells = seen.feature().detach()
        strength = weights[0] * cells.mean((2, 3))
        read = scored_cells(seen, cl.Probability(target))
        channels = torch.zeros(cells.shape[1], dtype=torch.bool)
        masked = [float(read.run(cells, row))]
        for index in order:
            channels[strength[index].argsort(descending=True)[:20]] = True
            masked.append(float(read.run(torch.where(channels[:, None, None], cells.mean(), cells), row)))
        values = {(row.method, row.metric, row.fill): row for row in task.rows(0).values}
        assert values.keys() == {(one.method, one.metric, one.fill) for one in task.protocols}
        assert values["ce_fam", "concept_deletion", "mean"].value == pytest.approx(trapezoid(curve), abs=1e-5)
        assert values["ce_fam", "channel_deletion", "layer_mean"].value == pytest.approx(trapezoid(masked), abs=1e-5)
        assert values["ce_fam", "concept_deletion", "mean"].question == model.class_name(target)
        assert masked[0] != pytest.approx(masked[-1], abs=1e-4)

    def test_each_method_has_its_own_control_and_what_has_no_contribution_has_no_number(
        self, task: MaskMapTask
    ) -> None:
        model = task.context.model
        ordered = ce_fam_suite(
            SuiteOptions("drawn:4", model, methods=["ce_fam", "competing", "grad_cam"])
        ).task.protocols
        ordered = [one for one in ordered if one.metric in (*REGION, *CHANNEL)]
        names = {name + end for name in ("ce_fam", "competing") for end in ("", RANDOM_ORDER)}
        assert {one.method for one in ordered} == names
        assert {one.method for one in ordered if one.metric in CHANNEL} == {"ce_fam", "ce_fam" + RANDOM_ORDER}
        assert {one.fill for one in ordered} == {"blur", "mean", "layer_mean"}
        assert {one.question for one in ordered} == {"predicted"}

    @pytest.mark.slow
    def test_competing_regions_are_in_the_order_of_ce_fam_and_go_to_other_processes(self, task: MaskMapTask) -> None:
        options = SuiteOptions(
            "drawn:4", task.context.model, methods=["competing"], metrics=list(REGION), max_photos=2
        )  # fmt: skip
        alone = ce_fam_suite(options).task
        rows = alone.rows(1)
        assert {(one.method, one.metric, one.fill) for one in rows.values} == {
            (one.method, one.metric, one.fill) for one in alone.protocols
        }
        assert all(one.value is not None for one in rows.values)
        assert pickle.loads(pickle.dumps(alone)).rows(1) == rows  # noqa: S301

    def test_neurons_are_labelled_on_train_photos_and_the_command_averages_over_types(self, tmp_path: Path) -> None:
        given = ["--methods", "ce_fam,www", "--metrics", "pointing_energy_minmax,ranked_area_published,hit"]
        done = CliRunner().invoke(
            app, ["benchmark", "ce-fam", "--data", "drawn:10", "--max-photos", "2", *given, "--out-dir", str(tmp_path)]
        )
        assert done.exit_code == 0, done.output
        assert "as CE-FAM averages" in done.stdout
        found = json.loads((tmp_path / "benchmark.json").read_text())
        shares = {one["name"]: one["matched"] for one in found["averages"]["methods"]}
        assert shares.keys() == {"ce_fam", "www", "centre", "random", "edges"}
        assert shares["ce_fam"] == 1 > shares["www"]
        (own,) = (one for one in found["methods"] if one["name"] == "www")
        cell = next(one for one in own["cells"] if one["metric"] == "own_map")
        assert cell["score"]["mean"] == pytest.approx(shares["www"])
        assert not cell["unbeaten_controls"]
        assert {one["metric"]: one["needs"] for one in found["columns"]}["hit"] == ["map", "mask"]
        assert "Mean of the means of 2 types" in (tmp_path / "benchmark.html").read_text()


def photo(index: int, **values: dict[str, float]) -> PhotoRows:
    """Return rows of two methods by `metric={question: value}`; `b_` before a metric is the second one's."""
    rows = [
        MeasuredValue("", "b" if name.startswith("b_") else "a", name.removeprefix("b_"), "", question, value)
        for name, several in values.items()
        for question, value in several.items()
    ]
    return PhotoRows(index, str(index), "", tuple(rows))


class TestAverages:
    PHOTOS = (
        photo(0, hit={"car:object": 1, "red:colour": 0}, b_hit={"car:object": 1, "red:colour": 1},
              ranked_area_published={"car:object": 0.6, "red:colour": 0.2},
              b_ranked_area_published={"car:object": 0.8, "red:colour": 0.4},
              b_own_map={"car:object": 1, "red:colour": 0}),
        photo(1, hit={"dog:object": 0}, b_hit={"dog:object": 1}, ranked_area_published={"dog:object": 0.2},
              b_ranked_area_published={"dog:object": 0.6}, b_own_map={"dog:object": 0}),
    )  # fmt: skip

    def test_types_count_the_same_and_hits_without_a_map_are_misses(self) -> None:
        found = published_averages(self.PHOTOS, ["a", "b"])
        assert found is not None
        assert found.types == {"object": 2, "colour": 1}
        assert found.matched == {"a": 1.0, "b": pytest.approx(1 / 3)}
        mean = {
            (name, metric, part): getattr(found, part)[name][metric].mean
            for name in "ab" for metric in ("hit", "ranked_area_published") for part in ("matchable", "every")
        }  # fmt: skip
        for part in ("matchable", "every"):
            assert mean["a", "hit", part] == pytest.approx((0.5 + 0) / 2)
            assert mean["a", "ranked_area_published", part] == pytest.approx((0.4 + 0.2) / 2)
        assert mean["b", "ranked_area_published", "every"] == pytest.approx((0.7 + 0.4) / 2)
        assert mean["b", "ranked_area_published", "matchable"] == pytest.approx(0.8)
        assert mean["b", "hit", "every"] == 1
        assert mean["b", "hit", "matchable"] == pytest.approx((0.5 + 0) / 2)
        methods = [ComparedMethod("a", "A", control=True), ComparedMethod("b", "B")]
        published, every = averages_tables(found, methods)
        assert [row[:2] for row in published.rows] == [("B", "33 %"), ("A", "100 %")]
        assert published.controls == 1
        assert "of hits, all concepts" in published.title
        assert "2 types (colour, object), all concepts" in every.title
        assert averages_json(found)["methods"][1]["matchable"]["hit"]["mean"] == pytest.approx(0.25)

    def test_one_table_says_all_where_every_concept_has_a_map(self) -> None:
        found = published_averages(self.PHOTOS, ["a"])
        assert found is not None
        assert len(averages_tables(found, [ComparedMethod("a", "A")])) == 1
        assert published_averages([photo(0, pixel_precision={"car:object": 1})], ["a"]) is None


def test_a_control_of_one_method_holds_for_it_alone() -> None:
    methods = [
        ComparedMethod("a", "A"), ComparedMethod("b", "B"), ComparedMethod("c", "C", control=True, control_of="a")
    ]  # fmt: skip
    made = {one.name: Protocol("", "", 9, "", "", "", "", one.name, "concept_deletion", "mean") for one in methods}
    value = {"a": 0.5, "b": 0.9, "c": 0.8}
    photos = [
        PhotoRows(i, str(i), "", tuple(
            MeasuredValue(p.hash, name, p.metric, "mean", "q", value[name] + i / 100) for name, p in made.items()))
        for i in range(9)
    ]  # fmt: skip
    found = compare_methods(photos, {one.hash: one for one in made.values()}, methods)
    cells = {line.method.name: line.cells[Measure("concept_deletion", "mean")] for line in found.lines}
    assert found.control_comparisons == 1
    # Lower is better: A beats its control; B, which would not, need not.
    assert [cells[name].unbeaten for name in "abc"] == [(), (), ()]
    (table,) = text_tables(found)
    assert [row[-1] for row in table.rows] == ["0 of 1", "0 of 1", ""]
