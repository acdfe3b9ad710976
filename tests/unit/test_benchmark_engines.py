"""Benchmarks in several processes and on Ray: the rows of the local engine, whatever becomes of the workers."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmark_process import DrawnNumbers, KillsOnce
from embed_process import small_model
from embedded_stores import filled
from typer.testing import CliRunner, Result

import conceptlens as cl
from conceptlens.benchmark.benchmark_photos import open_photos
from conceptlens.benchmark.benchmark_run import BenchmarkTask, MeasuringRun, run_benchmark
from conceptlens.benchmark.class_map_task import ClassMapTask
from conceptlens.benchmark.embedding_suite import loce_suite
from conceptlens.benchmark.map_methods import contrast_method, map_methods
from conceptlens.benchmark.protocol import Measure
from conceptlens.benchmark.result_parts import PhotoRows, read_photos
from conceptlens.benchmark.suite_options import SuiteOptions
from conceptlens.cli import app
from conceptlens.runs.local_engine import local_engine
from conceptlens.runs.photo_parts import written_photos
from conceptlens.runs.process_engine import process_engine
from conceptlens.runs.run_task import Engine
from conceptlens.runs.sent_task import sent_task

PROCESS = Path(__file__).with_name("benchmark_process.py")


def class_maps() -> ClassMapTask:
    """Return a task of every kind of method on six drawn scenes and a small network with random weights."""
    model = replace(small_model(), class_names=[f"class {index}" for index in range(4)])
    torch.manual_seed(5)
    other = small_model()
    names = ("grad_cam", "layer_cam", "random", "centre", "edges", "random_weights")
    methods = (*map_methods(names, None, 3, other), contrast_method("grad_cam", None, gamma=0.6))
    measures = (Measure("relative_drop_5", "mean"), Measure("deletion", "blur"))
    return ClassMapTask(open_photos("drawn:6"), model, methods, measures, seed=3)


def measured(task: BenchmarkTask, folder: Path, engine: Engine) -> list[PhotoRows]:
    """Return all rows of a run, in the order of photos."""
    *_, last = run_benchmark(task, folder, engine=engine)
    assert (last.photos, last.failures) == (len(task.photo_names), 0)
    return list(read_photos(folder))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[PhotoRows]:
    """What the local engine makes of `class_maps`."""
    return measured(class_maps(), tmp_path_factory.mktemp("local") / "run", local_engine)


@pytest.mark.process
class TestProcesses:
    def test_rows_are_those_of_the_local_engine_though_a_worker_is_killed(
        self, here: list[PhotoRows], tmp_path: Path
    ) -> None:
        (tmp_path / "seen").mkdir()
        task = KillsOnce(class_maps(), tmp_path / "seen", deadly=4)
        assert measured(task, tmp_path / "run", process_engine(2)) == here
        assert (tmp_path / "seen" / "killed").exists()
        assert len(list((tmp_path / "seen").glob("*.process"))) >= 2

    def test_a_run_in_processes_that_is_killed_goes_on(self, tmp_path: Path) -> None:
        *_, _ = run_benchmark(DrawnNumbers(60), tmp_path / "whole")
        command = [sys.executable, str(PROCESS), str(tmp_path / "killed"), "60", "2"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(6):
                process.stdout.readline()
            process.kill()
        assert 0 < len(written_photos(tmp_path / "killed")) < 60
        *_, last = run_benchmark(DrawnNumbers(60), tmp_path / "killed", resume=True)
        assert (last.photos, last.failures) == (60, 1)
        assert list(read_photos(tmp_path / "killed")) == list(read_photos(tmp_path / "whole"))


def benchmark(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["benchmark", *arguments])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(filled(cl.open_set("drawn:9"), tmp_path_factory.mktemp("store"), local_engine).path)


class TestCommand:
    # That rows are equal is proved in every run by TestProcesses; here it is the command that asks for the engine.
    @pytest.mark.slow
    @pytest.mark.process
    def test_the_engine_changes_no_number(self, store: str, tmp_path: Path) -> None:
        words = ("loce", "--data", store, "--json", "--out-dir")
        done = benchmark(*words, str(tmp_path / "local"))
        there = benchmark(*words, str(tmp_path / "there"), "--engine", "process", "--workers", "2")
        assert done.exit_code == there.exit_code == 0, there.output
        assert json.loads(there.stdout)["methods"] == json.loads(done.stdout)["methods"]
        assert list(read_photos(tmp_path / "there")) == list(read_photos(tmp_path / "local"))

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["--workers", "2"], "--workers has no effect without --engine ray or --engine process"),
            (["--engine", "process", "--ray-address", "auto"], "--ray-address has no effect without --engine ray"),
            (["--engine", "spark"], "--engine spark is given; expected local, process or ray"),
            (["--engine", "ray", "--ray-address", "here"], "'here' is no address of a Ray cluster"),
        ],
    )
    def test_what_cannot_be_is_one_sentence_and_leaves_nothing(
        self, words: list[str], sentence: str, tmp_path: Path
    ) -> None:
        if "ray" in words:
            pytest.importorskip("ray.data")
        done = benchmark("faithfulness", "--data", "drawn:2", "--out-dir", str(tmp_path / "run"), *words)
        assert done.exit_code == 2, done.output
        assert sentence in done.stderr
        assert not (tmp_path / "run").exists()


def test_tasks_can_be_sent_after_they_were_used(store: str) -> None:
    task = class_maps()
    assert task.rows(0)
    assert sent_task(MeasuringRun(task), 1).open("cpu").compute(1) == task.rows(1)
    retrieval = loce_suite(SuiteOptions(store)).task
    assert retrieval.rows(0).values
    assert "_read" in vars(retrieval)
    sent = sent_task(MeasuringRun(retrieval), 1)
    there = sent.open("cpu")
    assert "_read" not in vars(there.task)  # no vector travels
    assert [there.compute(index) for index in range(9)] == [retrieval.rows(index) for index in range(9)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two CPUs that this process is connected to."""
    pytest.importorskip("ray.data")
    from conceptlens.runs.ray_connection import load_ray

    ray = load_ray()
    with warnings.catch_warnings():  # what is forked becomes another program at once
        warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="critical")
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.slow
def test_rows_on_ray_are_those_of_the_local_engine_though_a_worker_is_killed(
    address: str, here: list[PhotoRows], tmp_path: Path
) -> None:
    from conceptlens.runs.ray_engine import ray_engine

    (tmp_path / "seen").mkdir()
    task = KillsOnce(class_maps(), tmp_path / "seen", deadly=4)
    assert measured(task, tmp_path / "run", ray_engine(address, 2)) == here
    assert (tmp_path / "seen" / "killed").exists()
