"""Which structure the losses of a GAN have: fast and general derivatives are compared on a few samples.

What is found decides how derivatives are computed, never what they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lightning_lead._typing import Point, Vector
from lightning_lead.calculus.bilinear import BilinearCall, BilinearRules
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

    def evaluation(structure: Structure) -> GANEvaluation:
        return GANEvaluation(module, batch, seed, repeated=True, structure=structure)

    def oracle(structure: Structure) -> GameOracle:
        return GameOracle(
            {player: tuple(params) for player, params in live.items()},
            [evaluation(structure)],
            place=hold,
            full_precision=module._full_precision,
            inspect=False,
        )

    made_of_parts = evaluation(Structure(None, "not yet known"))
    with module._full_precision():
        chained, general = oracle(Structure(None, "not yet known")), oracle(Structure("for comparison", None))
        if reason := _looks_past_what_is_made(made_of_parts, live, hold) or _disagreement(chained, general, rule):
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
        reason = _looks_past_logits(made_of_parts, fakes, live, hold) or why_not_piecewise_linear(
            made_of_parts.judge_made, fakes, parameters, lambda vector: hold({judge: vector}), look
        )
        return Structure(None, reason or _disagreement(oracle(Structure(None, None)), general, rule))


def _looks_past_what_is_made(
    chain: GANEvaluation, live: Mapping[str, Sequence[Tensor]], hold: Callable[[Point], AbstractContextManager[object]]
) -> str | None:
    """Whether the maker's loss depends on its parameters otherwise than by u.

    A mistake in a user's network shows here for the first time, under its own name.
    """
    own = tuple(p.detach().requires_grad_() for p in live[chain.maker])
    with torch.enable_grad(), chain.look(replay=True), hold({chain.maker: own}):
        loss = chain.loss(chain.maker, chain.judge_made(chain.make().detach()), with_data=False)
        past = loss.requires_grad and torch.autograd.grad(loss, own, allow_unused=True)
    if past and any(g is not None for g in past):
        return f"the loss of {chain.maker} looks past D(G(z)): the players meet outside of it"
    return None


def _looks_past_logits(
    chain: GANEvaluation,
    made: Tensor,
    live: Mapping[str, Sequence[Tensor]],
    hold: Callable[[Point], AbstractContextManager[object]],
) -> str | None:
    """Whether a loss of fakes depends on u or on the judge otherwise than by its logits, as features that it kept."""
    own = tuple(p.detach().requires_grad_() for p in live[chain.judge])
    leaf = made.detach().requires_grad_()
    with torch.enable_grad(), chain.look(replay=True), hold({chain.judge: own}):
        judged = chain.judge_made(leaf.view_as(leaf)).detach()
        for player in (chain.maker, chain.judge):
            if chain.loss(player, judged, with_data=False).requires_grad:
                return f"the loss of {player} looks past the discriminator's logits"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _disagreement(chained: GameOracle, general: GameOracle, rule: AbstractGameRule) -> str | None:
    """Why a cross term by structure cannot be trusted here, or None: both ways are tried on a made-up displacement."""
    told = False
    for player in general.names:
        # a large weight, so that neither gradient nor cross term hides behind the other
        cross = made_up_cross(general, player, rule, weight=1e3)
        try:
            fast = chained.gradient(player, at=chained.point, cross=cross)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the attempt to find a shortcut must not end a fit
            return f"forward-mode derivatives are missing ({_first_line(error)})"
        try:
            whole = general.gradient(player, at=general.point, cross=cross)
        except RuntimeError:
            told = True
            continue  # nothing to compare with: the general way fails on these networks
        size, off = norm(whole), norm(weighted_sum([(1.0, fast), (-1.0, whole)]))
        if not off <= 10 * torch.finfo(size.dtype).eps ** 0.5 * size:
            return f"the direction of {player} differs by {float(off / size):.1e}: the players meet outside of D(G(z))"
        told |= bool(size > 0)  # a saturated loss, as hinge on a few samples, tells nothing
    return None if told else "no derivative tells anything"


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
    if len(data) < 2:
        return "samples that meet show only where there are two"
    if max(torch.finfo(t.dtype).eps for t in (data, *parameters)) > 1e-3:
        return "its numbers are too coarse to compare"
    data = data.detach().requires_grad_()
    generator = torch.Generator().manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    # displacements, and weights nearby: what a layer does shows also where it was initialised with zeros
    moved = tuple(noise(p) * p.detach().abs().mean().clamp_min(0.01) for p in parameters)
    parameters = tuple(p.detach() + 0.1 * noise(p) * m.abs().mean() for p, m in zip(parameters, moved, strict=True))
    own = tuple(p.clone().requires_grad_() for p in parameters)
    try:
        with torch.enable_grad():
            with look(), place(own), BilinearRules(_with_constant_weights):
                logits = judge(data.view_as(data))
            if logits.numel() != len(data) or logits.grad_fn is None:
                return f"it returns {tuple(logits.shape)} for {len(data)} samples"
            if (operation := _curved(logits, data, own)) is not None:
                return operation
            c, e, tangent = noise(logits), noise(logits), noise(data)

            def directions(fast: bool) -> tuple[Vector, Vector]:
                """Of Σ c l + e l̇ + l l̇, l̇ once by data that moves and once by parameters that move."""
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

            for fast, whole in zip(directions(True), directions(False), strict=True):
                size = norm(whole)
                tolerance = 10 * torch.finfo(size.dtype).eps ** 0.5
                # tensor by tensor, because an optimizer may make much of a small one
                for mine, theirs in zip(fast, whole, strict=True):
                    off = norm((mine - theirs,)) / (norm((theirs,)) + 1e-3 * size)
                    if not off <= tolerance:
                        return f"both ways differ by {float(off):.1e}: samples meet"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the attempt to find a shortcut must not end a fit
        return _first_line(error)
    return None


def _with_constant_weights(call: BilinearCall) -> Tensor:
    """What then still depends on a parameter, depends on it outside of linear layers and convolutions."""
    bias = None if call.bias is None else call.bias.detach()
    return call.layer.forward(call.x, call.weight.detach(), bias)


def _total(pair: tuple[Tensor, Tensor | None], c: Tensor, e: Tensor) -> Tensor:
    logits, slopes = pair
    return (c * logits).sum() if slopes is None else (c * logits + e * slopes + logits * slopes).sum()


def _curved(logits: Tensor, data: Tensor, parameters: Vector) -> str | None:
    """What in the graph of the logits is no piecewise-linear operation of torch's own, or a parameter by itself."""
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
        kind = _OPERATION.fullmatch(node.name())
        factors = [reached.get(child, False) for child, _ in node.next_functions]
        meet = kind is not None and kind[1] in _PRODUCTS and sum(factors) > 1
        if kind is None or kind[1] not in _PIECEWISE_LINEAR or meet or (kind[1] == "Div" and factors[1:2] == [True]):
            return f"{node.name()} is not piecewise linear"
    own = {id(p) for p in parameters}
    if any(id(getattr(node, "variable", None)) in own for node in reached):
        return "a parameter has a use outside of linear layers and convolutions"
    return None


_OPERATION = re.compile(r"(\w+)Backward\d+")  # a Function of somebody's own has a name without a number
