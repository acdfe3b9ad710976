"""The table of docs/architectures.md, made from the architectures that tests are held to.

`python tests/architecture_table.py` writes the page anew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import conceptlens as cl
from conceptlens.model.torchvision_operators import mend_torchvision

mend_torchvision()

import torch  # noqa: E402

from architectures import EVERY, backbone, observation_of  # noqa: E402
from conceptlens.model.observation import Observation  # noqa: E402

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
HEAD = """# Architectures

Every architecture below is built with random weights at toy size and held to the tests of the package: among others, a
change in one block of the photo is found in that block of the default layer and of another one.
`python tests/architecture_table.py` writes this page.

Where the cells of a layer lie is found by an experiment, once for each model, state of its weights and size of the
images: twelve forward passes of one small image, ten in one batch without a graph and two with one. A layer that does
not pass is refused, with what was seen.

*Answer* is what the package finds that the numbers mean (`task`), or reads by a function that was given (`output=`).
*Targets* are those that give a map; the others are refused in a sentence. A function of the answer always works.

| Architecture | Images | Answer | Default layer | Grid | Targets |
| --- | --- | --- | --- | --- | --- |
"""


TARGETS: dict[str, Callable[[Observation], cl.Target]] = {
    "class": lambda _: cl.Logit(3),
    "probability": lambda _: cl.Probability(3),
    "contrast": lambda _: cl.Contrast(3),
    "concept": lambda observation: cl.Concept(direction=torch.ones(observation.embedding.shape[1])),
    "detection": lambda _: cl.Detection(0),
    "region": lambda _: cl.Region(0),
}


def answers(observation: Observation, target: Callable[[Observation], cl.Target]) -> bool:
    """Whether a target gives a map."""
    try:
        return bool(cl.cam(observation, target(observation)).maps.isfinite().all())
    except cl.InputError:
        return False


def row(name: str) -> str:
    """Return the line of one architecture, from what the package finds and what targets it answers."""
    known, model = EVERY[name], backbone(name)
    observation = observation_of(name)
    grid = model.anatomy.grids[model.default_layers[0]]
    targets = [word for word, target in TARGETS.items() if answers(observation, target)]
    answer = (model.known_task or "single_label").replace("_", " ") + (", `output=`" if known.output else "")
    size, cells = (f"{rows} x {columns}" for rows, columns in (known.size, (grid.height, grid.width)))
    return f"| {name} | {size} | {answer} | `{model.default_layers[0]}` | {cells} | {', '.join(targets)} |"


def main() -> None:
    """Write the page."""
    torch.set_num_threads(1)
    PAGE.write_text(HEAD + "".join(row(name) + "\n" for name in EVERY), encoding="utf-8")


if __name__ == "__main__":
    main()
