"""Embedding on a Ray cluster: the local engine's rows, whatever becomes of the workers."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cluster_sets import Lost, Unsendable, Watched
from embed_process import small_model, small_plan
from embedded_stores import filled, told
from typer.testing import CliRunner

import conceptlens as cl
from conceptlens.cli import app
from conceptlens.data.masked_set import MaskedSet
from conceptlens.local_embeddings.runs.embed_run import EmbedTask, embed_batches
from conceptlens.runs import ray_connection
from conceptlens.runs import ray_engine as engine_module
from conceptlens.runs.local_engine import local_engine
from conceptlens.runs.ray_connection import load_ray
from conceptlens.runs.ray_engine import ray_engine
from conceptlens.runs.sent_task import sent_task
from conceptlens.store import Store

pytestmark = pytest.mark.ray

pytest.importorskip("ray.data")

PROCESS = Path(__file__).with_name("cluster_process.py")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two CPUs that this process is connected to."""
    ray = load_ray()
    with warnings.catch_warnings():  # what is forked becomes another program at once
        warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="critical")
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """What the local engine makes of twenty photos."""
    return filled(cl.open_set("drawn:20"), tmp_path_factory.mktemp("whole") / "store", local_engine)


@pytest.mark.slow
def test_a_killed_worker_leaves_store_and_output_identical(address: str, whole: Store, tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    call = [sys.executable, str(PROCESS), str(tmp_path / "store"), str(tmp_path / "seen"), address]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)  # one object and nothing else
    assert (said["photos"], said["killed"]) == (20, 1)
    assert said["processes"] == 3
    assert told(Store(tmp_path / "store")) == told(whole)


@pytest.mark.slow
def test_a_run_that_is_left_frees_its_workers_and_is_taken_up(address: str, whole: Store, tmp_path: Path) -> None:
    ray = load_ray()
    data = cl.open_set("drawn:20")
    store = Store(tmp_path / "store", create=True)
    run = embed_batches(data, small_model(), small_plan(), store, engine=ray_engine(address, 1))
    while next(run).photos < 9:
        pass
    run.close()
    end = time.monotonic() + 20
    while ray.available_resources().get("CPU", 0) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 2
    (tmp_path / "seen").mkdir()
    watched = Watched(data, tmp_path / "seen", wrong=4)  # a photo that is done is read no more
    filled(watched, tmp_path / "store", ray_engine(None, 2), resume=True)
    assert told(store) == told(whole)
    filled(watched, tmp_path / "store", ray_engine(None, 2), resume=True)  # nothing is left, nobody is asked
    assert told(store) == told(whole)


@pytest.mark.slow
def test_errors_come_as_the_sentences_of_the_local_engine(address: str, tmp_path: Path) -> None:
    ray = load_ray()
    data = cl.open_set("drawn:6")
    (tmp_path / "seen").mkdir()
    with pytest.raises(RuntimeError, match=r"^the disk is on fire$"):
        filled(Watched(data, tmp_path / "seen", wrong=4), tmp_path / "a", ray_engine(None, 1))
    with pytest.raises(cl.InputError, match=r"^a worker cannot open the model or the data set .*no folder 'photos'"):
        filled(Lost(data), tmp_path / "b", ray_engine(None, 1))
    with pytest.raises(cl.InputError, match=r"unsendable cannot be sent to workers .*it holds an open file"):
        filled(Unsendable(data), tmp_path / "c", ray_engine(None, 1))
    with pytest.raises(cl.InputError, match=r"3 workers need one CPU each, .* has 2 CPUs"):
        filled(data, tmp_path / "d", ray_engine(None, 3))
    with pytest.raises(cl.InputError, match=r"is connected to the Ray cluster at .* already, not to 127.0.0.1:1"):
        next(engine_module._run_on_cluster("127.0.0.1:1", 1, *_task(data)))
    assert ray.is_initialized()  # it was there before


def _task(data: MaskedSet) -> tuple[Any, list[range]]:
    return EmbedTask(small_model(), small_plan(), data, "run", {}), [range(3)]


@pytest.mark.slow
def test_a_photo_that_kills_every_worker_ends_the_run(address: str, tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    data = Watched(cl.open_set("drawn:4"), tmp_path / "seen", deadly=1, deaths=99)
    with pytest.raises(cl.InputError, match=r"workers died 3 times at the photos .* to .*; take a smaller batch"):
        filled(data, tmp_path / "store", ray_engine(None, 1), control=False)
    assert len(data.killed()) == 3


@pytest.mark.slow
def test_the_command_line_prints_one_object_on_a_cluster(address: str, tmp_path: Path) -> None:
    words = ["embed", "--data", "drawn:4", "--json", "--layers", "blocks.2,blocks.4", "--out-dir"]
    here = CliRunner().invoke(app, [*words, str(tmp_path / "local")])
    call = [sys.executable, "-m", "conceptlens", *words, str(tmp_path / "ray"), "--engine", "ray"]
    done = subprocess.run([*call, "--ray-address", address], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == here.exit_code == 0, done.stderr
    assert "Traceback" not in done.stderr
    said, wanted = json.loads(done.stdout), json.loads(here.stdout)
    assert {**said, "seconds": 0, "store": ""} == {**wanted, "seconds": 0, "store": ""}
    assert told(Store(tmp_path / "ray")) == told(Store(tmp_path / "local"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("127.0.0.1:1", 1), "no Ray cluster answers at 127.0.0.1:1"),
        (("no-such-host.invalid:6379", 1), "no Ray cluster answers at no-such-host.invalid:6379"),
        (("ray://127.0.0.1:10001", 1), "is no address of a Ray cluster; expected HOST:PORT"),
        (("127.0.0.1", 1), "is no address of a Ray cluster"),
        ((None, 0), "workers is 0"),
    ],
)
def test_what_cannot_be_is_said_at_once(
    wrong: tuple[str | None, int], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = time.monotonic()
    assert ray_connection.CONNECT_SECONDS < 10
    monkeypatch.setattr(ray_connection, "CONNECT_SECONDS", 0.5)
    with pytest.raises(cl.InputError, match=said):
        ray_engine(*wrong)
    assert time.monotonic() - start < 5


def test_a_web_server_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    import http.server
    import threading

    monkeypatch.setattr(ray_connection, "CONNECT_SECONDS", 0.5)

    class Silent(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(cl.InputError, match="no Ray cluster answers"):
                ray_engine(f"127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError(f"No module named '{name}'", name="ray")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        cl.InputError, match=r'^the engine ray needs Ray; install it with: pip install "conceptlens\[ray\]"$'
    ):
        ray_engine(None, 1)


def test_chunks_are_even_and_complete() -> None:
    for count, workers in ((1, 1), (7, 2), (40, 2), (1000, 8), (100_000, 64)):
        batches = [range(3 * place, 3 * place + 3) for place in range(count)]
        chunks = engine_module._chunks(batches, workers)
        ends = [
            range(*pair)
            for chunk in chunks
            for pair in zip(*(chunk[n].to_pylist() for n in ("start", "stop")), strict=True)
        ]
        assert ends == batches
        assert len(chunks) <= engine_module.MAX_CHUNKS
        assert len(chunks) >= min(count, 4 * workers)


def test_weights_are_sent_from_the_cpu_and_the_module_stays() -> None:
    model = small_model()
    model.module.register_buffer("there", torch.zeros(2, device="meta"))  # stands for another device
    kept = dict(model.module.named_parameters())
    task = EmbedTask(model, small_plan(), cl.open_set("drawn:4"), "run", {})
    with pytest.raises(cl.InputError, match=r"cannot be sent to workers .*has weights without values"):
        sent_task(task, 1)
    assert all(kept[name] is value for name, value in model.module.named_parameters())
