"""Which structure the losses of a GAN have: fast and general derivatives are compared on a few samples.

What is found decides how derivatives are computed, never what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lightning_lead._typing import Vector
from lightning_lead.calculus.chain import Structure
from lightning_lead.calculus.dual import dual_vector, lean_duals, split_dual
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.calculus.piecewise import Judge, logits_along_data, logits_along_parameters
from lightning_lead.calculus.placement import Placement
from lightning_lead.calculus.players import norm, weighted_sum
from lightning_lead.gan_evaluation import GANBatch, GANEvaluation
from lightning_lead.probe import made_up_cross
from lightning_lead.rules.base import AbstractGameRule

if TYPE_CHECKING:
    from lightning_lead.gan import LeadGANModule

__all__ = ["find_structure", "why_not_piecewise_linear"]


def find_structure(
    module: LeadGANModule, batch: GANBatch, live: Mapping[str, Sequence[Tensor]], seed: int
) -> Structure:
    """What the losses on a few samples are made of, as far as the rule of the game has use for it.

    Args:
        module: of which the losses are not overridden as a whole.
        batch: a few samples.
        live: name -> the players' parameters.
        seed: of everything random.
    """
    rule, hold = module.game.rule, Placement(module, live).hold
    if not (rule.second_order or rule.revisits or module.game.play == "simultaneous"):
        return Structure("neither rule nor play has use for it", None)
    made_of_parts = GANEvaluation(module, batch, seed, repeated=True, structure=Structure(None, "not yet known"))
    as_a_whole = GANEvaluation(module, batch, seed, repeated=True, structure=Structure("for comparison", None))
    with module._full_precision():
        chained, general = (
            GameOracle(
                {player: tuple(params) for player, params in live.items()},
                [evaluation],
                place=hold,
                full_precision=module._full_precision,
                inspect=False,
            )
            for evaluation in (made_of_parts, as_a_whole)
        )
        if reason := _disagreement(chained, general, rule):
            return Structure(reason, None)
        if not rule.second_order:
            return Structure(None, "nothing is differentiated twice")
        if not made_of_parts.separable:
            return Structure(None, "the objective may let reals and fakes meet")
        look = partial(made_of_parts.look, replay=True)
        with torch.no_grad(), look():
            fakes = made_of_parts.make()
        judge = made_of_parts.judge
        parameters = tuple(p.detach() for p in live[judge])
        reason = why_not_piecewise_linear(
            made_of_parts.judge_made, fakes, parameters, lambda vector: hold({judge: vector}), look
        )
        return Structure(None, reason)


def _disagreement(chained: GameOracle, general: GameOracle, rule: AbstractGameRule) -> str | None:
    """Why a cross term by structure cannot be trusted here, or None: both ways are tried on a made-up displacement."""
    for player in general.names:
        # a large weight, so that neither gradient nor cross term hides behind the other
        cross = made_up_cross(general, player, rule, weight=1e3)
        try:
            fast = chained.gradient(player, at=chained.point, cross=cross)
        except RuntimeError as error:
            return f"forward-mode derivatives are missing ({str(error).splitlines()[0]})"
        try:
            whole = general.gradient(player, at=general.point, cross=cross)
        except RuntimeError:
            continue  # nothing to compare with: the general way fails on these networks
        size = norm(whole)
        off = norm(weighted_sum([(1.0, fast), (-1.0, whole)])) / size
        if not off <= 10 * torch.finfo(size.dtype).eps ** 0.5:
            return f"the direction of {player} differs by {float(off):.1e}: the players meet outside of D(G(z))"
    return None


_PRODUCTS = {"Addmm", "Baddbmm", "Bmm", "Convolution", "Div", "Mm", "Mul", "Mv"}
_PIECEWISE_LINEAR = _PRODUCTS | {
    *("Abs", "Add", "Alias", "AvgPool1D", "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "AdaptiveMaxPool2D", "Cat"),
    *("Clone", "ConstantPadNd", "Expand", "Hardtanh", "LeakyRelu", "MaxPool2DWithIndices", "MaxPool3DWithIndices"),
    *("Mean", "NativeDropout", "Neg", "Permute", "PixelShuffle", "PixelUnshuffle", "ReflectionPad2D", "Relu"),
    *("ReplicationPad2D", "ReshapeAlias", "Select", "Slice", "Squeeze", "Sub", "Sum", "T", "Threshold", "ToCopy"),
    *("Transpose", "UnsafeView", "Unsqueeze", "UpsampleBilinear2D", "UpsampleNearest2D", "View"),
}


def why_not_piecewise_linear(
    judge: Judge,
    data: Tensor,
    parameters: Vector,
    place: Callable[[Vector], AbstractContextManager[object]],
    look: Callable[[], AbstractContextManager[object]],
) -> str | None:
    """Why D must be differentiated by dual arithmetic, or None: its graph is read, and both ways are compared.

    Args:
        judge: D.
        data: a few of its inputs, (m, ...).
        parameters: θ, those that are trained.
        place: puts parameters into D.
        look: one evaluation, which draws the same random numbers each time and leaves buffers alone.
    """
    data = data.detach().requires_grad_()
    own = tuple(p.detach().requires_grad_() for p in parameters)
    with torch.enable_grad():
        with look(), place(parameters):
            logits = judge(data.view_as(data))
        if logits.numel() != len(data) or logits.grad_fn is None:
            return f"it returns {tuple(logits.shape)} for {len(data)} samples"
        if (operation := _curved(logits, data)) is not None:
            return f"{operation} is not piecewise linear"
        generator = torch.Generator().manual_seed(0)
        c, e = (torch.randn(logits.shape, generator=generator).to(logits) for _ in range(2))
        tangent = torch.randn(data.shape, generator=generator).to(data)
        moved = tuple(torch.randn(p.shape, generator=generator).to(p) * p.detach().abs().mean() for p in parameters)

        def directions(fast: bool) -> tuple[Vector, Vector]:
            """Of Σ c l + e l̇, l̇ once by data that moves and once by parameters that move."""
            with look(), place(own):
                if fast:
                    pair = logits_along_data(judge, data.detach(), tangent)
                else:
                    with lean_duals():
                        pair = split_dual(judge(forward_ad.make_dual(data.detach(), tangent)))
                judges = torch.autograd.grad(_total(pair, c, e), own, allow_unused=True)
            with look(), place(parameters):
                if fast:
                    pair = logits_along_parameters(judge, data, parameters, moved, place)
                else:
                    with lean_duals(), place(dual_vector(parameters, moved)):
                        pair = split_dual(judge(data.view_as(data)))
                makers = torch.autograd.grad(_total(pair, c, e), data)
            return tuple(torch.zeros_like(p) if g is None else g for g, p in zip(judges, own, strict=True)), makers

        try:
            for fast, whole in zip(directions(True), directions(False), strict=True):
                off = norm(weighted_sum([(1.0, fast), (-1.0, whole)])) / norm(whole)
                if not off <= 10 * torch.finfo(off.dtype).eps ** 0.5:
                    return f"both ways differ by {float(off):.1e}: samples meet, or a parameter has a use of its own"
        except RuntimeError as error:
            return str(error).splitlines()[0]
    return None


def _total(pair: tuple[Tensor, Tensor | None], c: Tensor, e: Tensor) -> Tensor:
    logits, slopes = pair
    return (c * logits).sum() if slopes is None else (c * logits + e * slopes).sum()


def _curved(logits: Tensor, data: Tensor) -> str | None:
    """The first operation between data and logits that is not piecewise linear in the data, by the autograd graph."""
    reached: dict[Any, bool] = {}  # node -> whether data flows into it
    stack: list[Any] = [logits.grad_fn]
    while stack:  # children first
        node = stack[-1]
        children = [child for child, _ in node.next_functions if child is not None]
        unknown = [child for child in children if child not in reached]
        if unknown:
            stack += unknown
            continue
        stack.pop()
        reached[node] = getattr(node, "variable", None) is data or any(reached[child] for child in children)
    for node, touched in reached.items():
        if not touched or hasattr(node, "variable"):
            continue
        kind = node.name().rpartition("Backward")[0]
        factors = [reached.get(child, False) for child, _ in node.next_functions]
        meet = kind in _PRODUCTS and sum(factors) > 1
        if kind not in _PIECEWISE_LINEAR or meet or (kind == "Div" and factors[1]):
            return str(node.name())
    return None
