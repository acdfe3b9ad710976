"""The committed result of the embedding benchmark is what the page about clusters says and computes with."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "docs" / "results" / "embed.json"
FIGURES = {
    "embed_over_forward", "embed_over_forward_after_scales",
    "embed_over_forward_without_control", "embed_over_forward_without_control_after_scales",
    "embed_over_forward_224", "embed_over_forward_224_after_scales",
    "embed_over_forward_224_without_control", "embed_over_forward_224_without_control_after_scales",
    "bytes_per_embedding", "bytes_per_embedding_lite0", "photos_per_second", "photos_per_core_second",
    "ray_over_local_1_worker", "ray_speedup_2_workers",
}  # fmt: skip


def test_the_committed_result_is_whole_and_names_no_place() -> None:
    text = RESULT.read_text(encoding="utf-8")
    result = json.loads(text)
    assert sorted(result) == ["details", "figures", "name"]
    assert set(result["figures"]) == FIGURES
    assert result["figures"]["bytes_per_embedding"] <= 2500
    assert not any(place in text for place in ("/home/", "/root/", "/tmp/", "/work/"))


def test_the_page_shows_and_computes_with_the_committed_numbers() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    figures, details = result["figures"], result["details"]
    stages, size, engines = details["stages"], details["size"]["lite0"], details["engines"]
    page = (ROOT / "docs" / "how-to" / "cluster.md").read_text(encoding="utf-8")
    taken = [float(number) for number in re.findall(r"^read, embed = ([\d.]+), ([\d.]+)", page, re.M)[0]]
    assert taken == [round(stages["read_ms"] / 1000, 4), round(stages["compute_ms"] / 1000, 4)]
    bytes_ = re.findall(r"^written, per_embedding, per_photo = (\d+), (\d+), (\d+)", page, re.M)[0]
    assert [int(n) for n in bytes_] == [
        stages["written_per_second"], size["bytes_per_embedding"], size["bytes_per_photo"]
    ]  # fmt: skip
    assert f'"COCO train2017": (118_287, {round(stages["embeddings_per_photo"], 1)})' in page
    rates = engines["photos_per_second"]
    for name, shown in (("local", "local engine"), ("ray_1", "Ray with 1 worker")):
        assert re.search(rf"{shown} \| {rates[name]}\b", page)
    assert f"{rates['ray_2']} ({figures['ray_speedup_2_workers']} times 1 worker)" in page
    for size in ("", "_224"):
        whole, plain = (figures[f"embed_over_forward{size}{kind}"] for kind in ("", "_without_control"))
        later = figures[f"embed_over_forward{size}_after_scales"]
        assert f"| {whole}; {later} after the scales; {plain} with `--no-control` |" in page
    assert f"| {figures['bytes_per_embedding']} |" in page
