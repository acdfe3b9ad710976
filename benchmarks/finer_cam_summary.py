"""Tables of what `finer_cam.py` measured: every map against its rule's plain one, with Holm's correction.

`python benchmarks/finer_cam_summary.py ROWS.jsonl ... [--json]`. Differences are paired by photo, with intervals of a
bootstrap over photos. p values are corrected for the comparisons of `FAMILY` on all and on confusable photos of a data
set and part; other columns have none. `asked` is the question that the study was made for, corrected by itself: has
the chosen contrast more than the plain map where classes are confusable, in each data set and by each fill? A photo is
*confusable* where the second class has more than a quarter of the probability of the first, *alike* where the cosine of
the two classes' rows of the classifier is above that of two thirds of the photos.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from conceptlens.statistics.bootstrap import bootstrap_mean
from conceptlens.statistics.multiple_comparisons import holm, paired_p_values
from run_record import run_record

CONFUSABLE = 0.25
ALIKE = 2 / 3
FAMILY = ("RD@5 mean", "RD@10 mean", "RD@5 black", "RD@5 blur", "deletion mean", "box energy")
FAMILY_PHOTOS = ("all", "confusable")
ASKED, ASKED_OF, ASKED_METRICS = "chosen", "grad_cam", ("RD@5 mean", "RD@5 black")
RIVALS = {"": 0, " by weight": 1}
MEASURE = "python benchmarks/finer_cam.py PART DATA --rows ROWS.jsonl"
COMMAND = f"{MEASURE}; python benchmarks/finer_cam_summary.py *.jsonl --json"
Cells = dict[tuple[str, str], np.ndarray]


def asked_for(groups: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return what the chosen contrast has more than the plain map on confusable photos, corrected among themselves."""
    rows, p_values = [], []
    for title, photos in groups.items():
        part, data = title.split(", ")
        if part == ASKED:
            _, _, cells = values_of(photos)
            inside = confusability(photos) > CONFUSABLE
            for metric in ASKED_METRICS:
                less = (cells[f"{ASKED_OF}: {ASKED}", metric] - cells[f"{ASKED_OF}: plain", metric])[inside]
                one = bootstrap_mean(less, np.nonzero(inside)[0].tolist())
                p_values.append(paired_p_values(less[:, None], np.ones((len(less), 1)), n_draws=99_999)[0])
                rows.append({"data": data, "metric": metric, "photos": len(less)})
                rows[-1]["less_plain"] = [one.mean, one.low, one.high]
    corrected = holm(np.array(p_values))
    return [{**row, "p_corrected": float(p)} for row, p in zip(rows, corrected, strict=True)]


def confusability(photos: list[dict[str, Any]]) -> np.ndarray:
    """Return the probability of each photo's second class as a share of that of the first."""
    return np.array([photo["probabilities"][1] / photo["probabilities"][0] for photo in photos])


def values_of(photos: list[dict[str, Any]]) -> tuple[list[str], list[str], Cells]:
    """Return maps, metrics, and a value for each photo: NaN where a photo was not measured so, or nothing applies."""
    found: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.full(len(photos), np.nan))
    for number, photo in enumerate(photos):
        for row in photo["maps"]:
            for key, value in row.items():
                if key.startswith("RD"):
                    for words, column in RIVALS.items():
                        found[row["map"], key + words][number] = value[column]
                elif value is not None and key.startswith(("box", "deletion")):
                    found[row["map"], key][number] = value
    maps = list(dict.fromkeys(one for one, _ in found))
    metrics = list(dict.fromkeys(one for _, one in found))
    return maps, metrics, dict(found)


def compared(photos: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the table of one part and data set."""
    maps, metrics, cells = values_of(photos)
    second = confusability(photos)
    alike = np.array([photo["alike"] for photo in photos])
    bound = float(np.quantile(alike, ALIKE))
    strata = {
        "all": second >= 0,
        "confusable": second > CONFUSABLE,
        "others": second <= CONFUSABLE,
        "alike": alike > bound,
        "unlike": alike <= bound,
    }
    entries: list[dict[str, Any]] = []
    sums: list[np.ndarray] = []
    for name in maps:
        plain = f"{name.split(': ')[0]}: plain"
        for metric in metrics:
            for stratum, inside in list(strata.items())[: 2 if "weight" in metric else None]:
                own = np.where(inside, cells.get((name, metric), np.full(len(photos), np.nan)), np.nan)
                both = ~np.isnan(own) & ~np.isnan(cells[plain, metric])
                entry = {"map": name, "metric": metric, "photos_are": stratum, "photos": int(both.sum())}
                if not both.any():
                    continue
                entry["mean"] = float(own[both].mean())
                if name != plain:
                    less = (own - cells[plain, metric])[both]
                    one = bootstrap_mean(less, np.nonzero(both)[0].tolist())
                    entry["less_plain"] = [one.mean, one.low, one.high]
                    if metric in FAMILY and stratum in FAMILY_PHOTOS:
                        sums.append(np.where(both, own - cells[plain, metric], np.nan))
                        entry["comparison"] = len(sums) - 1
                entries.append(entry)
    together = np.stack(sums, 1)
    corrected = holm(paired_p_values(np.nan_to_num(together), (~np.isnan(together)).astype(float), n_draws=9999))
    for entry in entries:
        if "comparison" in entry:
            entry["p_corrected"] = float(corrected[entry.pop("comparison")])
    gammas = [row["gamma"] for photo in photos for row in photo["maps"] if row["map"] == "grad_cam: chosen"]
    used = {str(g): float(np.mean([one == g for one in gammas])) for g in sorted(set(gammas))}
    return {
        "photos": len(photos),
        "confusable": float(strata["confusable"].mean()),
        "alike_above": bound,
        "gammas_chosen": used,
        "rows": entries,
    }


def _rounded(value: Any) -> Any:
    """Return numbers with five decimals, in all that they lie in."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 5) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="+", help="what finer_cam.py wrote")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args()
    groups: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for file in asked.rows:
        for line in file.read_text().splitlines():
            photo = json.loads(line)
            groups[f"{photo['part']}, {photo['data']}"][photo["row"]] = photo
    taken = [photo.get("seconds") for rows in groups.values() for photo in rows.values()]
    document = {
        **run_record(command=COMMAND),
        "seconds": None if None in taken else round(sum(taken)),  # rows of older runs do not say
        "tables": {k: compared(list(v.values())) for k, v in groups.items()},
        "asked": asked_for({k: list(v.values()) for k, v in groups.items()}),
    }
    if asked.json:
        print(json.dumps(_rounded(document)))
        return
    for title, table in document["tables"].items():
        print(title, f"{table['photos']} photos, {table['confusable']:.0%} confusable", table["gammas_chosen"])
        for entry in table["rows"]:
            less = "" if "less_plain" not in entry else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*entry["less_plain"])
            less += f" p {entry['p_corrected']:.4f}" if "p_corrected" in entry else ""
            print(f"  {entry['map']:45} {entry['metric']:20} {entry['photos_are']:10} {entry['mean']:.3f} {less}")
    for row in document["asked"]:
        less = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*row["less_plain"])
        print(f"asked: {row['data']:10} {row['metric']:12} {row['photos']:4} photos {less} p {row['p_corrected']:.4f}")


if __name__ == "__main__":
    main()
