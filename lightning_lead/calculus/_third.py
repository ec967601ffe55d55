"""Third derivatives that torch gets wrong without a word, found in the graph of a loss.

    the loss holds ∂/∂x of a norm (a gradient penalty), and a rule differentiates the loss twice more

The second derivative of batch norm and of layer norm is written by hand in torch. It reads mean and variance as the
forward kernel left them, without how they depend on x. Itself it is right; its derivative is not. Newer torch raises an
error for batch norm, older torch gives a number, and so does every torch up to 2.14 for layer norm. Instance norm is a
batch norm. Group norm is right, and so is batch norm by running statistics, which are constants.

Reference: pytorch issues 175754 (layer norm) and 186256 (batch norm).
"""

from __future__ import annotations

from torch import Tensor

from lightning_lead._errors import HigherDerivativeError
from lightning_lead._types import Vector
from lightning_lead.calculus._graph import graph_nodes

__all__ = ["refuse_wrong_norms", "wrong_norms"]

# by the nodes that torch records for their first derivatives, without the number at the end
_NORMS = {
    "NativeBatchNormBackwardBackward": "batch norm",
    "CudnnBatchNormBackwardBackward": "batch norm",
    "MiopenBatchNormBackwardBackward": "batch norm",
    "BatchNormBackwardBackward": "batch norm",
    "NativeLayerNormBackwardBackward": "layer norm",
}


def wrong_norms(loss: Tensor, *groups: Vector) -> list[str]:
    """Return the kinds of norm that make second derivatives of a loss wrong, because it holds first ones already.

    A norm counts if its derivative depends on one leaf of each group at least.
    """
    wanted = [{id(leaf) for leaf in group} for group in groups]
    found = set()
    for node in graph_nodes(loss.grad_fn):
        kind = _NORMS.get(node.name().rstrip("0123456789"))
        # by running statistics, which are constants
        if kind is None or kind in found or not getattr(node, "_saved_train", True):
            continue
        leaves = {id(below.variable) for below in graph_nodes(node) if hasattr(below, "variable")}
        if all(leaves & group for group in wanted):
            found.add(kind)
    return sorted(found)


def refuse_wrong_norms(loss: Tensor, what: str, *groups: Vector) -> None:
    """Refuse a wrong number; at every step, as a penalty may begin at any, and the walk costs little."""
    if found := wrong_norms(loss, *groups):
        raise HigherDerivativeError(
            f"Cannot differentiate {what} twice because it holds a derivative itself, and torch's third derivative of "
            f"{' and '.join(found)} is wrong; replace the layer, as by nn.GroupNorm, or use a rule that differentiates "
            "once, such as LEADStrategy(cross='extrapolated')"
        )
