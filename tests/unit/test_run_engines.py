"""The engines of runs: the same results wherever they are computed, whatever becomes of the workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from run_tasks import CannotBeOpened, CannotBeSent, EndsItsWorker, Squares, Tied, WithNetwork
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.runs import process_engine as engine_module
from conceptlens.runs import sent_task as sent_module
from conceptlens.runs.local_engine import N_READ_AHEAD, local_engine, read_ahead
from conceptlens.runs.process_engine import process_engine
from conceptlens.runs.sent_task import SentTask, sent_task

PROGRAM = Path(__file__).with_name("run_tasks.py")


def squares(results: list[dict[str, Any]]) -> list[int]:
    return sorted(number for one in results for number in one["squares"])


class TestLocal:
    def test_results_come_in_the_order_of_the_batches(self, tmp_path: Path) -> None:
        task = Squares(tmp_path)
        assert [one["squares"] for one in local_engine(task, task.batches)][:2] == [[0, 1], [4, 9]]
        assert task.processes() == [os.getpid()]
        assert list(local_engine(task, [])) == []

    def test_the_next_batches_are_read_meanwhile_and_no_more(self) -> None:
        read: list[int] = []
        batches = [range(start, start + 1) for start in range(9)]
        ahead = read_ahead(lambda batch: read.append(batch.start) or batch, batches)
        assert next(ahead) == range(1)
        wait_for(lambda: len(read) == 1 + N_READ_AHEAD)
        time.sleep(0.05)
        assert read == [0, 1, 2]
        ahead.close()  # pyright: ignore
        assert read == [0, 1, 2]

    def test_an_error_of_reading_or_computing_ends_the_run(self, tmp_path: Path) -> None:
        task = Squares(tmp_path, wrong=4)
        results = local_engine(task, task.batches)
        assert squares([next(results), next(results)]) == [0, 1, 4, 9]
        with pytest.raises(OSError, match="the disk is on fire"):
            next(results)


def wait_for(true: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    assert true()


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.process
class TestProcesses:
    def test_a_killed_worker_is_replaced_and_its_batches_are_computed_again(
        self, tmp_path: Path, four_threads: None, capfd: pytest.CaptureFixture[str]
    ) -> None:
        task = Squares(tmp_path, 40, deadly=6, seconds=0.2)
        found = list(process_engine(2)(task, task.batches))
        assert squares(found) == [index**2 for index in range(40)]
        assert len(task.killed()) == 1
        assert os.getpid() not in task.processes()
        assert {one["threads"] for one in found} == {(2, "2")}  # half of four each
        said = capfd.readouterr()
        assert "a module prints" in said.err
        assert said.out == ""
        wait_for(lambda: not any(alive(process) for process in task.processes()))

    def test_an_error_of_a_worker_is_raised_here(self, tmp_path: Path) -> None:
        task = Squares(tmp_path, wrong=4)
        with pytest.raises(RuntimeError, match=r"^PeculiarError: the disk is on fire \(3\)$"):
            list(process_engine(1)(task, task.batches))
        with pytest.raises(
            cl.InputError, match=r"^a worker cannot open the model or the data set .*no folder 'photos'"
        ):
            list(process_engine(1)(CannotBeOpened(tmp_path), task.batches))

    def test_photos_that_kill_every_worker_end_the_run(self, tmp_path: Path) -> None:
        task = Squares(tmp_path, 4, deadly=2, deaths=99)
        with pytest.raises(cl.InputError, match=r"workers died 3 times at the photos photo \d to photo 3, as they do"):
            list(process_engine(1)(task, task.batches))
        assert len(task.killed()) == 3

    def test_workers_that_end_before_they_are_at_work_end_the_run(self, tmp_path: Path) -> None:
        with pytest.raises(cl.InputError, match=r"3 worker processes ended with code 3 before they were at work"):
            list(process_engine(1)(EndsItsWorker(tmp_path), [range(2)]))

    def test_a_run_that_is_left_ends_its_workers(self, tmp_path: Path) -> None:
        task = Squares(tmp_path, 400, seconds=0.1)
        results = process_engine(2)(task, task.batches)
        next(results)
        results.close()  # pyright: ignore
        assert task.processes()
        assert not any(alive(process) for process in task.processes())

    def test_workers_end_where_the_process_that_began_the_run_is_killed(self, tmp_path: Path) -> None:
        with subprocess.Popen([sys.executable, str(PROGRAM), str(tmp_path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        task = Squares(tmp_path)
        assert task.processes()
        wait_for(lambda: not any(alive(process) for process in task.processes()))


def alive(process: int) -> bool:
    """Say whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_cannot_be_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(cl.InputError, match="workers is 0"):
        process_engine(0)
    with pytest.raises(cl.InputError, match=r"squares or numbers cannot be sent to workers .*it holds an open file"):
        list(process_engine(2)(CannotBeSent(tmp_path), [range(2)]))
    assert list(process_engine(2)(CannotBeSent(tmp_path), [])) == []
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(cl.InputError, match="need Linux or macOS"):
        process_engine(2)


def test_at_the_end_of_a_run_batches_are_shared_out_one_by_one() -> None:
    from collections import deque

    class Idle:
        ready = True

        def __init__(self) -> None:
            self.waiting: list[range] = []

        def give(self, batch: range) -> None:
            self.waiting.append(batch)

    crew: Any = [Idle(), Idle()]
    left = deque(range(start, start + 1) for start in range(9))
    engine_module._share_out(crew, left)
    assert [len(one.waiting) for one in crew] == [2, 1]
    assert len(left) == 6  # no more than the workers may have at once: each gets one when it has none
    crew[1].waiting.clear()
    engine_module._share_out(crew, left)
    assert [len(one.waiting) for one in crew] == [2, 1]
    crew[0].ready = False
    crew[1].waiting.clear()
    engine_module._share_out(crew, left)
    assert [len(one.waiting) for one in crew] == [2, 1]


def test_workers_take_one_gpu_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [engine_module._device("cuda:1", place) for place in range(4)] == ["cuda:1", "cuda:2", "cuda:0", "cuda:1"]
    assert engine_module._device("cpu", 1) == "cpu"


def opened(sent: SentTask, device: str) -> nn.Module:
    folder, threads = Path.cwd(), torch.get_num_threads()
    task: Any = sent.open(device)
    assert (Path.cwd(), torch.get_num_threads()) == (folder, threads)
    return task.network


def check_network(there: nn.Module, here: nn.Module, device: str) -> None:
    values = torch.randn(2, 3)
    assert torch.allclose(there(values.to(device)).cpu(), here(values.to(here.shift.device)).cpu(), atol=1e-6)
    assert there.second.weight is there.first.weight
    assert isinstance(there.first.weight, nn.Parameter)
    assert (there.first.weight.requires_grad, there.first.bias.requires_grad) == (True, False)
    assert {tensor.device.type for tensor in there.state_dict().values()} == {torch.device(device).type}


def test_tensors_that_are_away_are_sent_beside_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Tied()
    task = WithNetwork(tmp_path, network=network)
    check_network(opened(sent_task(task, torch.get_num_threads()), "cpu"), network, "cpu")
    monkeypatch.setattr(sent_module, "_away", lambda value: isinstance(value, Tensor))  # as if on another device
    sent = sent_task(task, torch.get_num_threads())
    assert len(sent.tensors) == 4  # the shared weight once
    check_network(opened(sent, "cpu"), network, "cpu")


def test_the_task_stays_as_it_is_where_it_cannot_be_sent(tmp_path: Path) -> None:
    network = Tied()
    network.register_buffer("there", torch.zeros(2, device="meta"))  # what is on `meta` has no values to send
    kept = dict(network.named_parameters())
    with pytest.raises(cl.InputError, match=r"squares or numbers cannot be sent to workers \(NotImplementedError"):
        sent_task(WithNetwork(tmp_path, network=network), 1)
    assert all(kept[name] is value for name, value in network.named_parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_weights_on_cuda_travel_by_way_of_the_cpu(tmp_path: Path) -> None:
    network = Tied().cuda()
    sent = sent_task(WithNetwork(tmp_path, network=network), torch.get_num_threads())
    assert sent.device == "cuda:0"
    assert {one.values.device.type for one in sent.tensors} == {"cpu"}
    check_network(opened(sent, "cuda:0"), network, "cuda")
    check_network(opened(replace(sent, device="cpu"), "cpu"), network, "cpu")
    task = WithNetwork(tmp_path, network=network)
    assert squares(list(process_engine(2)(task, task.batches))) == [index**2 for index in range(12)]
