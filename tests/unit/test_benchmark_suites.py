"""Suites of class maps: shared passes give the metrics' own values, controls know nothing, the command writes all."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from embed_process import small_model, small_plan
from PIL import Image
from pyarrow import parquet
from typer.testing import CliRunner, Result

import conceptlens as cl
from conceptlens.benchmark.benchmark_cases import choose_benchmark_cases
from conceptlens.benchmark.benchmark_outputs import write_benchmark
from conceptlens.benchmark.benchmark_photos import of_labelled, open_photos
from conceptlens.benchmark.benchmark_result import finished
from conceptlens.benchmark.benchmark_run import run_benchmark
from conceptlens.benchmark.class_map_task import BOX, ClassMapTask
from conceptlens.benchmark.class_suites import faithfulness_suite, finer_cam_suite
from conceptlens.benchmark.concept_suites import MASK_METRICS, ce_fam_suite
from conceptlens.benchmark.embedding_suite import loce_suite
from conceptlens.benchmark.map_measures import SOFT, check_measure, measured_maps
from conceptlens.benchmark.map_methods import compared_with, contrast_method, explained_by, map_methods
from conceptlens.benchmark.protocol import Measure
from conceptlens.benchmark.published_metrics import PUBLISHED_AREA
from conceptlens.benchmark.result_parts import PhotoRows, read_photos
from conceptlens.benchmark.suite_metrics import SUITE_METRICS
from conceptlens.benchmark.suite_options import SuiteOptions
from conceptlens.benchmark.suites import SUITES, suite_kind
from conceptlens.cams.image_scoring import scored_images
from conceptlens.cli import app
from conceptlens.data.class_folder import ClassFolder
from conceptlens.data.drawn_scene import DrawnSet
from conceptlens.local_embeddings.runs.embed_run import embed_batches
from conceptlens.localization.evaluate_localization import evaluate_localization
from conceptlens.localization.methods import MethodContext, build_methods
from conceptlens.metrics import FAITHFULNESS_METRICS
from conceptlens.metrics.removal_readings import REMOVAL_READINGS
from conceptlens.pages.number_format import number
from conceptlens.statistics.retrieval import retrieve
from conceptlens.store import Store


def sharp_model() -> cl.Backbone:
    """Return a small network whose probabilities are far from even, so that removing pixels changes them."""
    model = small_model()
    with torch.no_grad():
        model.module.head.weight.mul_(100)  # pyright: ignore
    return replace(model, class_names=[f"class {index}" for index in range(4)])


MODEL = sharp_model()
EVERY = [
    Measure(metric, fill)
    for fill in ("mean", "blur", "noisy_linear")
    for metric in (*REMOVAL_READINGS, "average_drop", "increase_in_confidence")
    if not (metric in SOFT and fill == "noisy_linear")
]


class TestSharedPasses:
    def test_they_give_what_each_metric_gives_alone(self) -> None:
        seen = MODEL.observe(DrawnSet(1)[0].photo)
        maps = cl.cam(seen, 2, "layer_cam")
        scored = scored_images(seen, 2)
        found = measured_maps(maps, scored, EVERY, seed=3)
        assert list(found) == EVERY
        for (metric, fill), score in found.items():
            own = {} if metric in SOFT else {"seed": 3}
            alone = FAITHFULNESS_METRICS[metric].compute(maps, scored, fill=fill, **own)
            assert torch.allclose(score.values, alone.values, rtol=0, atol=1e-6), metric
            assert abs(float(score.values)) > 1e-3 or metric not in REMOVAL_READINGS
            assert torch.equal(score.applies, alone.applies)
            assert score.fill == alone.fill

    @pytest.mark.parametrize("metric", REMOVAL_READINGS)
    def test_each_alone_takes_what_it_needs(self, metric: str) -> None:
        seen = MODEL.observe(DrawnSet(1)[0].photo)
        scored = scored_images(seen, 1)
        measure = Measure(metric, "mean")
        maps = cl.cam(seen, 1)
        found = measured_maps(maps, scored, [measure], seed=0)[measure]
        alone = FAITHFULNESS_METRICS[metric].compute(maps, scored, fill="mean").values
        assert torch.allclose(found.values, alone, rtol=0, atol=1e-6)

    def test_a_flat_map_has_no_number(self) -> None:
        scored = scored_images(MODEL.observe(DrawnSet(1)[0].photo), 0)
        found = measured_maps(torch.ones(1, 1, 4, 4), scored, EVERY, seed=0)
        assert not any(score.count for score in found.values())

    def test_what_cannot_be_measured_is_refused(self) -> None:
        with pytest.raises(cl.InputError, match="deletion"):
            check_measure(Measure("deletoin", "mean"))
        with pytest.raises(cl.InputError, match="noisy_linear"):
            check_measure(Measure("average_drop", "noisy_linear"))
        with pytest.raises(cl.InputError, match="rise_deletion has a fill of its own, zero"):
            check_measure(Measure("rise_deletion", "mean"))


class TestMethods:
    def test_controls_know_neither_class_nor_model(self) -> None:
        seen = MODEL.observe(DrawnSet(1)[0].photo)
        for one in map_methods(["random", "centre", "edges"], None):
            first = one.explain(seen, 0).maps
            assert one.control
            assert first.shape == cl.cam(seen, 0).maps.shape
            if one.name != "random":
                assert torch.equal(first, one.explain(seen, 1).maps)
        (random,) = map_methods(["random"], None, seed=1)
        assert not torch.equal(random.explain(seen, 0).maps, random.explain(seen, 1).maps)
        assert torch.equal(random.explain(seen, 0).maps, random.explain(seen, 0).maps)

    def test_random_weights_are_another_network(self) -> None:
        torch.manual_seed(5)
        other = small_model()
        for parameter in other.module.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        seen = MODEL.observe(DrawnSet(1)[0].photo)
        (one,) = map_methods(["random_weights"], None, randomised=other)
        assert one.control
        assert torch.equal(one.explain(seen, 2).maps, cl.cam(other.observe(seen.images), 2, signed=True).maps)
        with pytest.raises(cl.InputError, match="no method 'random_weights'"):
            map_methods(["random_weights"], None)

    def test_each_contrast_stands_against_its_own_rule(self) -> None:
        methods = (
            *map_methods(["grad_cam", "layer_cam", "random"], None),
            contrast_method("layer_cam", None, gamma=1.0),
        )
        name = methods[-1].name
        assert compared_with(methods, None) == {"layer_cam": "grad_cam", name: "layer_cam"}
        assert compared_with(methods, "grad_cam") == {"layer_cam": "grad_cam", name: "grad_cam"}
        with pytest.raises(cl.InputError, match="baseline"):
            compared_with(methods, "score_cam")
        seen = MODEL.observe(DrawnSet(1)[0].photo)
        wanted = cl.cam(seen, cl.Contrast(2, gamma=1.0), "layer_cam").maps
        assert torch.equal(methods[-1].explain(seen, 2).maps, wanted)

    def test_methods_of_one_rule_run_the_model_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        names = ["score_cam", "layer_cam", "score_cam_fast", "centre"]
        finer = [contrast_method(rule, None, gamma=gamma) for rule in names[:3] for gamma in (0.6, 1.0)]
        methods = (*map_methods(names, None), *finer)
        seen = MODEL.observe(DrawnSet(1)[0].photo)
        alone = {one.name: one.explain(seen, 2).maps for one in methods}
        ran: list[int] = []
        forward = type(seen).forward

        def noted(self: Any, images: torch.Tensor, image: int | None = None) -> Any:
            ran.append(len(images))
            return forward(self, images, image)

        monkeypatch.setattr(type(seen), "forward", noted)
        methods[0].explain(seen, 2)
        once = sum(ran)
        ran.clear()
        explained_by([one for one in methods if not one.name.startswith("score_cam_fast")], seen, 2)
        assert sum(ran) == once > 0
        for name, found in explained_by(methods, seen, 2).items():
            torch.testing.assert_close(found.maps, alone[name], rtol=1e-5, atol=1e-6)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    for index, one in enumerate(DrawnSet(6, size=64)):
        file = tmp_path / "photos" / f"class {index % 2}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        one.photo.save(file)
    return tmp_path / "photos"


class TestPhotos:
    def test_every_kind_of_data_can_be_read(self, labelled: Path) -> None:
        flat = open_photos(str(labelled / "class 0"))
        assert (flat.name, flat.names, flat.labels) == ("class 0", ("0.png", "2.png", "4.png"), ())
        classes = open_photos(str(labelled))
        assert classes.labels == ("class 0",) * 3 + ("class 1",) * 3
        assert open_photos(f"folder:{labelled}").fingerprint == classes.fingerprint
        drawn = open_photos("drawn:5", "train")
        assert np.array_equal(np.asarray(drawn.read(4)), np.asarray(DrawnSet(5, "train")[4].photo))
        assert flat.read(1).size == (64, 64)

    def test_a_set_with_a_test_split_is_measured_there(self, labelled: Path, tmp_path: Path) -> None:
        for split in ("train", "test"):
            shutil.copytree(labelled, tmp_path / "parted" / split)
        parted = str(tmp_path / "parted")
        assert open_photos(parted).fingerprint == open_photos(parted, "test").fingerprint
        assert open_photos(parted).name != open_photos(parted, "train").name

    def test_few_photos_are_evenly_spaced(self, labelled: Path) -> None:
        few = open_photos(str(labelled), max_photos=3)
        assert few.rows == (0, 2, 5)
        assert few.labels == ("class 0", "class 0", "class 1")
        assert few.fingerprint != open_photos(str(labelled)).fingerprint

    def test_what_is_no_data_is_refused(self, labelled: Path, tmp_path: Path) -> None:
        for given, word in (("cbu:here", "cub"), (str(tmp_path / "nothing"), "folder")):
            with pytest.raises(cl.InputError, match=word):
                open_photos(given)
        (tmp_path / "empty").mkdir()
        one = tmp_path / "one"
        shutil.copytree(labelled / "class 0", one / "class 0")
        ways = "a folder of photos, or one with a folder of photos for each of two or more classes"
        with pytest.raises(cl.InputError, match=f"holds no photo; give {ways}"):
            open_photos(str(tmp_path / "empty"))
        with pytest.raises(
            cl.InputError, match=f"in one folder alone; give .*class 0' to measure its photos, or {ways}"
        ):
            open_photos(str(one))
        with pytest.raises(cl.InputError, match="--split"):
            open_photos(str(labelled / "class 0"), "test")
        with pytest.raises(cl.InputError, match="at least 1"):
            open_photos("drawn:3", max_photos=0)


class TestTask:
    def test_rows_are_of_the_class_that_is_asked(self, labelled: Path) -> None:
        photos = open_photos(str(labelled))
        methods = map_methods(["grad_cam", "centre"], None)
        measures = (Measure("deletion", "mean"), Measure("deletion", "blur"))
        predicted = ClassMapTask(photos, MODEL, methods, measures)
        label = ClassMapTask(photos, MODEL, methods, measures, asked="label")
        assert {one.question for one in label.rows(4).values} == {"class 1"}
        seen = MODEL.observe(photos.read(4))
        best = int(seen.logits.detach().argmax())
        found = predicted.rows(4)
        assert {one.question for one in found.values} == {f"class {best}"}
        assert found.values[0].confidence == pytest.approx(float(seen.logits.detach().softmax(1)[0, best]), abs=1e-5)
        assert found.label == "class 1"
        wanted = cl.metrics.deletion(cl.cam(seen, best), scored_images(seen, best), "blur")
        assert found.values[1].value == pytest.approx(wanted.of(0, 0), abs=1e-6)
        assert [one.protocol for one in found.values] == [one.hash for one in predicted.protocols]
        assert {one.column for one in predicted.protocols}.isdisjoint(one.column for one in label.protocols)

    def test_energy_is_that_inside_the_box_as_the_model_sees_it(self, birds: Path, bird_model: cl.Backbone) -> None:
        photos = of_labelled(cl.open_classes(f"cub:{birds}", "test"), 2)
        assert photos.boxes is not None
        task = ClassMapTask(photos, bird_model, map_methods(["centre"], None), (BOX,))
        (row,) = task.rows(0).values
        seen, _ = task.observe(0)
        left, top, right, bottom = photos.boxes[0]
        assert seen.image_info[0].box == (0.0, 0.0, 1.0, 1.0)
        masks = cl.metrics.box_masks(torch.tensor([[left, top, right, bottom]]), (112, 112))
        maps = map_methods(["centre"], None)[0].explain(seen, 0).maps
        assert row.value == pytest.approx(cl.metrics.pointing_energy(maps, masks).of(0, 0))

    def test_it_can_be_sent_to_another_process(self, labelled: Path) -> None:
        measures = (Measure("deletion", "mean"), Measure("relative_drop_5", "blur"))
        methods = (*map_methods(["grad_cam", "random", "centre", "edges"], None), contrast_method("grad_cam", None))
        task = ClassMapTask(open_photos(str(labelled)), MODEL, methods, measures)
        there = pickle.loads(pickle.dumps(task))  # noqa: S301
        assert there.rows(1) == task.rows(1)

    def test_what_cannot_be_asked_is_refused(self, labelled: Path) -> None:
        photos, flat = open_photos(str(labelled)), open_photos("drawn:2")
        methods, measures = map_methods(["centre"], None), (Measure("deletion", "mean"),)
        with pytest.raises(cl.InputError, match="no labels"):
            ClassMapTask(flat, MODEL, methods, measures, asked="label")
        with pytest.raises(cl.InputError, match="no boxes"):
            ClassMapTask(photos, MODEL, methods, (BOX,))
        with pytest.raises(cl.InputError, match="third"):
            ClassMapTask(photos, MODEL, methods, measures, layer="third")
        with pytest.raises(cl.InputError, match="metrics"):
            ClassMapTask(photos, MODEL, methods, ())


class TestSuites:
    def test_faithfulness_has_controls_and_two_fills_beside_every_number(self) -> None:
        suite = faithfulness_suite(SuiteOptions("drawn:9", MODEL, randomised=True))
        names = [one.name for one in suite.methods]
        assert names[:3] == ["grad_cam", "hires_cam", "layer_cam"]
        assert [one.name for one in suite.methods if one.control] == ["random", "centre", "edges", "random_weights"]
        assert {one.against for one in suite.methods[1:6]} == {"grad_cam"}
        measures = [one.measure for one in suite.task.protocols if one.method == "grad_cam"]
        for metric in ("relative_drop_5", "relative_drop_area", "deletion", "insertion", "average_drop"):
            assert [fill for name, fill in measures if name == metric] == ["mean", "blur"]
        assert [fill for name, fill in measures if name == "road"] == ["mean", "blur", "noisy_linear"]
        assert {one.metric for one in suite.task.protocols} <= set(SUITE_METRICS)

    def test_rises_own_settings_have_names(self) -> None:
        options = SuiteOptions("drawn:2", MODEL, methods=["grad_cam"], metrics=["rise_deletion", "rise_insertion"])
        suite = faithfulness_suite(options)
        own = [one for one in suite.task.protocols if one.method == "grad_cam"]
        assert [one.measure for one in own] == [("rise_deletion", "zero"), ("rise_insertion", "rise_blur")]
        assert {one.metric_settings["steps"] for one in own} == {suite.task.resolution[0]}
        seen, target = suite.task.observe(0)
        alone = cl.metrics.rise_insertion(cl.cam(seen, target), scored_images(seen, target), seed=options.seed).of(0, 0)
        found = [one for one in suite.task.rows(0).values if one.method == "grad_cam"]
        assert [(one.metric, one.fill) for one in found] == [one.measure for one in own]
        assert found[1].value == pytest.approx(alone, abs=1e-6)
        beside = SuiteOptions("drawn:2", MODEL, methods=["grad_cam"], metrics=["deletion", "rise_deletion"])
        measures = [one.measure for one in faithfulness_suite(beside).task.protocols if one.method == "grad_cam"]
        assert measures == [("deletion", "mean"), ("deletion", "blur"), ("rise_deletion", "zero")]

    def test_finer_cam_stands_against_its_own_rule(self) -> None:
        suite = finer_cam_suite(
            SuiteOptions("drawn:9", MODEL, methods=["layer_cam"], gammas=[0.3, 1], references=["rank"])
        )
        assert [(one.name, one.against) for one in suite.methods if not one.control] == [
            ("layer_cam", ""),
            ("layer_cam_finer_gamma_0.3_by_rank", "layer_cam"),
            ("layer_cam_finer_gamma_1_by_rank", "layer_cam"),
        ]
        assert not suite.remarks

    def test_the_contrast_chosen_by_photo_is_measured_too(self) -> None:
        suite = finer_cam_suite(SuiteOptions("drawn:9", MODEL, methods=["grad_cam", "score_cam"]))
        chosen = [one for one in suite.task.methods if "chosen" in one.name]
        assert [(one.name, one.against) for one in chosen] == [("grad_cam_finer_chosen", "grad_cam")]
        seen, target = suite.task.observe(0)
        expected = cl.cam(seen, cl.choose_contrast(seen, target).contrast)
        torch.testing.assert_close(chosen[0].explain(seen, target).maps, expected.maps)

    def test_quick_is_few_of_everything(self) -> None:
        suite = faithfulness_suite(SuiteOptions("drawn:20", MODEL, quick=True))
        assert len(suite.task.photo_names) == 8
        assert "score_cam" not in [one.name for one in suite.methods]
        assert len({one.measure for one in suite.task.protocols}) == 4

    def test_what_makes_no_sense_is_refused(self) -> None:
        for options, words in (
            ({"fills": ["mean"]}, "two"), ({"fills": ["mean", "bulr"]}, "blur"), ({"metrics": ["x", "y"]}, "metric"),
            ({"methods": ["gradcam"]}, "grad_cam"), ({"gammas": [1.0]}, "gammas has no effect"),
            ({"baseline": "x"}, "baseline"),
        ):  # fmt: skip
            with pytest.raises(cl.InputError, match=words):
                faithfulness_suite(SuiteOptions("drawn:3", MODEL, **options))  # pyright: ignore[reportArgumentType]
        with pytest.raises(cl.InputError, match="faithfulness"):
            suite_kind("fathfulness")


def run(*arguments: str) -> Result:
    torch.manual_seed(0)  # so that random weights are the same in every call
    return CliRunner().invoke(app, ["benchmark", *arguments])


FEW = ("--methods", "grad_cam,layer_cam", "--metrics", "relative_drop_5,average_drop")
TINY = ("--model", "timm:test_resnet", "--no-pretrained")


@pytest.mark.wide
class TestCommand:
    def test_a_run_is_written_printed_and_goes_on(self, tmp_path: Path) -> None:
        out = tmp_path / "run"
        done = run("faithfulness", "--data", "drawn:2", *FEW, *TINY, "--out-dir", str(out))
        assert done.exit_code == 0, done.output
        assert "Layer-CAM" in done.stdout
        assert "nothing is real" in done.stdout
        files = {one.name for one in out.iterdir()}
        assert files >= {f"benchmark.{kind}" for kind in ("txt", "md", "tex", "json")} | {"rows.parquet"}
        numbers = json.loads((out / "benchmark.json").read_text())
        rows = parquet.read_table(out / "rows.parquet").to_pylist()
        assert len(rows) == 2 * 6 * 4
        assert {row["protocol"] for row in rows} == set(numbers["protocols"])
        one = next(line for line in numbers["methods"] if line["name"] == "layer_cam")
        values = [row["value"] for row in rows if (row["method"], row["metric"], row["fill"]) == (
            "layer_cam", "relative_drop_5", "blur")]  # fmt: skip
        cell = next(c for c in one["cells"] if (c["metric"], c["fill"]) == ("relative_drop_5", "blur"))
        assert cell["score"]["mean"] == pytest.approx(np.mean(values))
        again = run("faithfulness", "--data", "drawn:2", *FEW, *TINY, "--out-dir", str(out), "--resume", "--json")
        assert again.exit_code == 0, again.output
        assert json.loads(again.stdout)["methods"] == numbers["methods"]
        refused = run("faithfulness", "--data", "drawn:2", *FEW, *TINY, "--out-dir", str(out))
        assert refused.exit_code == 2
        assert "--resume" in refused.stderr
        turned = ("--methods", "layer_cam,grad_cam", *FEW[2:], *TINY)
        other = run("faithfulness", "--data", "drawn:2", *turned, "--out-dir", str(out), "--resume")
        assert other.exit_code == 2
        assert "layer_cam is compared with grad_cam, here it is with nothing" in " ".join(other.stderr.split())

    @pytest.mark.slow
    def test_all_runs_what_the_data_allows_and_says_what_it_leaves_out(self, store: Path, tmp_path: Path) -> None:
        done = run("all", "--data", str(store), "--out-dir", str(tmp_path / "run"), "--json")
        assert done.exit_code == 0, done.output
        assert [one["suite"] for one in json.loads(done.stdout)["suites"]] == ["loce"]
        assert (tmp_path / "run" / "loce" / "benchmark.html").is_file()
        assert all(f"{name} is left out" in done.stderr for name in ("faithfulness", "finer-cam", "ce-fam", "loc-cbm"))
        refused = run("all", "--data", str(store), "--metrics", "deletion", "--out-dir", str(tmp_path / "other"))
        assert refused.exit_code == 2
        assert "--metrics has no effect on all" in refused.stderr
        nothing = run("all", "--data", str(tmp_path / "nowhere"), "--out-dir", str(tmp_path / "other"))
        assert nothing.exit_code == 2
        assert "no suite can measure" in nothing.stderr

    def test_a_photo_that_fails_is_reported_and_ends_with_code_1(self, tmp_path: Path) -> None:
        folder = tmp_path / "photos"
        folder.mkdir()
        DrawnSet(1)[0].photo.save(folder / "a.png")
        (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:200])
        quick = ("--quick", "--metrics", "deletion", *TINY)
        done = run("finer-cam", "--data", str(folder), *quick, "--out-dir", str(tmp_path / "run"))
        assert done.exit_code == 1, done.output
        assert "b.png" in done.stderr
        assert "1 photo, 1 failed in " in done.stderr
        numbers = json.loads((tmp_path / "run" / "benchmark.json").read_text())
        assert numbers["photos"] == 1
        assert "Measured are 1 of 2 photos; 1 failed." in numbers["remarks"]
        page = (tmp_path / "run" / "benchmark.html").read_text()
        assert page.index("1 of 2 photos; 1 failed") < page.index("<main>")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["faith", "--data", "drawn:2"], "near names: faithfulness"),
            (["finer-cam", "--data", "drawn:2", "--gammas", "x"], "--gammas x"),
            (["faithfulness", "--data", "drawn:2", "--asked", "label"], "no labels"),
            (["faithfulness", "--data", "drawn:2", "--fills", "blur"], "at least two"),
        ],
    )
    def test_what_cannot_be_run_is_one_sentence(self, arguments: list[str], words: str, tmp_path: Path) -> None:
        done = run(*arguments, "--no-pretrained", "--out-dir", str(tmp_path / "run"))
        assert done.exit_code == 2
        assert words in done.stderr
        assert not (tmp_path / "run").exists()


def test_every_suite_says_what_it_answers() -> None:
    assert all(kind.name == name and kind.about for name, kind in SUITES.items())


def test_a_class_folder_keeps_its_labels(labelled: Path) -> None:
    photos = of_labelled(ClassFolder(labelled), 2)
    assert photos.labels == ("class 0", "class 1")
    assert isinstance(photos.read(0), Image.Image)


@pytest.mark.wide
class TestConceptMaps:
    def test_rows_are_those_of_the_evaluation(self) -> None:
        model = cl.load_model(crop_mode="squash")
        given = SuiteOptions("drawn:3", model, methods=["ce_fam", "grad_cam"], metrics=MASK_METRICS, seed=2)
        suite = ce_fam_suite(given)
        names = ("ce_fam", "grad_cam", "centre", "random", "edges")
        assert tuple(one.name for one in suite.methods) == names
        assert [one.against for one in suite.methods] == ["grad_cam", "", "", "", ""]
        data = cl.open_set("drawn:3")
        built = build_methods(names, MethodContext(model, data.concepts, seed=2))
        rows = list(evaluate_localization(data, built, seed=2))[1]
        assert isinstance(rows, tuple)
        wanted = {
            (row.method, f"{row.concept}:{row.type}", metric): row.scores[metric]
            for row in rows if not row.oracle for metric in MASK_METRICS if metric in row.scores
        }  # fmt: skip
        found = {(one.method, one.question, one.metric): one.value for one in suite.task.rows(1).values}
        assert found.keys() - wanted.keys() == {
            (row.method, f"{row.concept}:{row.type}", PUBLISHED_AREA) for row in rows if not row.oracle
        }  # fmt: skip
        assert {key: found[key] for key in wanted} == wanted
        there = pickle.loads(pickle.dumps(suite.task))  # noqa: S301
        assert there.rows(1) == suite.task.rows(1)

    def test_a_run_compares_concepts_by_photo(self, tmp_path: Path) -> None:
        done = run(
            "ce-fam", "--data", "drawn:2", "--quick", "--methods", "per_cell,grad_cam", "--out-dir", str(tmp_path)
        )
        assert done.exit_code == 0, done.output
        numbers = json.loads((tmp_path / "benchmark.json").read_text())
        assert [one["name"] for one in numbers["methods"]] == ["per_cell", "grad_cam", "centre", "random", "edges"]
        score = numbers["methods"][0]["cells"][0]["score"]
        assert score["images"] == 2
        assert score["count"] > 2
        page = (tmp_path / "benchmark.html").read_text()
        assert "Every metric" in page

    def test_data_without_masks_is_refused_with_how_to_name_a_set(self, labelled: Path) -> None:
        for data in (str(labelled), "cub:there"):
            with pytest.raises(cl.InputError, match=r"against masks: .*NAME:FOLDER.*drawn:20"):
                ce_fam_suite(SuiteOptions(data, MODEL))

    def test_what_has_no_effect_is_refused(self) -> None:
        for options, words in (
            ({"fills": ["mean", "blur"], "quick": True}, "--fills has no effect"), ({"probe": Path("x")}, "--probe"),
            ({"metrics": ["channel_deletion"], "methods": ["grad_cam"]}, "concepts have a contribution in"),
            ({"metrics": ["x"]}, "metric"), ({"asked": "label"}, "asked"), ({"baseline": "fine"}, "baseline"),
        ):  # fmt: skip
            with pytest.raises(cl.InputError, match=words):
                ce_fam_suite(SuiteOptions("drawn:3", MODEL, **options))  # pyright: ignore[reportArgumentType]


def deletion(photo: PhotoRows, method: str) -> float:
    """Return a method's deletion of a photo, with the mean colour."""
    wanted = (method, "deletion", "mean")
    return next(row.value or 0.0 for row in photo.values if (row.method, row.metric, row.fill) == wanted)


class TestPage:
    def test_it_shows_every_number_and_where_a_method_gains_and_loses(self, tmp_path: Path) -> None:
        options = SuiteOptions("drawn:9", MODEL, methods=["grad_cam", "layer_cam"], metrics=["deletion", "insertion"])
        suite = faithfulness_suite(options)
        assert list(run_benchmark(suite.task, tmp_path))[-1].photos == 9
        result = finished(suite, tmp_path)
        files = {file.name for file in write_benchmark(tmp_path, result)}
        assert files >= {"benchmark.html", "intervals_mean.png", "intervals_blur.png"}
        page = (tmp_path / "benchmark.html").read_text()
        assert "<script" not in page
        assert "://" not in page
        for line in result.comparison.lines:
            for cell in line.cells.values():
                assert cell.interval is not None
                assert f"<b>{number(cell.interval.mean, 3)}</b>" in page
        chosen = choose_benchmark_cases(read_photos(tmp_path), result.comparison, higher_is_better=False)
        assert chosen is not None
        assert (chosen.method, chosen.against, chosen.measure) == ("layer_cam", "grad_cam", Measure("deletion", "mean"))
        gains = {
            photo.index: deletion(photo, "grad_cam") - deletion(photo, "layer_cam") for photo in read_photos(tmp_path)
        }  # fmt: skip
        ordered = sorted(gains, key=lambda index: -gains[index])
        shown = {side: [one.index for one in chosen.cases if one.side == side] for side in ("gain", "usual", "loss")}
        assert shown == {"gain": ordered[:2], "usual": ordered[3:5], "loss": ordered[:-3:-1]}
        assert "Controls are among them" in page
        assert "Left out" not in page
        for case in chosen.cases:
            assert case.gain == pytest.approx(gains[case.index])
            assert case.photo in page

    def test_agreement_is_drawn_where_there_is_any(self, tmp_path: Path) -> None:
        options = SuiteOptions("drawn:3", MODEL, methods=["grad_cam"], metrics=["deletion"])
        suite = faithfulness_suite(options)
        list(run_benchmark(suite.task, tmp_path))
        write_benchmark(tmp_path, finished(suite, tmp_path))
        page = (tmp_path / "benchmark.html").read_text()
        assert "How far metrics agree" in page
        assert page.count("Left out: ranks over fewer than 8 photos") == 2
        assert "nothing is real" in page
        assert "does best" not in page  # no method is compared with another one


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("store")
    for progress in embed_batches(cl.open_set("drawn:9"), small_model(), small_plan(), Store(place, create=True)):
        assert not progress.failures
    return place


class TestEmbeddings:
    def test_rows_are_those_of_retrieval_over_the_masks_of_all_layers(self, store: Path) -> None:
        suite = loce_suite(SuiteOptions(str(store), baseline="second"))
        assert [(one.name, one.against, one.control) for one in suite.methods] == [
            ("first", "second", False), ("second", "", False), ("random", "", True)
        ]  # fmt: skip
        own = Store(store).embeddings("first")
        found = retrieve(own.vectors, own.concepts, own.images, (1,))
        wanted = {
            (image, mask): value
            for image, mask, value, applies in zip(
                own.images, own.masks, found.average_precision, found.applies, strict=True)
            if applies
        }  # fmt: skip
        rows = [suite.task.rows(index) for index in range(9)]
        values = [
            one.value for photo in rows for one in photo.values
            if (one.method, one.metric) == ("first", "average_precision") and one.value is not None
        ]  # fmt: skip
        assert sorted(values) == pytest.approx(sorted(wanted.values()))
        drawn = [
            one.value for photo in rows for one in photo.values
            if (one.method, one.metric) == ("random", "average_precision_above_chance") and one.value is not None
        ]  # fmt: skip
        assert abs(np.mean(drawn)) < 0.1

    def test_a_store_is_compared_and_what_it_lacks_is_refused(self, store: Path, tmp_path: Path) -> None:
        done = run("loce", "--data", str(store), "--out-dir", str(tmp_path / "run"))
        assert done.exit_code == 0, done.output
        assert "random vectors" in done.stdout
        assert len(json.loads((tmp_path / "run" / "benchmark.json").read_text())["methods"]) == 3
        for options, words in (
            ({"methods": ["third"]}, "first"), ({"metrics": ["x"]}, "average_precision"), ({"baseline": "x"}, "layers"),
            ({"model": MODEL}, "no effect"), ({"split": "val"}, "no effect"),
        ):  # fmt: skip
            with pytest.raises(cl.InputError, match=words):
                loce_suite(SuiteOptions(str(store), **options))  # pyright: ignore[reportArgumentType]
        with pytest.raises(cl.InputError, match="conceptlens embed"):
            loce_suite(SuiteOptions("drawn:3"))

    def test_a_suite_without_its_model_is_refused(self) -> None:
        with pytest.raises(cl.InputError, match="none is given"):
            faithfulness_suite(SuiteOptions("drawn:2"))
