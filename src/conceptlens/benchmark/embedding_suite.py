"""The suite of local concept embeddings: `loce`, layers of a store by how well their vectors find their concept."""

from __future__ import annotations

from pathlib import Path

from conceptlens.benchmark.comparison import ComparedMethod
from conceptlens.benchmark.retrieval_task import RANDOM, RETRIEVAL_METRICS, RetrievalTask
from conceptlens.benchmark.suite_options import PreparedSuite, SuiteOptions, refuse_options
from conceptlens.io.errors import InputError, near
from conceptlens.store import Store


def loce_suite(options: SuiteOptions) -> PreparedSuite:
    """Return the suite that compares the layers and modes of a store of embeddings.

    Args:
        options: What it is made from; `data` is the folder of a store, as `conceptlens embed` writes it.

    Raises:
        InputError: There is no store or no such layer, or an option has no effect here.
    """
    refuse_options(
        options, "loce", "model", "split", "layer", "fills", "asked", "gammas", "references", "randomised", "branch",
        "groups", "probe",
    )  # fmt: skip
    if not Path(options.data).is_dir():
        raise InputError(f"loce takes a store as --data, and {options.data} is no folder; make one: conceptlens embed")
    store = Store(options.data)
    rows = store.layers()
    models = len({row.model for row in rows})
    modes = len({row.mode for row in rows})
    spaces = {
        " ".join([row.layer, *([row.mode] if modes > 1 else []), *([row.model] if models > 1 else [])]): row
        for row in rows
    }
    names = list(options.methods) or list(spaces)
    for name in names:
        if name not in spaces:
            raise InputError(f"no layer '{name}' in {store.path}; {near(name, spaces, 'layers')}")
    metrics = options.metrics or list(RETRIEVAL_METRICS)
    for name in metrics:
        if name not in RETRIEVAL_METRICS:
            raise InputError(f"no metric '{name}'; metrics: {', '.join(RETRIEVAL_METRICS)}")
    baseline = options.baseline or names[0]
    if baseline not in names:
        raise InputError(f"the baseline {baseline} is none of the layers {', '.join(names)}; add it to --methods")
    task = RetrievalTask(store, {name: spaces[name] for name in names}, tuple(metrics), options.photos, options.seed)
    methods = [
        ComparedMethod(
            name, name, f"{spaces[name].mode} vectors of {spaces[name].channels} channels",
            against="" if name == baseline else baseline,
        )
        for name in names
    ]  # fmt: skip
    control = ComparedMethod(RANDOM, "random vectors", "vectors drawn at random", control=True)
    return PreparedSuite("loce", "In which layer do concepts find their own?", task, (*methods, control))
