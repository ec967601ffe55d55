"""The graph that autograd records: its nodes, and what they tell of a loss without an evaluation of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

from lightning_lead._errors import HigherDerivativeError
from lightning_lead._types import Vector

__all__ = ["LossGraph", "graph_nodes", "is_checkpointed", "read_graph"]


def graph_nodes(root: Any) -> Iterator[Any]:
    """Every node of a graph, once."""
    seen, waiting = set(), [root]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(below for below, _ in node.next_functions)


class LossGraph(NamedTuple):
    """The facts that the graph of a player's loss tells; a later loss of the same player is taken to be alike."""

    by_backward: bool  # it passes reentrant activation checkpointing: see `is_checkpointed`
    meets: bool  # it reaches the opponent's parameters, and not through a detach alone


def read_graph(loss: Tensor, opponent: Vector, *, label: str) -> LossGraph:
    """Read the graph of a loss; refuses one in which a derivative was lost.

    A function that is marked as once differentiable leaves an error in the graph of its derivative. `backward()` raises
    it, but `autograd.grad` passes by, and leaves out all that depends on it.
    """
    nodes = list(graph_nodes(loss.grad_fn))
    if any(node.name() == "torch::autograd::Error" for node in nodes):
        raise HigherDerivativeError(
            f"Cannot differentiate {label} because it holds a derivative, as a gradient penalty does, of a layer that "
            "has no second derivative; replace the layer, or leave the derivative out"
        )
    leaves = {id(leaf) for leaf in opponent}
    meets = any(id(node.variable) in leaves for node in nodes if hasattr(node, "variable"))
    return LossGraph(_checkpointed(nodes), meets)


def is_checkpointed(loss: Tensor) -> bool:
    """True if the loss passes reentrant activation checkpointing, through which `autograd.grad` finds nothing."""
    return _checkpointed(graph_nodes(loss.grad_fn))


def _checkpointed(nodes: Iterable[Any]) -> bool:
    return any("CheckpointFunction" in node.name() for node in nodes)
