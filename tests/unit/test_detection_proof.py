"""The map of one detection points into its own box, where another object of its class stands beside it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import conceptlens as cl

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_of_two_alike_each_map_points_into_its_own_box(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from drawn_detector import as_backbone, draw_objects, train_detector

    model = as_backbone(train_detector(seed))
    own, shared, found = 0, 0, 0
    for scene in range(60):
        drawing = draw_objects(5000 + scene, pair=True)
        observation = model.observe(drawing.photo)
        for box in drawing.boxes:
            try:
                target = cl.Detection(box=box, label=drawing.kinds[0], min_score=0.3)
                explained = cl.cam(observation, [target])
            except cl.InputError:
                continue  # the detector missed it
            found += 1
            own += _inside(explained.upsampled()[0, 0], box)
            maximum = cl.cam(observation, cl.MaxScore(drawing.kinds[0]), "grad_cam")
            shared += _inside(maximum.upsampled()[0, 0], box)
    assert found >= 100, "the detector must find what is to be explained"
    assert own / found >= 0.95
    assert shared / found <= 0.7, "the class maximum cannot tell the two apart"
    assert "drawn_detector" in sys.modules


def _inside(values: torch.Tensor, box: tuple[float, ...]) -> bool:
    row, column = divmod(int(values.flatten().argmax()), values.shape[1])
    return box[0] <= column + 0.5 <= box[2] and box[1] <= row + 0.5 <= box[3]


def test_a_missing_reader_of_the_detector_is_skipped_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from detections import coco

    detector = tmp_path / "yolox_nano.onnx"
    assert coco(tmp_path, detector) == {"skipped": "the photos or the detector are not there"}
    detector.write_bytes(b"onnx")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx2torch" else find_spec(name))
    (reason,) = coco(tmp_path, detector).values()
    assert reason.startswith("onnx2torch is not installed")
