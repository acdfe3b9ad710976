"""A metric of one's own in the table of an evaluation: rows, summary, files, page, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pyarrow import parquet
from torch import Tensor
from torch.nn.functional import interpolate

import conceptlens as cl
from conceptlens.io.errors import Failure
from conceptlens.localization.evaluate_localization import evaluate_localization
from conceptlens.localization.localization_outputs import evaluation_json, print_summary, write_evaluation
from conceptlens.localization.localization_run import LocalizationRun
from conceptlens.localization.methods import MethodContext, build_methods
from conceptlens.localization.result_rows import Row, row_schema, write_rows
from conceptlens.localization.summary import LocalizationSummary, summarise
from conceptlens.metrics import MAP_MASK_METRICS, Metric, Score
from planted_words import OnlyColours, planted_model


class NothingLeftOut(OnlyColours):
    excluded: ClassVar[dict[str, str]] = {}


DATA = NothingLeftOut(9)
METHODS = build_methods(["ce_fam", "centre"], MethodContext(planted_model(), DATA.concepts))


def outside(maps: Tensor, masks: Tensor, ignored: Tensor | None) -> Score:
    """The mean of the map's positive part outside the mask, where the mask covers less than a tenth."""
    large = interpolate(maps.float().relu(), masks.shape[2:], mode="bilinear")
    free = ~masks if ignored is None else ~masks & ~ignored[:, None]
    values = (large * free).sum((2, 3)) / free.sum((2, 3)).clamp_min(1)
    small = masks.float().mean((2, 3)) < 0.1
    return Score(torch.where(small, values, 0).double(), small)


OUTSIDE = Metric("outside", "mean outside", outside, False, 0, math.inf, "that of any map", "this test")


def rows_of(**settings: Any) -> list[Row]:
    found = list(evaluate_localization(DATA, METHODS, **settings))
    assert not any(isinstance(one, Failure) for one in found)
    return [row for one in found if isinstance(one, tuple) for row in one]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return rows_of(metrics=[OUTSIDE])


@pytest.fixture
def summary(rows: list[Row]) -> LocalizationSummary:
    return summarise(rows, "centre", 50, [OUTSIDE])


def test_rows_hold_it_beside_the_others(rows: list[Row]) -> None:
    plain = rows_of()
    assert [{k: v for k, v in row.scores.items() if k != "outside"} for row in rows] == [row.scores for row in plain]
    for row in rows:
        assert list(row.scores) == [*MAP_MASK_METRICS, "outside"]
        assert (row.scores["outside"] is not None) == (row.mask_share < 0.1)
        assert set(row.wrong_scores) == set(row.scores)
    assert any(row.scores["outside"] is None for row in rows)
    assert len({row.scores["outside"] for row in rows}) > 5


def test_the_summary_means_it_where_it_applies(rows: list[Row], summary: LocalizationSummary) -> None:
    values = [row.scores["outside"] for row in rows if row.method == "ce_fam"]
    known = [value for value in values if value is not None]
    line = summary.methods[0]
    assert line.scores["all"]["outside"].mean == pytest.approx(sum(known) / len(known))
    assert line.scores["all"]["outside"].count == len(known) < len(values)
    assert line.minus_reference["all"]["outside"].count == len(known)
    means = {one.method: one.scores["all"]["outside"].mean for one in summary.methods}
    assert summary.best("all", "outside") == min(means, key=lambda name: means[name])  # lower is better
    assert list(summary.metrics) == [*MAP_MASK_METRICS, "outside"]


def test_files_and_page_carry_direction_range_and_chance(
    rows: list[Row], summary: LocalizationSummary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = LocalizationRun(DATA, METHODS, rows, (), summary, {"data": "colours", "model": "planted", "settings": {}})
    page, numbers, table = write_evaluation(tmp_path, run)
    told = json.loads(numbers.read_text())["metrics"][-1]
    assert told == evaluation_json(run)["metrics"][-1]
    assert told == {
        "name": "outside",
        "title": "mean outside",
        "higher_is_better": False,
        "range": [0, None],
        "chance": "that of any map",
        "source": "this test",
        "needs": [],
    }
    read = parquet.read_table(table)
    assert [line["outside"] for line in read.to_pylist()] == [row.scores["outside"] for row in rows]
    for name in ("outside", "wrong_outside"):
        assert json.loads(read.schema.field(name).metadata[b"metric"]) == told
    text = page.read_text()
    assert "Higher is better in every column but mean outside." in text
    assert "From 0 to inf, lower is better; this test." in text
    assert "that of any map" in text
    print_summary(summary)
    assert "outside" in capsys.readouterr().out


def test_a_metric_that_applies_nowhere_has_no_number(rows: list[Row], tmp_path: Path) -> None:
    def nothing(maps: Tensor, masks: Tensor, ignored: Tensor | None) -> Score:
        return Score(torch.zeros(maps.shape[:2]), torch.zeros(maps.shape[:2], dtype=torch.bool))

    metric = dataclasses.replace(OUTSIDE, compute=nothing)
    found = rows_of(metrics=[metric])
    summary = summarise(found, None, 20, [metric])
    assert all("outside" not in group for line in summary.methods for group in line.scores.values())
    assert summary.best("all", "outside") is None
    run = LocalizationRun(DATA, METHODS, found, (), summary, {"data": "colours", "model": "planted", "settings": {}})
    page, *_ = write_evaluation(tmp_path, run)
    assert '<td class="figure none" data-name="mean outside">–</td>' in page.read_text()
    print_summary(summary)


def measured(compute: Any, **about: Any) -> Any:
    return lambda: rows_of(metrics=[dataclasses.replace(OUTSIDE, compute=compute, **about)])


def named(name: Any) -> Any:
    return lambda: rows_of(metrics=[dataclasses.replace(OUTSIDE, name=name)])


REFUSED = {
    "not a list": (lambda: rows_of(metrics=OUTSIDE), "metrics are given as Metric; expected a list"),
    "a text": (lambda: rows_of(metrics="iou"), "metrics are given as str; expected a list"),
    "a function": (lambda: rows_of(metrics=[outside]), "metrics hold a function; expected a list"),
    "one that there is": (named("iou"), "there is a metric 'iou' already"),
    "twice": (lambda: rows_of(metrics=[OUTSIDE, OUTSIDE]), "there is a metric 'outside' already"),
    "a column": (named("photo"), "'photo' is a column of the table of rows"),
    "a wrong column": (named("wrong_x"), "'wrong_x' is a column of the table of rows"),
    "no name": (named(" "), "a metric needs a name"),
    "no text": (named(3), "a metric's name is given as int"),
    "no function": (measured("iou"), "compute of metric 'outside' is a str"),
    "no range": (measured(outside, low=1, high=1), "the range of metric 'outside' is 1 to 1"),
    "rows of others": (lambda: summarise(rows_of(metrics=[OUTSIDE])), "rows hold scores of outside; give these"),
    "others than rows": (lambda: summarise(rows_of(), metrics=[OUTSIDE]), "no row has a score of outside"),
    "a file of others": (lambda: write_rows(rows_of(metrics=[OUTSIDE]), "x.parquet"), "rows hold scores of outside"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_what_to_do(case: str) -> None:
    call, said = REFUSED[case]
    with pytest.raises(cl.InputError, match=said):
        call()


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        (lambda maps, masks, ignored: 0.5, "metric 'outside' returned a float; expected a Score"),
        (
            lambda maps, masks, ignored: Score(torch.zeros(1), torch.ones(1, dtype=torch.bool)),
            "expected one value for each",
        ),
        (
            lambda maps, masks, ignored: Score(torch.full(maps.shape[:2], -2.0), torch.ones(maps.shape[:2]).bool()),
            "metric 'outside' gave values from -2 to -2; its range is said to be 0 to inf",
        ),
    ],
)
def test_a_score_that_is_none_fails_each_photo_with_a_sentence(compute: Any, said: str) -> None:
    metric = dataclasses.replace(OUTSIDE, compute=compute)
    first = next(evaluate_localization(DATA, METHODS, metrics=[metric]))
    assert isinstance(first, Failure)
    assert said in first.reason


def test_the_schema_without_ones_own_is_as_it_was() -> None:
    names = row_schema().names
    assert len(names) == 10 + 2 * len(MAP_MASK_METRICS)
    assert row_schema([OUTSIDE]).names == [
        *names[: 9 + len(MAP_MASK_METRICS)],
        "outside",
        *names[9 + len(MAP_MASK_METRICS) :],
        "wrong_outside",
    ]


def test_what_a_metric_needs_is_said_in_known_words() -> None:
    given = ("inside", "inside", cl.metrics.pointing_energy, True, 0, 1, "r", "this test")
    assert cl.metrics.Metric(*given, ("map", "mask")).described()["needs"] == ["map", "mask"]
    with pytest.raises(cl.InputError, match=r"is said to need 'masks'; expected a tuple of words; .*mask"):
        cl.metrics.Metric(*given, ("map", "masks"))
    with pytest.raises(cl.InputError, match="expected a tuple of words"):
        cl.metrics.Metric(*given, "map")  # pyright: ignore[reportArgumentType]
