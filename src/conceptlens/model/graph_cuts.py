"""Nodes of a graph: those that every path to the images passes, and those that only change the answer's shape."""

from __future__ import annotations

from typing import Any

from torch import Tensor

# Nodes of a graph that have weights of their own, or mix cells. What reaches the output without them is the answer
# itself, in another shape.
_WEIGHTED = ("Convolution", "Addmm", "MmBackward", "Bmm", "Linear", "Norm", "Embedding", "ScaledDot", "Rnn")


def answer_nodes(output: Tensor) -> set[Any]:
    """Return the nodes of the graph that reach the output through nothing but reshaping, pooling, resizing and such.

    Args:
        output: The answer, in its graph.
    """
    waiting = [] if output.grad_fn is None else [output.grad_fn]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if not any(word in type(node).__name__ for word in _WEIGHTED):
            waiting += [child for child, _ in node.next_functions if child is not None]
    return seen


def cut_nodes(output: Tensor, images: Tensor) -> set[Any]:
    """Return the nodes of the graph that every path from `output` to `images` passes.

    In a topological order, these are the nodes that no edge jumps over. What does not lead to the images (position
    biases that a layer computes) is left out.

    Args:
        output: The answer, in its graph.
        images: What the graph begins with.
    """
    order = _topological(output.grad_fn)
    leading = {node for node in order if getattr(node, "variable", None) is images}
    for node in reversed(order):
        if any(child in leading for child, _ in node.next_functions):
            leading.add(node)
    order = [node for node in order if node in leading]
    position = {node: i for i, node in enumerate(order)}
    cuts, furthest = set(), 0
    for i, node in enumerate(order):
        if furthest <= i:
            cuts.add(node)
        furthest = max([furthest, *(position[child] for child, _ in node.next_functions if child in leading)])
    return cuts


def _topological(root: Any) -> list[Any]:
    """Return the nodes of the graph below `root`, each before those that it was computed from."""
    finished: dict[Any, None] = {}
    entered: set[Any] = set()
    stack = [] if root is None else [root]
    while stack:
        node = stack[-1]
        if node not in entered:
            entered.add(node)
            stack += [c for c, _ in node.next_functions if c is not None and c not in entered]
            continue
        stack.pop()
        finished.setdefault(node)
    return list(finished)[::-1]
