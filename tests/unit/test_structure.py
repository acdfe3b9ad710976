"""The structure that docs/design.md draws: no circle of imports, and a name means one thing."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import conceptlens

SOURCE = Path(conceptlens.__file__).parent
TREES = {
    ".".join(("conceptlens", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): ast.parse(
        path.read_text(encoding="utf-8")
    )
    for path in SOURCE.rglob("*.py")
}


def imports(tree: ast.Module) -> set[str]:
    """Return the modules of the package that a file imports: lazily and for type checking too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "conceptlens":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in TREES else str(node.module))
    return found


def test_there_is_no_circle_of_imports() -> None:
    graph = {name: imports(tree) - {"conceptlens"} for name, tree in TREES.items() if name != "conceptlens"}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise AssertionError(f"a circle: {' <- '.join(error.args[1])}") from None


def test_a_file_name_stands_once() -> None:
    places = defaultdict(list)
    for name in TREES:
        if not name.startswith("conceptlens.cli."):  # a command's file is called as the command
            places[name.rsplit(".", 1)[-1]].append(name)
    packages = {path.parent.name for path in SOURCE.rglob("__init__.py")}
    twice = {word: names for word, names in places.items() if len(names) > 1 and word not in packages}
    assert not twice


def test_a_class_name_stands_once() -> None:
    places = defaultdict(list)
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    assert not {word: names for word, names in places.items() if len(names) > 1}
