"""The exact cross term of a game with the structure of `calculus.chain`: u = G(z), L_i = ℓ_i(D(u)).

    the judge's:   c_D = ∓∇_D ψ,   ψ = d/dε ℓ(D(u + εt)),       t = J_G Δ_G, one forward-mode pass through G
    the maker's:   c_G = ∓J_Gᵀ ∂_u ψ,   ψ = d/dε ℓ(D_{θ+εΔ}(u)), added to ∂_u L_G before the one backward through G

with ℓ the opponent's loss and the minus sign in the opponent form, the own loss and the plus sign in the own form. G is
never differentiated twice, nothing is differentiated through G more than once, and direction and cross term share one
reverse pass: d is the gradient of the single scalar L_i + a·(∓ψ).

A penalty p of the judge that depends on u has a part in ψ where ℓ is the judge's: d/dε p(u + εt) = ⟨∂_u p, t⟩ and
d/dε p_{θ+εΔ}(u) = ⟨∇_D p, Δ⟩, by reverse passes through D alone, since p holds a reverse pass itself. It has none where
D is piecewise linear: there p is a function of slopes that do not change with u.

Cost on top of plain training, with F = one forward pass: the judge pays 2F of G for t and 3F of D, the maker 4F of D.
In dual arithmetic (three products for one) none of it can be left out for a general network; a D that is piecewise
linear sample by sample needs 1F and 2F, see `calculus.piecewise`.

Reference: Askari Hemmat et al., "LEAD: Min-Max Optimization from a Physical Perspective", TMLR 2023, Algorithm 1;
Pearlmutter, "Fast Exact Multiplication by the Hessian", Neural Computation 1994.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lightning_lead._errors import DifferentiationError
from lightning_lead._typing import CrossForm, Vector
from lightning_lead.calculus.chain import (
    Chain,
    ChainDirection,
    Context,
    Place,
    judge_loss,
    loss_of,
    plus,
    pull_back,
    push_of,
)
from lightning_lead.calculus.derivatives import gradient
from lightning_lead.calculus.dual import dual_vector, lean_duals, make_dual, split_dual
from lightning_lead.calculus.piecewise import logits_along_data, logits_along_parameters
from lightning_lead.calculus.players import inner

__all__ = ["judge_direction", "maker_direction"]


def judge_direction(
    chain: Chain,
    own: Vector,
    other: Vector,
    *,
    displacement: Vector,
    weight: float,
    form: CrossForm,
    place: Place,
    full_precision: Context,
    replay: bool,
    part: Chain | None = None,
) -> ChainDirection:
    """g_D + weight·c_D.

    Args:
        chain: the micro-batch.
        own: the judge's parameters, requiring gradients.
        other: the maker's parameters.
        displacement: the maker's displacement.
        weight: a.
        form: "opponent" or "own".
        place: puts a point into the module.
        full_precision: a context in which autocast is off, for reverse passes.
        replay: whether this evaluation repeats an earlier one.
        part: the first samples of the micro-batch, where c_D is taken of them alone.

    Raises:
        DifferentiationError: the judged values do not depend on both players.
    """
    with torch.enable_grad(), place({chain.judge: own, chain.maker: other}):
        whole = None
        if part is not None:
            with chain.look(replay=replay):
                whole = judge_loss(chain)
            chain, replay = part, True
        with chain.look(replay=replay):
            with torch.no_grad(), lean_duals(), place({chain.maker: dual_vector(other, displacement)}):
                made, moved = split_dual(chain.make())
            if moved is None:
                raise _no_interaction(chain.maker)
            with _judged_along_data(chain, made, moved) as judged:
                # a loss that lets data meet what was made is looked at once, with its slope
                meet = form == "own" and not chain.separable and whole is None
                of = chain.judge if form == "own" else chain.maker
                loss, work = split_dual(chain.loss(of, judged, with_data=meet))
                still = split_dual(judged)[0]
            if work is None or not work.requires_grad:
                raise _no_interaction(chain.judge)
            if whole is None and not meet:
                loss = chain.loss(chain.judge, still, with_data=True)
            turns = form == "own" and _turns(chain)
            leaf = made.detach().requires_grad_(turns)
            penalty = chain.penalty(leaf) if turns or whole is None else None
            if turns and penalty is not None:
                work = work + _along(penalty, (leaf,), (moved,), full_precision)
            loss = plus(loss, penalty) if whole is None else whole
        with full_precision():
            total = loss + _signed(weight, form) * work
            return ChainDirection(gradient(total, own, label=loss_of(chain.judge)), loss.detach())


def maker_direction(
    chain: Chain,
    own: Vector,
    other: Vector,
    *,
    displacement: Vector,
    weight: float,
    form: CrossForm,
    place: Place,
    full_precision: Context,
    replay: bool,
    part: Chain | None = None,
) -> ChainDirection:
    """g_G + weight·c_G; arguments as in `judge_direction`, with the players' parts exchanged."""

    def push(chain: Chain, made: Tensor, *, plain: bool) -> tuple[Tensor, Tensor]:
        """∂_u of loss and cross term, or of the cross term alone; and the loss."""
        leaf = made.detach().requires_grad_()
        with _judged_along_parameters(chain, leaf, other, displacement, place) as judged:
            of = chain.maker if form == "own" else chain.judge
            loss, work = split_dual(chain.loss(of, judged, with_data=False))
            if form != "own":
                loss = chain.loss(chain.maker, split_dual(judged)[0], with_data=False)
        if work is None or not work.requires_grad:
            raise _no_interaction(chain.judge)
        if form != "own" and _turns(chain):
            moving = tuple(p.detach().requires_grad_() for p in other)
            with place({chain.judge: moving}):
                penalty = chain.penalty(leaf)
            if penalty is not None:
                work = work + _along(penalty, moving, displacement, full_precision)
        turn = _signed(weight, form) * work
        with full_precision():
            return gradient(loss + turn if plain else turn, (leaf,), label=loss_of(chain.maker))[0], loss.detach()

    with torch.enable_grad(), place({chain.maker: own, chain.judge: other}):
        with chain.look(replay=replay):
            made = chain.make()
            pushed, loss = push(chain, made, plain=True) if part is None else push_of(chain, made, full_precision)
        if part is not None:
            few = part.among(made)
            with part.look(replay=True):
                pushed[: len(few)] += push(part, few, plain=False)[0]
        with full_precision():
            return ChainDirection(pull_back(made, own, pushed), loss)


def _turns(chain: Chain) -> bool:
    """Whether the judge's penalty has a part in the cross terms of its loss."""
    return chain.penalised_by_made and not chain.structure.piecewise_linear


def _along(value: Tensor, point: Vector, tangent: Vector, full_precision: Context) -> Tensor:
    """⟨∇ value, tangent⟩, differentiable; zero where the value does not depend on the point, as ‖∇D‖ of a linear D."""
    if not value.requires_grad:
        return value.new_zeros(())
    with full_precision():
        grads = torch.autograd.grad(value, point, create_graph=True, allow_unused=True)
        reached = [(g, t) for g, t in zip(grads, tangent, strict=True) if g is not None]
        return inner(*zip(*reached, strict=True)) if reached else value.new_zeros(())


def _signed(weight: float, form: CrossForm) -> float:
    return weight if form == "own" else -weight


@contextmanager
def _judged_along_data(chain: Chain, made: Tensor, moved: Tensor) -> Iterator[Tensor]:
    """D(u + εt), a dual number, while its level is open."""
    if chain.structure.piecewise_linear:
        logits, slopes = logits_along_data(chain.judge_made, made, moved)
        with lean_duals():
            yield logits if slopes is None else make_dual(logits, slopes)
    else:
        with lean_duals():
            yield chain.judge_made(make_dual(made, moved))


@contextmanager
def _judged_along_parameters(
    chain: Chain, leaf: Tensor, parameters: Vector, displacement: Vector, place: Place
) -> Iterator[Tensor]:
    """D_{θ+εΔ}(u), a dual number, while its level is open."""
    if chain.structure.piecewise_linear:
        logits, slopes = logits_along_parameters(
            chain.judge_made, leaf, parameters, displacement, lambda vector: place({chain.judge: vector})
        )
        with lean_duals():
            yield logits if slopes is None else make_dual(logits, slopes)
    else:
        with lean_duals(), place({chain.judge: dual_vector(parameters, displacement)}):
            # a view, because some tools refuse a leaf that is handed to a module and differentiated by
            yield chain.judge_made(leaf.view_as(leaf))


def _no_interaction(player: str) -> DifferentiationError:
    return DifferentiationError(
        f"Cannot form the cross term because the losses do not depend on {player!r}; "
        "the players must meet in one loss (is an output detached, or an opponent left out of the loss?)"
    )
