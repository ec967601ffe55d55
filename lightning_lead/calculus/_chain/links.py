"""A GAN whose players meet only in the fakes, u = G(z), L_i = ℓ_i(D(u)): its links, and the plain gradients.

    g_D = ∇_D [ℓ_D(D(u)) + p(u)],   g_G = J_Gᵀ ∂_u ℓ_G(D(u)) + ∇q

Where both players face the same u before either moves, u and D(u) are computed once. A penalty p is the
discriminator's alone; it holds derivatives of D by its input, so it is no function of D(u). A penalty q of the
generator does not depend on the discriminator.
"""

from __future__ import annotations

import abc
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_lead._errors import DifferentiationError
from lightning_lead._types import Point, Vector
from lightning_lead.calculus._graph import LossGraph, read_graph
from lightning_lead.calculus._players import leaves_of, zeros_for_none
from lightning_lead.calculus._terms import Contexts, Direction
from lightning_lead.calculus.derivatives import gradient

__all__ = [
    "DISCRIMINATOR",
    "GENERATOR",
    "Chain",
    "Cotangent",
    "PenaltyParts",
    "Query",
    "SharedFakes",
    "Structure",
    "corrected",
    "cotangent_at",
    "cotangent_of",
    "discriminator_gradient",
    "discriminator_loss",
    "generator_gradient",
    "loss_of",
    "penalised",
    "plus",
    "pull_back",
    "shared_logits",
]

GENERATOR, DISCRIMINATOR = "generator", "discriminator"


class Cotangent(NamedTuple):
    """The derivative of a scalar by the fakes, and by the generator's parameters where it depends on them directly.

    A loss may have a term of the weights alone, such as a regulariser, and may have it from some step on. It does not
    go through u, so a pull-back of ∂_u alone would leave it out.
    """

    fakes: Tensor  # ∂_u
    direct: tuple[Tensor | None, ...]  # one per parameter, None where the scalar does not depend on it directly

    def scaled(self, factor: float) -> Cotangent:
        """That of the scalar times a factor."""
        return Cotangent(factor * self.fakes, tuple(None if d is None else factor * d for d in self.direct))


class SharedFakes(NamedTuple):
    """The fakes that the discriminator's turn hands over to the generator's turn on the same latents."""

    fakes: Tensor  # u, with its graph
    parameters: Vector  # the generator's, the leaves of that graph
    cotangent: Cotangent  # of ℓ_G, by the discriminator as it was
    loss: Tensor  # ℓ_G, by the same


class PenaltyParts(NamedTuple):
    """A penalty p, and the part of it that depends on u; None where there is none."""

    whole: Tensor | None
    of_fakes: Tensor | None


class Structure(NamedTuple):
    """The structure of the losses, as far as it is known; where a faster way is closed, the reason."""

    not_chained: str | None  # why derivatives are taken of the losses as a whole
    not_piecewise_linear: str | None  # why the discriminator is differentiated by dual numbers

    @property
    def chained(self) -> bool:
        """True if the players meet only in u = G(z)."""
        return self.not_chained is None

    @property
    def piecewise_linear(self) -> bool:
        """True if the discriminator is so in the fakes, sample by sample; see `calculus._chain.piecewise`."""
        return self.chained and self.not_piecewise_linear is None


class Chain(abc.ABC):
    """A micro-batch with that structure: every call uses the same reals, latents and random numbers."""

    structure: Structure
    known_calls: dict[str, set[str]]  # what a piecewise-linear discriminator has called; see `_chain.piecewise`
    linked: bool  # plain gradients are taken link by link
    shares: bool  # the generator's turn will use the fakes of this one
    joint: bool  # both players evaluate before either moves

    @property
    @abc.abstractmethod
    def separable(self) -> bool:
        """True if ℓ_D is a function of the reals' logits plus a function of the fakes' logits."""

    @property
    @abc.abstractmethod
    def penalty_sees_fakes(self) -> bool:
        """True if p depends on u."""

    @property
    @abc.abstractmethod
    def penalises_generator(self) -> bool:
        """True if there is a q in this update."""

    @abc.abstractmethod
    def use_duals(self, reason: str) -> None:
        """Differentiate the discriminator by dual numbers from now on, because it is not piecewise linear any more."""

    @abc.abstractmethod
    def part(self, fraction: float) -> Chain:
        """The chain of a leading fraction of the batch; its evaluations are always replays."""

    @abc.abstractmethod
    def first_of(self, fakes: Tensor) -> Tensor:
        """The leading fakes of a larger micro-batch, as many as this one has latents."""

    @abc.abstractmethod
    def keep(self, shared: SharedFakes) -> None:
        """Keep fakes for the generator's turn."""

    @abc.abstractmethod
    def kept(self) -> SharedFakes | None:
        """Return what the discriminator's turn kept, and drop it."""

    @abc.abstractmethod
    def discriminator_replay(self) -> AbstractContextManager[object]:
        """Restore the random numbers with which D first began, in a replay that computes no fakes."""

    @abc.abstractmethod
    def evaluation(self, *, replay: bool) -> AbstractContextManager[object]:
        """Seed one evaluation; `fakes`, `fake_logits` and `loss` are called inside, in that order."""

    @abc.abstractmethod
    def fakes(self) -> Tensor:
        """u = G(z)."""

    @abc.abstractmethod
    def fake_logits(self, fakes: Tensor) -> Tensor:
        """D(u)."""

    @abc.abstractmethod
    def loss(self, player: str, fake_logits: Tensor, *, with_reals: bool) -> Tensor:
        """ℓ of a player; without reals, up to a constant in u, if the loss is separable."""

    @abc.abstractmethod
    def penalty(self, fakes: Tensor, *, of_fakes: bool = False) -> PenaltyParts:
        """p(u), outside of dual numbers; anywhere in an evaluation, as its random numbers are its own.

        With `of_fakes`, the part that does not depend on u is left out.
        """

    @abc.abstractmethod
    def generator_penalty(self) -> Tensor | None:
        """q, if it is due; outside of dual numbers, anywhere in an evaluation."""


class Query(NamedTuple):
    """One direction that a backend is asked for: whose, on which micro-batch, and where."""

    player: str
    chain: Chain
    part: Chain | None  # the leading samples, if the cross term is of them alone
    own: Vector  # the player's parameters, requiring gradients
    other: Vector  # the opponent's
    contexts: Contexts
    graphs: dict[str, LossGraph]  # what is known of each player's loss
    replay: bool
    hands_over: bool  # the discriminator keeps the fakes for the generator's turn
    kept: SharedFakes | None  # what it has kept

    @property
    def point(self) -> Point:
        """Both players' parameters, by name."""
        return {self.player: self.own, GENERATOR if self.player == DISCRIMINATOR else DISCRIMINATOR: self.other}

    def gradient(self, value: Tensor) -> Vector:
        """∇_own of a scalar, without autocast."""
        label = loss_of(self.player)
        if self.player not in self.graphs:  # whatever it is, players of this structure meet
            self.graphs[self.player] = read_graph(value, (), label=label)._replace(meets=True)
        by_backward = self.graphs[self.player].by_backward
        with self.contexts.full_precision():
            return gradient(value, self.own, by_backward=by_backward, label=label)


def discriminator_gradient(query: Query) -> Direction:
    """g_D = ∇_D [ℓ_D(D(u)) + p(u)]."""
    chain, leaves = query.chain, leaves_of(query.other, requires_grad=query.hands_over)
    with torch.enable_grad(), query.contexts.swap({DISCRIMINATOR: query.own, GENERATOR: leaves}):
        with chain.evaluation(replay=query.replay):
            fakes, logits = shared_logits(chain, leaves, query.contexts)
            loss = plus(chain.loss(DISCRIMINATOR, logits, with_reals=True), chain.penalty(fakes).whole)
        return Direction(query.gradient(loss), loss.detach())


def generator_gradient(query: Query) -> Direction:
    """g_G = J_Gᵀ ∂_u ℓ_G(D(u)); from the kept cotangent if both players evaluate before either moves."""
    chain, kept = query.chain, query.kept
    with torch.enable_grad(), query.contexts.swap(query.point):
        if kept is not None and chain.joint:
            with query.contexts.full_precision():
                return Direction(pull_back(kept.fakes, kept.parameters, kept.cotangent), kept.loss)
        with chain.evaluation(replay=query.replay):
            loss = chain.loss(GENERATOR, chain.fake_logits(chain.fakes()), with_reals=False)
            loss = plus(loss, chain.generator_penalty())
        return Direction(query.gradient(loss), loss.detach())


def shared_logits(chain: Chain, leaves: Vector, contexts: Contexts) -> tuple[Tensor, Tensor]:
    """u, detached, and D(u); u and ∂_u ℓ_G are kept where the generator's leaves require gradients."""
    fakes = chain.fakes()
    leaf = fakes.detach().requires_grad_(leaves[0].requires_grad)
    logits = chain.fake_logits(leaf.view_as(leaf))
    if leaf.requires_grad:
        loss = chain.loss(GENERATOR, logits, with_reals=False)
        # the discriminator's own derivative goes through the same logits next
        cotangent = cotangent_at(loss, leaf, leaves, contexts, retain_graph=True)
        chain.keep(SharedFakes(fakes, leaves, cotangent, loss.detach()))
    return fakes.detach(), logits


def discriminator_loss(chain: Chain, *, with_reals: bool = True, with_penalty: bool = True) -> Tensor:
    """ℓ_D + p, by fakes without a graph."""
    with torch.no_grad():
        fakes = chain.fakes()
    loss = chain.loss(DISCRIMINATOR, chain.fake_logits(fakes), with_reals=with_reals)
    return plus(loss, chain.penalty(fakes).whole) if with_penalty else loss


def plus(loss: Tensor, penalty: Tensor | None) -> Tensor:
    """ℓ + p, if there is a p."""
    return loss if penalty is None else loss + penalty


def cotangent_at(
    value: Tensor, leaf: Tensor, own: Vector, contexts: Contexts, *, retain_graph: bool = False
) -> Cotangent:
    """∂ value at a leaf that stands for u, and at the generator's parameters."""
    if not value.requires_grad:
        gradient(value, (leaf,), label=loss_of(GENERATOR))  # raises
    with contexts.full_precision():
        of_fakes, *direct = torch.autograd.grad(value, (leaf, *own), retain_graph=retain_graph, allow_unused=True)
    return Cotangent(torch.zeros_like(leaf) if of_fakes is None else of_fakes, tuple(direct))


def corrected(now: Cotangent, weight: float, here: Cotangent, before: Cotangent) -> Cotangent:
    """now + weight · (here − before), the last two of the leading fakes alone."""
    fakes = now.fakes.clone()
    fakes[: len(here.fakes)] += weight * (here.fakes - before.fakes)
    direct = [
        _sum((1.0, n), (weight, h), (-weight, b))
        for n, h, b in zip(now.direct, here.direct, before.direct, strict=True)
    ]
    return Cotangent(fakes, tuple(direct))


def _sum(*terms: tuple[float, Tensor | None]) -> Tensor | None:
    """Σ weight · tensor over those that are there; None if none is."""
    total = None
    for weight, tensor in terms:
        if tensor is not None:
            total = weight * tensor if total is None else total + weight * tensor
    return total


def cotangent_of(chain: Chain, fakes: Tensor, own: Vector, contexts: Contexts) -> tuple[Cotangent, Tensor]:
    """The cotangent of ℓ_G, and ℓ_G."""
    leaf = fakes.detach().requires_grad_()
    # a view, because some tools refuse a leaf that is handed to a module and differentiated by
    loss = chain.loss(GENERATOR, chain.fake_logits(leaf.view_as(leaf)), with_reals=False)
    return cotangent_at(loss, leaf, own, contexts), loss.detach()


def penalised(
    cotangent: Cotangent, loss: Tensor, penalty: Tensor | None, own: Vector, contexts: Contexts
) -> tuple[Cotangent, Tensor]:
    """The cotangent and ℓ_G, with ∇q and q if there is a q."""
    if penalty is None:
        return cotangent, loss
    if penalty.requires_grad:
        with contexts.full_precision():
            grads = torch.autograd.grad(penalty, own, allow_unused=True)
        direct = tuple(_sum((1.0, d), (1.0, g)) for d, g in zip(cotangent.direct, grads, strict=True))
        cotangent = Cotangent(cotangent.fakes, direct)
    return cotangent, loss + penalty.detach()


def pull_back(fakes: Tensor, own: Vector, cotangent: Cotangent) -> Vector:
    """J_Gᵀ · cotangent, a vjp through the generator, and what is direct."""
    if not fakes.requires_grad:
        raise DifferentiationError(
            "Cannot differentiate the fakes because they depend on no parameter of the generator; check that its "
            "output is not detached"
        )
    through = torch.autograd.grad(fakes, own, cotangent.fakes, allow_unused=True)
    total = [_sum((1.0, t), (1.0, d)) if d is not None else t for t, d in zip(through, cotangent.direct, strict=True)]
    return zeros_for_none(total, own)


def loss_of(player: str) -> str:
    """Name a loss, for an error."""
    return f"the loss of player {player!r}"
