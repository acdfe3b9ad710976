"""The benchmark for a GPU runs whole at small size, and keeps what it found where a part fails or time runs out."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
NETWORKS = ("vit_b16", "resnet50", "convnext_b")
SIZES = ("256x28", "512x14", "1280x10")
PARTS = [
    *(f"maps {name}" for name in NETWORKS), *(f"ce_fam {name}" for name in NETWORKS),
    *(f"loce {size}" for size in SIZES),
    *(f"embed {name}" for name in NETWORKS), *(f"options {name}" for name in NETWORKS),
]  # fmt: skip


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu
    import gpu_part

    return gpu, gpu_part


@pytest.mark.slow
@pytest.mark.process
def test_every_part_has_figures_at_small_size() -> None:
    words = ["--json", "--device", "cpu", "--small"]
    call = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *words]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert sorted(result) == ["details", "figures", "name"]
    parts = result["details"]["parts"]
    assert [part["name"] for part in parts] == PARTS
    for part in parts:
        assert part["error"] is None, part
        assert part["figures"], part
        assert part["rows"], part
        assert not part["skipped"], part
        assert not part["failed"], part
    figures = result["figures"]
    assert figures == {name: value for part in parts for name, value in part["figures"].items()}
    for name in NETWORKS:
        for peer in ("grad_cam", "torchcam", *(("captum",) if name != "vit_b16" else ())):
            assert figures[f"{name}_difference_{peer}_2"] < 1e-4
        assert figures[f"ce_fam_{name}_difference"] < 1e-4
        assert figures[f"{name}_channels_last_difference"] < 1e-4
        assert 0 < figures[f"{name}_bfloat16_difference"] < 0.1
        assert figures[f"embed_{name}_photos_per_second"] > 0
    assert min(figures[f"loce_{size}_paper_cosine"] for size in SIZES) > 0.999
    setting = result["details"]["setting"]
    assert setting["command"] == "python benchmarks/gpu.py --json --device cpu --minutes 8 --small"
    assert setting["versions"]["captum"]


def test_a_failing_part_leaves_the_others_and_ends_with_one(
    modules: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu, _ = modules

    def fails(part: Any) -> None:
        part.figures["half"] = 1.0
        raise ValueError("no such layer")

    def strange(part: Any) -> None:
        part.figures |= {"sound": 2.0, "strange": float("nan")}

    plans = [("first", fails, 1.0), ("second", strange, 1.0), ("third", lambda part: part.figures.update(last=3.0), 1)]
    monkeypatch.setattr(gpu, "planned", lambda _settings: plans)
    monkeypatch.setattr(gpu, "prepare", lambda _device: None)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--json", "--device", "cpu", "--small"])
    with pytest.raises(SystemExit) as stopped:
        gpu.main()
    assert stopped.value.code == 1
    result = json.loads(capsys.readouterr().out)
    assert result["figures"] == {"half": 1.0, "sound": 2.0, "last": 3.0}
    errors = [part["error"] for part in result["details"]["parts"]]
    assert errors == ["ValueError: no such layer", "measured; not finite: strange", None]


def test_what_time_and_memory_left_out_is_said(modules: Any) -> None:
    gpu, gpu_part = modules

    def late(part: Any) -> None:
        part.figures["early"] = 1.0
        time.sleep(600)
        part.figures["never"] = 1.0

    def full(part: Any) -> None:
        with part.as_far_as_memory_goes("64 questions"):
            raise torch.OutOfMemoryError("tried to allocate 900 GiB")
        with part.peer("captum"):
            raise RuntimeError("no hooks")
        assert not part.has_time("eight questions", 1e6)
        part.figures["rest"] = 1.0

    parts = gpu.run([("late", late, 1.0), ("full", full, 999.0)], time.perf_counter() + 500)
    assert [part.figures for part in parts] == [{"early": 1.0}, {"rest": 1.0}]
    assert not any(part.error for part in parts)
    assert parts[0].skipped[0]["what"] == "the rest of late"
    assert [one["what"] for one in parts[1].skipped] == ["64 questions", "eight questions"]
    assert "900 GiB" in parts[1].skipped[0]["reason"]
    assert parts[1].failed == [{"what": "captum", "reason": "no hooks"}]
    (missed,) = gpu.run([("missed", full, 1.0)], time.perf_counter())
    assert missed.skipped == [{"what": "missed", "reason": "the time was over before it began"}]
    assert gpu_part.GpuSettings().questions == (1, 8, 64)
