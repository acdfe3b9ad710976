"""The sparse last layer of a CUB-size bottleneck: ConceptLens beside glm-saga and scikit-learn's SAGA.

`python benchmarks/sparse_head.py [--json] [--quick]` needs `pip install glm-saga==0.1.2 tqdm`. No data: concepts are
drawn. Time is processor time of one thread; see README.md in this folder.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch
from glm_saga.elasticnet import IndexedTensorDataset, elastic_loss, glm_saga
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.utils.data import DataLoader

from conceptlens.bottleneck.sparse.certificate import Penalty, certify
from conceptlens.bottleneck.sparse.sparse_head import Solution, elastic_net, elastic_net_path
from conceptlens.bottleneck.sparse.standardized_rows import read_rows
from measure import growth, seconds
from run_record import run_record

# LF-CBM's for CUB: photos without the grayscale ones, concepts after its filters, lam, alpha, batch, step.
TRAIN, TEST, CONCEPTS, CLASSES = 5990, 5790, 370, 200
LAM, ALPHA, BATCH, RATE = 0.0002, 0.99, 256, 0.1
# Its most epochs, and the length of a step at which glm-saga stops.
MOST_EPOCHS, STOP = 5000, 1e-4
# LF-CBM hands lam over as the largest penalty, and glm-saga divides that by alpha.
PENALTY = Penalty(LAM / ALPHA, ALPHA)
TRAITS, FAMILY, NOISE = 80, 5, 2.0
# Epochs of glm-saga in each round.
ROUNDS, QUICK = (5, 15, 30, 50), (2, 3)
SKLEARN_EPOCHS = 10
REPEATS = 3
PACKAGES = ("conceptlens", "torch", "glm-saga", "scikit-learn")


@dataclass(frozen=True, eq=False)
class Drawn:
    """Z-scored concepts and labels, as the bottleneck of a bird classifier gives them."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    def objective(self, weights: Tensor, bias: Tensor) -> float:
        """Return glm-saga's objective by its own function, in double precision."""
        linear = nn.Linear(CONCEPTS, CLASSES, dtype=torch.double)
        linear.load_state_dict({"weight": weights.double(), "bias": bias.double()})
        with torch.no_grad():
            return float(elastic_loss(linear, self.train.double(), self.train_labels, PENALTY.strength, ALPHA))

    def quality(self, weights: Tensor, bias: Tensor) -> dict[str, float]:
        """Return accuracy on the other photos, NEC as glm-saga counts it, and the gap to the best objective."""
        right = (self.test.double() @ weights.double().T + bias.double()).argmax(1) == self.test_labels
        rows = read_rows(self.train, self.train_labels)
        found = certify(rows, weights.double(), bias.double(), PENALTY)
        return {
            "objective": self.objective(weights, bias),
            "gap": found.gap,
            "accuracy": round(float(right.double().mean()), 4),
            "nec": round(float((weights.abs() > 1e-5).sum()) / CLASSES, 2),
        }


class GlmSaga:
    """glm-saga 0.1.2 called as LF-CBM calls it, epochs at a time: it goes on from its own state."""

    def __init__(self, drawn: Drawn) -> None:
        self.linear = zero_linear()
        data = IndexedTensorDataset(drawn.train, drawn.train_labels)
        self.loader = DataLoader(data, batch_size=BATCH, shuffle=True)
        self.state: dict[str, Tensor] | None = None
        self.stopped = False

    def run(self, epochs: int) -> None:
        said = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(said):
            warnings.simplefilter("ignore")  # its softmax does not name an axis
            found = glm_saga(
                self.linear, self.loader, RATE, epochs, ALPHA, epsilon=1, k=1, do_zero=False, state=self.state,
                metadata={"max_reg": {"nongrouped": LAM}}, n_ex=TRAIN, n_classes=CLASSES,
            )  # fmt: skip
        self.state, self.stopped = found["state"], "did not converge" not in said.getvalue()


class MatrixSaga:
    """The same algorithm with its gradients as products of matrices, not as means of outer products of rows."""

    def __init__(self, drawn: Drawn) -> None:
        self.x, self.labels, self.linear = drawn.train, drawn.train_labels, zero_linear()
        self.table = torch.zeros(TRAIN, CLASSES)
        self.by_weight, self.by_bias = torch.zeros(CLASSES, CONCEPTS), torch.zeros(CLASSES)
        self.generator = torch.Generator().manual_seed(0)
        self.stopped, self.epochs = False, 0

    def run(self, epochs: int) -> None:
        for _ in range(epochs):
            self.epochs += 1
            for batch in torch.randperm(TRAIN, generator=self.generator).split(BATCH):
                if self._step(batch) <= STOP:
                    self.stopped = True
                    return

    @torch.no_grad()
    def _step(self, batch: Tensor) -> float:
        """Take one step, and return how long it was."""
        weight, bias, x = self.linear.weight, self.linear.bias, self.x[batch]
        residual = self.linear(x).softmax(1)
        residual[torch.arange(len(batch)), self.labels[batch]] -= 1
        change = residual - self.table[batch]
        by_weight, by_bias = change.T @ x / len(batch), change.mean(0)
        moved = weight - RATE * (by_weight + self.by_weight)
        limit = RATE * PENALTY.lasso
        moved = (moved - moved.clamp(-limit, limit)) / (1 + RATE * PENALTY.ridge)
        lowered = RATE * (by_bias + self.by_bias)
        length = float(((moved - weight).square().sum() + lowered.square().sum()).sqrt())
        weight.copy_(moved)
        bias.sub_(lowered)
        self.table[batch] = residual
        self.by_weight += by_weight * (len(batch) / TRAIN)
        self.by_bias += by_bias * (len(batch) / TRAIN)
        return length


def main() -> None:
    """Run all in turn, then print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--quick", action="store_true", help="5 epochs of glm-saga instead of 100, and no path")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    drawn = draw()
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        grown = {name: pool.submit(megabytes, name).result() for name in ("ours", "glm_saga")}
    details = race(drawn, QUICK if asked.quick else ROUNDS) | {"megabytes": grown}
    details |= {} if asked.quick else {"matrix_saga_to_its_end": to_the_end(drawn), "path": walk(drawn)}
    command = ["python", "benchmarks/sparse_head.py", "--json", *(["--quick"] if asked.quick else [])]
    details["setting"] = run_record(PACKAGES, " ".join(command), threads=1)
    whole = {"name": "sparse_head", "figures": figures(details), "details": details}
    if asked.json:
        print(json.dumps(whole, indent=2))
    else:
        show(whole)


def draw() -> Drawn:
    """Return concepts that are mixtures of fewer traits; a class has a signature of them, near those of its family.

    The noise is such that a linear classifier is right about as often as on CUB.
    """
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(CONCEPTS, TRAITS, generator=generator) / TRAITS**0.5
    families = torch.randn(CLASSES // FAMILY, TRAITS, generator=generator).repeat_interleave(FAMILY, 0)
    signatures = families + 0.7 * torch.randn(CLASSES, TRAITS, generator=generator)
    labels = torch.arange(TRAIN + TEST) % CLASSES
    traits = signatures[labels] + NOISE * torch.randn(TRAIN + TEST, TRAITS, generator=generator)
    scores = traits @ mixing.T + 0.5 * torch.randn(TRAIN + TEST, CONCEPTS, generator=generator)
    train = scores[:TRAIN]
    scores = (scores - train.mean(0)) / train.std(0)
    return Drawn(scores[:TRAIN], labels[:TRAIN], scores[TRAIN:], labels[TRAIN:])


def zero_linear() -> nn.Linear:
    """Return a linear layer of zeros, where LF-CBM begins."""
    linear = nn.Linear(CONCEPTS, CLASSES)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def ours(drawn: Drawn, max_steps: int = 2000) -> Solution:
    """Solve from the beginning: z-scores, steps, certificate."""
    return elastic_net(read_rows(drawn.train, drawn.train_labels), PENALTY.strength, ALPHA, max_steps=max_steps)


def until(drawn: Drawn, objective: float, least: int = 1) -> tuple[int, float]:
    """Return the fewest of our steps that reach an objective, and the median time of a solve with so many."""
    steps = least
    while True:
        found = ours(drawn, steps)
        if drawn.objective(found.weights, found.bias) <= objective:
            break
        steps += 1
    return steps, median(seconds(lambda: ours(drawn, steps), "cpu") for _ in range(REPEATS))


def race(drawn: Drawn, rounds: Sequence[int]) -> dict[str, Any]:
    """Run some epochs of each peer, then ours to the objective each has reached, and so on."""
    torch.manual_seed(0)
    peers = {"glm_saga": GlmSaga(drawn), "matrix_saga": MatrixSaga(drawn)}
    taken, steps = dict.fromkeys(peers, 0.0), 1
    rows: list[dict[str, Any]] = []
    for epochs in rounds:
        row: dict[str, Any] = {"epochs": epochs + (rows[-1]["epochs"] if rows else 0)}
        for name, peer in peers.items():
            taken[name] += seconds(partial(peer.run, epochs), "cpu")
            row[f"{name}_objective"] = drawn.objective(peer.linear.weight.detach(), peer.linear.bias.detach())
            row[f"{name}_seconds"] = round(taken[name], 2)
        for name in peers:
            steps, took = until(drawn, row[f"{name}_objective"], max(1, steps - 2))
            row |= {f"ours_to_{name}_steps": steps, f"ours_to_{name}_seconds": round(took, 3)}
            row[f"speedup_{name}"] = round(row[f"{name}_seconds"] / took, 1)
        rows.append(row)
    full: list[Solution] = []
    took = median(seconds(lambda: full.append(ours(drawn)), "cpu") for _ in range(REPEATS))
    best, linear = full[0], peers["glm_saga"].linear
    return {
        "rounds": rows,
        "scikit_learn": scikit_learn(drawn, SKLEARN_EPOCHS if len(rounds) == len(ROUNDS) else 1),
        "ours": {"seconds": round(took, 2), "steps": best.steps, "converged": best.converged}
        | drawn.quality(best.weights, best.bias),
        "glm_saga": {"stopped_by_itself": peers["glm_saga"].stopped}
        | drawn.quality(linear.weight.detach(), linear.bias.detach()),
    }


def scikit_learn(drawn: Drawn, epochs: int) -> dict[str, Any]:
    """Time scikit-learn's SAGA, and ours to the objective it reaches."""
    peer = LogisticRegression(
        solver="saga", l1_ratio=ALPHA, C=1 / (TRAIN * PENALTY.strength), max_iter=epochs, tol=1e-9
    )
    x, labels = drawn.train.double().numpy(), drawn.train_labels.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        took = seconds(lambda: peer.fit(x, labels), "cpu")
    objective = drawn.objective(torch.from_numpy(peer.coef_), torch.from_numpy(peer.intercept_))
    steps, mine = until(drawn, objective)
    return {
        "epochs": epochs,
        "objective": objective,
        "seconds": round(took, 2),
        "ours_steps": steps,
        "ours_seconds": round(mine, 3),
        "speedup": round(took / mine, 1),
    }


def to_the_end(drawn: Drawn) -> dict[str, Any]:
    """Run glm-saga's algorithm, as products of matrices, as long as LF-CBM lets it, and ours to where it ends."""
    peer = MatrixSaga(drawn)
    took = seconds(lambda: peer.run(MOST_EPOCHS), "cpu")
    weights, bias = peer.linear.weight.detach(), peer.linear.bias.detach()
    steps, mine = until(drawn, drawn.objective(weights, bias))
    return {
        "epochs": peer.epochs,
        "stopped_by_itself": peer.stopped,
        "seconds": round(took, 2),
        "ours_steps": steps,
        "ours_seconds": round(mine, 3),
        "speedup": round(took / mine, 1),
    } | drawn.quality(weights, bias)


def walk(drawn: Drawn) -> dict[str, Any]:
    """Time our path from the largest penalty to NEC 30, VLG-CBM's ratio."""
    found: list[tuple[Solution, ...]] = []
    rows = read_rows(drawn.train, drawn.train_labels)
    took = seconds(lambda: found.append(elastic_net_path(rows, ALPHA, max_nec=30)), "cpu")
    (points,) = found
    return {
        "points": len(points),
        "seconds": round(took, 1),
        "converged": sum(point.converged for point in points),
        "last_nec": points[-1].nec,
        "largest_gap": max(point.certificate.gap for point in points),
    }


def megabytes(name: str) -> float:
    """Return how much memory grows by a whole solve of ours, or by an epoch of glm-saga."""
    torch.set_num_threads(1)
    drawn = draw()
    torch.zeros(8, 8) @ torch.zeros(8, 8)
    call: Callable[[], Any] = partial(ours, drawn) if name == "ours" else partial(GlmSaga(drawn).run, 1)
    return round(growth(call, "cpu"), 1)


def figures(details: dict[str, Any]) -> dict[str, float]:
    """Return the headline numbers; README.md says what each means."""
    rounds, mine, theirs = details["rounds"], details["ours"], details["glm_saga"]
    end = details.get("matrix_saga_to_its_end")
    return {
        "speedup": rounds[-1]["speedup_glm_saga"],
        "speedup_least": min(row["speedup_glm_saga"] for row in rounds),
        "speedup_matrix_saga": rounds[-1]["speedup_matrix_saga"],
        **({"speedup_matrix_saga_to_its_end": end["speedup"]} if end else {}),
        "speedup_scikit_learn": details["scikit_learn"]["speedup"],
        "speedup_certified": round(rounds[-1]["glm_saga_seconds"] / mine["seconds"], 1),
        "objective_ratio": round(mine["objective"] / (end or theirs)["objective"], 4),
        "objective_ratio_glm_saga": round(mine["objective"] / theirs["objective"], 4),
        "matrix_saga_difference": max(
            round(abs(row["matrix_saga_objective"] / row["glm_saga_objective"] - 1), 5) for row in rounds
        ),
        "gap": mine["gap"],
        "glm_saga_gap": round(theirs["gap"], 4),
        "memory_ratio": round(details["megabytes"]["ours"] / details["megabytes"]["glm_saga"], 3),
    }


def show(result: dict[str, Any]) -> None:
    """Print the numbers as tables."""
    from rich.console import Console
    from rich.table import Table

    console, details = Console(), result["details"]
    headline = [{"figure": name, "value": value} for name, value in result["figures"].items()]
    for rows in (details["rounds"], headline):
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*(str(value) for value in row.values()))
        console.print(table)
    console.print_json(json.dumps({name: value for name, value in details.items() if name != "rounds"}))


if __name__ == "__main__":
    main()
