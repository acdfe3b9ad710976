"""What each step of competing regions is worth: localisation on a data set with masks, one step more a row.

`python benchmarks/localization.py [--json] [--data coco_panoptic] [--split train2017] [--every 2] [--branch FOLDER]`.
The steps were chosen on the train photos, and this table is of train photos too; `conceptlens evaluate localization`
reports on others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

import conceptlens as cl
from conceptlens.concept_regions.competition import FINE
from conceptlens.concept_regions.translator import Translator
from conceptlens.data.masked_set import MaskedPhoto, MaskedSet
from conceptlens.io.errors import Failure
from conceptlens.localization.evaluate_localization import evaluate_localization
from conceptlens.localization.methods import Method, MethodContext, build_methods
from conceptlens.localization.result_rows import Row
from conceptlens.metrics import bootstrap_difference, bootstrap_mean
from run_record import run_record

DEFAULT = cl.Competition()
PLAIN = replace(DEFAULT, input_scales=(1.0,), centering=1.0, propagation_steps=0)
STEPS: dict[str, cl.Competition] = {
    "competition with the vocabulary": PLAIN,
    "+ flow to cells alike": replace(PLAIN, propagation_steps=DEFAULT.propagation_steps),
    "+ less of the mean cell taken away": replace(DEFAULT, input_scales=(1.0,)),
    "1.3 times the input size (competing)": DEFAULT,
    "1, 2 and 4 times": replace(FINE, mirrored=False),
    "+ mirrored (fine)": FINE,
}
METRICS = ("ranked_area", "ranked_area_corrected", "hit", "pointing_energy")


@dataclass(frozen=True, eq=False)
class Every:
    """Every n-th photo of a set."""

    of: MaskedSet
    step: int

    @property
    def name(self) -> str:
        return self.of.name

    @property
    def concepts(self) -> Any:
        return self.of.concepts

    @property
    def names(self) -> list[str]:
        return self.of.names[:: self.step]

    def __len__(self) -> int:
        return -(-len(self.of) // self.step)

    def __iter__(self) -> Iterator[MaskedPhoto]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> MaskedPhoto:
        return self.of[place * self.step]


def main() -> None:
    """Evaluate every step on the same photos, then print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--data", default="coco_panoptic")
    parser.add_argument("--split", default="train2017")
    parser.add_argument("--every", type=int, default=2, help="take every n-th photo")
    parser.add_argument("--branch", help="a folder made by conceptlens fit ce-fam")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = Every(cl.open_set(asked.data, asked.split), asked.every)
    found = table(
        [rows for rows in evaluate_localization(data, methods(asked.branch, data)) if not isinstance(rows, Failure)]
    )
    words = [f"--data {asked.data} --split {asked.split} --every {asked.every}"]
    command = " ".join(["python benchmarks/localization.py --json", *words, *(["--branch"] if asked.branch else [])])
    setting = {**run_record(command=command), "photos": len(data)}
    result = {"name": "localization", "steps": found, "setting": setting}
    print(json.dumps(result, indent=2)) if asked.json else show(found)


def methods(branch: str | None, data: Every) -> dict[str, Method]:
    """Return the published region, each step of the competition, and where a branch is given the last with it."""
    model = cl.load_model(crop_mode="squash")
    made = build_methods(["grad_cam", "ce_fam"], MethodContext(model, data.concepts))
    for name, how in STEPS.items():
        made[name] = lambda photo, concepts, how=how: cl.compete(model.observe(photo), concepts, competition=how)
    if branch is not None:
        translator = Translator.load(branch)
        for name, pairs in {"the same, branch": translator, "the same, both": [model.language, translator]}.items():
            made[name] = lambda photo, concepts, pairs=pairs: cl.compete(
                model.observe(photo, translator.layers), concepts, pairs
            )
    return made


def table(photos: list[tuple[Row, ...]]) -> list[dict[str, Any]]:
    """Return a row of means for every step, with the paired gain over the row before and its 95 % interval."""
    lines, before = [], None
    for name in dict.fromkeys(row.method for rows in photos for row in rows if not row.oracle):
        kept = [
            (place, row) for place, rows in enumerate(photos) for row in rows
            if row.method == name and not row.oracle and row.applies
        ]  # fmt: skip
        images = [place for place, _ in kept]
        values = {metric: [row.scores[metric] or 0.0 for _, row in kept] for metric in METRICS}
        wrong = [row.wrong_scores["ranked_area_corrected"] or 0.0 for _, row in kept]
        own = values["ranked_area_corrected"]
        line: dict[str, Any] = {"step": name, **{m: round(sum(v) / len(v), 3) for m, v in values.items()}}
        line["right_minus_wrong"] = round((sum(own) - sum(wrong)) / len(own), 3)
        for group in sorted({row.group for _, row in kept}):
            part = [value for value, (_, row) in zip(own, kept, strict=True) if row.group == group]
            line[group] = round(sum(part) / len(part), 3)
        line["interval"] = str(bootstrap_mean(own, images))
        line["gain"] = None if before is None else str(bootstrap_difference(own, before, images))
        lines.append(line)
        before = own
    return lines


def show(lines: list[dict[str, Any]]) -> None:
    """Print the steps as a table."""
    from rich.console import Console
    from rich.table import Table

    printed = Table(*lines[0])
    for line in lines:
        printed.add_row(*(str(value) for value in line.values()))
    Console(width=200).print(printed)


if __name__ == "__main__":
    main()
