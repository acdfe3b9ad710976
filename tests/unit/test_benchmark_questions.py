"""Columns of rival classes and of groups, noise, random weights: as the metrics say, and named in protocols."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from embed_process import small_model

import conceptlens as cl
from conceptlens.benchmark.benchmark_photos import open_photos
from conceptlens.benchmark.class_groups import ClassGroups, class_groups
from conceptlens.benchmark.class_map_task import ClassMapTask
from conceptlens.benchmark.class_suites import faithfulness_suite, finer_cam_suite
from conceptlens.benchmark.map_methods import map_methods
from conceptlens.benchmark.protocol import Measure
from conceptlens.benchmark.question_measures import GIVEN, SENSITIVITY
from conceptlens.benchmark.suite_options import SuiteOptions
from conceptlens.cams.image_scoring import scored_images
from conceptlens.metrics import FAITHFULNESS_METRICS
from conceptlens.metrics.random_weights import with_random_weights

NAMES = ("tabby", "Siamese cat", "beagle", "ski")


def named_model() -> cl.Backbone:
    """Return a small network whose probabilities are far from even, with classes that are known by name."""
    model = small_model()
    with torch.no_grad():
        model.module.head.weight.mul_(100)  # pyright: ignore
    return replace(model, class_names=NAMES)


MODEL = named_model()
METHODS = ("grad_cam", "layer_cam", "centre")


def grouped(tmp_path: Path, text: str) -> ClassGroups:
    file = tmp_path / "groups.tsv"
    file.write_text(text, "utf-8")
    return class_groups(MODEL, file)


class TestGroups:
    def test_kinds_are_groups_where_classes_share_them(self) -> None:
        found = class_groups(MODEL)
        # A beagle is a hound and a dog as no other class here, and a mammal as the cats are.
        assert found.names == ("cat", "cat", "mammal", "")
        assert found.members.tolist() == [
            [True, True, False, False], [True, True, False, False], [True, True, True, False], [False] * 4
        ]  # fmt: skip

    def test_a_file_names_groups(self, tmp_path: Path) -> None:
        found = grouped(tmp_path, "# pets and things\ntabby\tpet\nbeagle\tpet\n\nski\tthing\n")
        assert found.names == ("pet", "", "pet", "thing")
        assert found.members.tolist() == [
            [True, False, True, False], [False] * 4, [True, False, True, False], [False, False, False, True]
        ]  # fmt: skip
        assert found.source == "groups.tsv"
        assert found.fingerprint != class_groups(MODEL).fingerprint

    def test_the_rival_is_the_group_of_the_likeliest_class_outside(self, tmp_path: Path) -> None:
        found = grouped(tmp_path, "tabby\tpet\nbeagle\tpet\nski\tthing\n")
        # The Siamese cat is likelier, and has no group.
        assert found.rival(0, torch.tensor([0.3, 0.4, 0.2, 0.1])).tolist() == [False, False, False, True]
        assert not found.rival(1, torch.tensor([0.3, 0.4, 0.2, 0.1])).any()
        kinds = class_groups(MODEL)
        # Of the mammals, cats stand against the dog alone: members of both groups are left out.
        assert kinds.rival(0, torch.tensor([0.6, 0.1, 0.2, 0.1])).tolist() == [False, False, True, False]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("tabby\tcat\ntabby\tpet\n", "names the class tabby twice"),
            ("tabby\tcat\ttwo\n", "line 1 of .* holds 3 cells"),
            ("tabby\tcat\n", "names 1 classes; groups need two"),
            ("tabbi\tcat\nski\tthing\n", "tabby"),
        ],
    )
    def test_what_names_no_groups_is_refused(self, tmp_path: Path, text: str, words: str) -> None:
        with pytest.raises(cl.InputError, match=words):
            grouped(tmp_path, text)

    def test_classes_without_kinds_have_none(self) -> None:
        with pytest.raises(cl.InputError, match=r"linked to no kinds that several share.*--groups FILE"):
            class_groups(replace(MODEL, class_names=("qwx 1", "qwx 2", "qwx 3", "qwx 4")))
        with pytest.raises(cl.InputError, match="has no class names"):
            class_groups(replace(MODEL, class_names=None))


class TestColumns:
    @pytest.fixture
    def task(self, tmp_path: Path) -> ClassMapTask:
        groups = grouped(tmp_path, "tabby\ta\nSiamese cat\ta\nbeagle\tb\nski\tb\n")
        measures = (*(Measure(name, "blur") for name in GIVEN), Measure("infidelity", "mean"), SENSITIVITY)
        return ClassMapTask(
            open_photos("drawn:3"), MODEL, map_methods(METHODS, None), measures, seed=4, groups=groups
        )  # fmt: skip

    def test_they_are_what_each_metric_gives_alone(self, task: ClassMapTask) -> None:
        seen, target = task.observe(1)
        probabilities = seen.logits.detach().softmax(1)[0]
        others = [one for one in range(4) if one != target]
        rival = torch.tensor([[max(others, key=lambda one: float(probabilities[one]))]])
        first = torch.tensor([[[True, True, False, False]]])
        own, other = (first, ~first) if target < 2 else (~first, first)
        maps, scored = cl.cam(seen, target, "layer_cam"), scored_images(seen, target)
        every = cl.metrics
        wanted = {
            "contrastive_class_score": every.contrastive_class_score(maps, scored, rival, "blur", seed=4),
            "class_group_score": every.class_group_score(maps, scored, own, "blur", seed=4),
            "pointwise_group_score": every.pointwise_group_score(maps, scored, own, "blur", seed=4),
            "contrastive_group_score": every.contrastive_group_score(maps, scored, own, other, "blur", seed=4),
            "group_relative_drop": every.group_relative_drop(maps, scored, own, other, "blur", seed=4),
            "infidelity": every.infidelity(maps, scored, "mean", seed=4),
            "max_sensitivity": every.max_sensitivity(
                lambda images: cl.cam(MODEL.observe(images), target, "layer_cam"), seen.images, 0.02, 10, 4
            ),
        }
        found = {one.metric: one.value for one in task.rows(1).values if one.method == "layer_cam"}
        assert found.keys() == wanted.keys()
        for name, score in wanted.items():
            assert found[name] == pytest.approx(score.of(0, 0), abs=1e-5), name
        # Nothing is told by a map that stays as it is, which has the best value that there is.
        (fixed,) = (one.value for one in task.rows(1).values if (one.method, one.metric) == ("centre", SENSITIVITY[0]))
        assert fixed == 0 < (found["max_sensitivity"] or 0)

    def test_protocols_name_the_question(self, task: ClassMapTask) -> None:
        asks = {one.metric: one.metric_settings["asks"] for one in task.protocols}
        assert asks == {
            "contrastive_class_score": ["contrastive", "class"],
            "class_group_score": ["contrastive", "class in its group"],
            "pointwise_group_score": ["pointwise", "group"],
            "contrastive_group_score": ["contrastive", "group"],
            "group_relative_drop": ["contrastive", "group"],
            "infidelity": ["pointwise", "class"],
            "max_sensitivity": ["pointwise", "class"],
        }
        (noise,) = {(one.fill, one.metric_settings["samples"]) for one in task.protocols if one.measure == SENSITIVITY}
        assert noise == ("", 10)
        other = replace(task, groups=class_groups(MODEL))
        for mine, theirs in zip(task.protocols, other.protocols, strict=True):
            assert (mine.hash != theirs.hash) == ("group" in mine.metric), mine.metric

    def test_it_can_be_sent_to_another_process(self, task: ClassMapTask) -> None:
        there = pickle.loads(pickle.dumps(task))  # noqa: S301
        assert there.rows(0) == task.rows(0)

    def test_suites_take_them_by_name_alone(self, tmp_path: Path) -> None:
        suite = faithfulness_suite(SuiteOptions("drawn:2", MODEL, metrics=["group_relative_drop", "max_sensitivity"]))
        assert {one.measure for one in suite.task.protocols} == {
            Measure("group_relative_drop", "mean"), Measure("group_relative_drop", "blur"), SENSITIVITY
        }  # fmt: skip
        for build in (faithfulness_suite, finer_cam_suite):
            usual = build(SuiteOptions("drawn:2", MODEL)).task.protocols
            assert {one.metric for one in usual} <= set(FAITHFULNESS_METRICS)
        with pytest.raises(cl.InputError, match="--groups has no effect without a metric of groups"):
            faithfulness_suite(SuiteOptions("drawn:2", MODEL, groups=tmp_path / "groups.tsv"))
        with pytest.raises(cl.InputError, match="asks about groups of classes, and none are given"):
            ClassMapTask(
                open_photos("drawn:2"), MODEL, map_methods(METHODS, None), (Measure("class_group_score", "mean"),)
            )


class TestRandomWeights:
    def test_the_whole_network_is_random_and_the_same_for_a_seed(self) -> None:
        first, again, other = (with_random_weights(MODEL.module, seed=seed) for seed in (0, 0, 1))
        image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            values = [net(image) for net in (first, again, other, MODEL.module)]
        assert torch.equal(values[0], values[1])
        assert not any(torch.allclose(values[0], one) for one in values[2:])
        for name, weight in first.named_parameters():
            learned = MODEL.module.get_parameter(name)
            assert torch.equal(weight, learned) == bool((learned == learned.flatten()[0]).all()), name
        with pytest.raises(cl.InputError, match="no redraw 'new'"):
            with_random_weights(MODEL.module, "new")  # pyright: ignore[reportArgumentType]

    def test_it_is_a_control_of_the_full_run_alone_unless_it_is_asked_for(self) -> None:
        def controls(build: object, **given: object) -> list[str]:
            suite = build(SuiteOptions("drawn:2", MODEL, **given))  # pyright: ignore
            return [one.name for one in suite.methods if one.control]

        usual = ["random", "centre", "edges"]
        assert controls(faithfulness_suite) == [*usual, "random_weights"]
        assert controls(faithfulness_suite, quick=True) == usual
        assert controls(faithfulness_suite, randomised=False) == usual
        assert controls(faithfulness_suite, quick=True, randomised=True) == [*usual, "random_weights"]
        assert controls(finer_cam_suite) == usual
        assert controls(finer_cam_suite, randomised=True) == [*usual, "random_weights"]

    def test_its_map_is_that_of_the_random_network_for_the_same_class(self) -> None:
        suite = faithfulness_suite(SuiteOptions("drawn:2", MODEL, methods=["grad_cam"], metrics=["deletion"], seed=3))
        network = replace(MODEL, module=with_random_weights(MODEL.module, seed=3))
        seen, target = suite.task.observe(0)  # pyright: ignore
        map_of_random = cl.cam(network.observe(seen.images), target, signed=True)
        wanted = cl.metrics.deletion(map_of_random.maps, scored_images(seen, target), "blur", seed=3)
        found = {(one.method, one.fill): one.value for one in suite.task.rows(0).values}
        assert found["random_weights", "blur"] == pytest.approx(wanted.of(0, 0), abs=1e-6)
        again = faithfulness_suite(SuiteOptions("drawn:2", MODEL, methods=["grad_cam"], metrics=["deletion"], seed=3))
        assert [one.hash for one in again.task.protocols] == [one.hash for one in suite.task.protocols]
