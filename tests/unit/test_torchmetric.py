"""Any metric as one of torchmetrics: batches, processes, settings, and what is said where it is absent."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import conceptlens as cl
from conceptlens.metrics import FAITHFULNESS_METRICS, MAP_MASK_METRICS, Metric, Score, ScoredImages, as_torchmetric

N = 8


@pytest.fixture
def torchmetrics() -> Any:
    return pytest.importorskip("torchmetrics")


@pytest.fixture
def maps() -> Tensor:
    return torch.rand(N, 2, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def masks() -> Tensor:
    found = torch.rand(N, 2, 20, 20, generator=torch.Generator().manual_seed(1)) > 0.7
    found[3] = False  # nothing to measure
    return found


@pytest.mark.parametrize("name", MAP_MASK_METRICS)
@pytest.mark.parametrize("batches", [(N,), (1, 3, 4), (4, 4)])
def test_the_mean_does_not_depend_on_the_batches(
    name: str, batches: tuple[int, ...], maps: Tensor, masks: Tensor, torchmetrics: Any
) -> None:
    metric = as_torchmetric(MAP_MASK_METRICS[name])
    assert isinstance(metric, torchmetrics.Metric)
    for part, truth in zip(maps.split(batches), masks.split(batches), strict=True):
        metric.update(part, truth)
    expected = MAP_MASK_METRICS[name].compute(maps, masks)
    assert float(metric.compute()) == pytest.approx(expected.mean(), rel=1e-6)
    assert int(metric.count) == expected.count == 2 * (N - 1)
    metric.reset()
    assert int(metric.count) == 0
    assert metric.higher_is_better
    assert (metric.plot_lower_bound, metric.plot_upper_bound) == (MAP_MASK_METRICS[name].low, 1)


def test_states_of_processes_are_added(maps: Tensor, masks: Tensor, torchmetrics: Any) -> None:
    first, second = (as_torchmetric(MAP_MASK_METRICS["iou"]) for _ in range(2))
    first.update(maps[:2], masks[:2])
    second.update(maps[2:], masks[2:])
    states = [{"total": one.total, "count": one.count} for one in (first, second)]
    first.merge_state(states[1])
    assert float(first.compute()) == pytest.approx(MAP_MASK_METRICS["iou"].compute(maps, masks).mean())
    gathered = as_torchmetric(MAP_MASK_METRICS["iou"])
    gathered.distributed_available_fn = lambda: True
    gathered.dist_sync_fn = lambda value, group=None: [value, value]
    gathered.update(maps, masks)
    gathered.sync(dist_sync_fn=gathered.dist_sync_fn, distributed_available=lambda: True)
    assert int(gathered.count) == 2 * 2 * (N - 1)  # two processes that hold the same
    gathered.unsync()
    assert int(gathered.count) == 2 * (N - 1)


@pytest.mark.process
@pytest.mark.slow
def test_two_processes_give_the_mean_over_both_of_their_parts(torchmetrics: Any, tmp_path: Path) -> None:
    script = Path(__file__).parent / "torchmetric_process.py"
    calls = [[sys.executable, str(script), str(rank), str(tmp_path / "meeting")] for rank in range(2)]
    running = [subprocess.Popen(call, stdout=subprocess.PIPE, text=True) for call in calls]
    told = [one.communicate(timeout=120)[0] for one in running]
    assert [one.returncode for one in running] == [0, 0]
    for together, whole in (map(float, line.split()) for line in told):
        assert together == pytest.approx(whole)


def test_it_is_copied_pickled_collected_and_tracked(maps: Tensor, masks: Tensor, torchmetrics: Any) -> None:
    metric = as_torchmetric(MAP_MASK_METRICS["iou"])
    metric.update(maps, masks)
    sent = pickle.loads(pickle.dumps(metric))  # noqa: S301 - what was just pickled, as a process is given it
    for other in (copy.deepcopy(metric), sent, metric.clone()):
        assert float(other.compute()) == float(metric.compute())
    several = torchmetrics.MetricCollection({name: as_torchmetric(MAP_MASK_METRICS[name]) for name in ("iou", "hit")})
    step = several(maps, masks)
    assert float(step["iou"]) == float(several.compute()["iou"]) == pytest.approx(float(metric.compute()))
    assert set(step) == {"iou", "hit"}
    tracker = torchmetrics.MetricTracker(as_torchmetric(MAP_MASK_METRICS["iou"]))
    assert tracker.maximize


def test_settings_and_a_network(maps: Tensor, torchmetrics: Any) -> None:
    weights = torch.rand(20, 20)

    def share(variants: Tensor, rows: Tensor) -> Tensor:
        kept = ((variants.mean(1) * weights).sum((1, 2)) / weights.sum())[:, None]
        return torch.cat([kept, 1 - kept], 1)

    scored = ScoredImages(torch.rand(N, 3, 20, 20), share)
    deletion = FAITHFULNESS_METRICS["deletion"]
    metric = as_torchmetric(deletion, fill="blur")
    metric.update(maps, scored)
    expected = deletion.compute(maps, scored, fill="blur").mean()
    assert float(metric.compute()) == pytest.approx(expected)
    assert expected != pytest.approx(deletion.compute(maps, scored, fill="mean").mean())
    assert not metric.higher_is_better


def test_where_nothing_was_measured_there_is_no_number(maps: Tensor, torchmetrics: Any) -> None:
    metric = as_torchmetric(MAP_MASK_METRICS["iou"])
    metric.update(maps, torch.zeros(N, 20, 20, dtype=torch.bool))
    assert bool(metric.compute().isnan())


def test_a_metric_of_ones_own_is_checked(maps: Tensor, torchmetrics: Any) -> None:
    def two(explained: Tensor) -> Score:
        return Score(torch.full((N, 1), 2.0), torch.ones(N, 1, dtype=torch.bool))

    metric = as_torchmetric(Metric("two", "two", two, True, 0, 1, "0", "this test"))
    with pytest.raises(cl.InputError, match="metric 'two' gave values from 2 to 2; its range is said to be 0 to 1"):
        metric.update(maps)
    lies = as_torchmetric(Metric("lies", "lies", lambda explained: 3, True, 0, 1, "0", "this test"))  # pyright: ignore
    with pytest.raises(cl.InputTypeError, match="metric 'lies' returned a int; expected a Score"):
        lies.update(maps)


def test_without_torchmetrics_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "conceptlens.metrics.mean_score", raising=False)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(cl.InputError, match=r"as_torchmetric needs torchmetrics: pip install 'conceptlens\["):
        as_torchmetric(MAP_MASK_METRICS["iou"])


def test_something_else_than_a_metric_is_refused() -> None:
    with pytest.raises(cl.InputTypeError, match=r"a str was given as the metric; expected a cl\.metrics\.Metric"):
        as_torchmetric("iou")  # pyright: ignore
