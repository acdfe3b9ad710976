"""The table of docs/architectures.md, made from the architectures that tests are held to.

`python tests/architecture_table.py` writes the page anew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import conceptlens as cl
from conceptlens.io.torchvision_operators import mend_torchvision

mend_torchvision()

import torch  # noqa: E402

from architecture import Architecture  # noqa: E402
from architectures import EVERY, observation_of, random_images, stir  # noqa: E402
from conceptlens.model.observation import Observation  # noqa: E402
from refused_families import REFUSED  # noqa: E402

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
HEAD = """# Architectures

Every architecture below is built with random weights at toy size and held to the tests of the package: among others, a
change in one block of the photo is found in that block of the default layer and of another one.
`python tests/architecture_table.py` writes this page.

Where the cells of a layer lie is found by an experiment, once for each model, state of its weights and size of the
images: eleven forward passes of one small image, ten in one batch without a graph and one with it. A layer that does
not pass is refused, with what was seen.

*Answer* is what the package finds that the numbers mean (`task`), or reads by a function that was given (`output=`).
*Targets* are those that give a map; the others are refused in a sentence. A function of the answer always works.
What is said of those that are refused stands below the table.

| Architecture | Images | Answer | Default layer | Grid | Targets | Refused |
| --- | --- | --- | --- | --- | --- | --- |
"""
SENTENCES = """
## What is said of those that are refused

"""


TARGETS: dict[str, Callable[[Observation], cl.Target]] = {
    "class": lambda _: cl.Logit(3),
    "probability": lambda _: cl.Probability(3),
    "contrast": lambda _: cl.Contrast(3),
    "concept": lambda observation: cl.Concept(direction=torch.ones(observation.embedding.shape[1])),
    "highest score": lambda _: cl.MaxScore(3),
    "detection": lambda _: cl.Detection(0),
    "box": lambda _: cl.Box(0, "width"),
    "region": lambda _: cl.Region(),
}


def answers(observation: Observation, target: Callable[[Observation], cl.Target]) -> bool:
    """Whether a target gives a map."""
    try:
        return bool(cl.cam(observation, target(observation)).maps.isfinite().all())
    except cl.InputError:
        return False


def row(name: str) -> str:
    """Return the line of one architecture, from what the package finds and what targets it answers."""
    known, observation = EVERY[name], observation_of(name)
    grid = observation.model.anatomy.grids[observation.layer]
    targets = [word for word, target in TARGETS.items() if answers(observation, target)]
    answer = (observation.model.known_task or "single_label").replace("_", " ") + (
        ", `output=`" if known.output else ""
    )
    cells = f"{grid.height} x {grid.width}"
    return f"| {name} | {_size(known)} | {answer} | `{observation.layer}` | {cells} | {', '.join(targets)} | no |"


def refused_row(name: str) -> str:
    """Return the line of an architecture that is refused."""
    return f"| {name} | {_size(REFUSED[name])} | | | | | yes |"


def sentence(name: str) -> str:
    """Return what is said of an architecture that is refused.

    Raises:
        AssertionError: It is not refused.
    """
    known = REFUSED[name]
    torch.manual_seed(0)
    module = stir(known.build()).eval()
    try:
        observation = cl.Backbone(module, name, input_size=known.size).observe(random_images(known.size))
    except cl.InputError as error:
        return f"- **{name}**: {str(error).replace('<', '&lt;')}."
    raise AssertionError(f"{name} is not refused: it is looked into at {observation.layer}")


def _size(known: Architecture) -> str:
    return f"{known.size[0]} x {known.size[1]}"


def main() -> None:
    """Write the page."""
    torch.set_num_threads(1)
    lines = [*map(row, EVERY), *map(refused_row, REFUSED)]
    told = map(sentence, REFUSED)
    PAGE.write_text(HEAD + "\n".join(lines) + "\n" + SENTENCES + "\n".join(told) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
