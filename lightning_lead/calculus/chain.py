"""A game whose players meet only in what one of them makes, u = G(z), L_i = ℓ_i(D(u)): its links, and plain gradients.

    g_D = ∇_D [ℓ_D(D(u)) + p(u)],   g_G = J_Gᵀ ∂_u ℓ_G(D(u))

The maker is G, the judge is D. Where both look at the same u before either moves, it is made and judged once. A
penalty p is the judge's alone; it holds derivatives of D by its data, so it is no function of D(u).
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_lead._errors import DifferentiationError
from lightning_lead._typing import Point, Vector
from lightning_lead.calculus.derivatives import gradient

__all__ = [
    "Chain",
    "ChainDirection",
    "Context",
    "Made",
    "Place",
    "Structure",
    "judge_and_keep",
    "judge_gradient",
    "judge_loss",
    "leaves_of",
    "loss_of",
    "maker_gradient",
    "plus",
    "pull_back",
    "push_of",
]

Place = Callable[[Point], AbstractContextManager[object]]
Context = Callable[[], AbstractContextManager[object]]


class Made(NamedTuple):
    """What a judge's step hands on to the maker's step on the same latents."""

    made: Tensor  # u, with its graph
    parameters: Vector  # the leaves of that graph
    push: Tensor  # ∂_u ℓ of the maker, by the judge as it was
    loss: Tensor  # that ℓ


class Structure(NamedTuple):
    """What is known of the losses; where the faster way is not open, why.

    Example:
        >>> Structure(None, "TanhBackward0 is not piecewise linear").piecewise_linear
        False
    """

    not_chained: str | None  # why cross terms are taken of the losses as a whole
    not_piecewise_linear: str | None  # why the judge is differentiated by dual numbers

    @property
    def chained(self) -> bool:
        """Whether the players meet only in u = G(z)."""
        return self.not_chained is None

    @property
    def piecewise_linear(self) -> bool:
        """Whether the judge is, in what was made, sample by sample; see `calculus.piecewise`."""
        return self.chained and self.not_piecewise_linear is None


class Chain(abc.ABC):
    """What a micro-batch offers if its losses have the structure; each call looks at the same data and latents."""

    maker: str
    judge: str
    structure: Structure
    linked: bool  # whether plain gradients are taken link by link
    shares: bool  # whether the maker will look at what was made here
    joint: bool  # whether neither player moves before both have looked

    @property
    @abc.abstractmethod
    def separable(self) -> bool:
        """True if ℓ of the judge is a function of its data plus a function of what was made."""

    @property
    @abc.abstractmethod
    def penalised_by_made(self) -> bool:
        """True if p depends on u."""

    @abc.abstractmethod
    def part(self, fraction: float) -> Chain:
        """The same look at the first samples alone, which never is the first evaluation."""

    @abc.abstractmethod
    def among(self, made: Tensor) -> Tensor:
        """Those of a larger micro-batch's u that this one looks at."""

    @abc.abstractmethod
    def keep(self, made: Made) -> None:
        """Keep it for the maker's step."""

    @abc.abstractmethod
    def kept(self) -> Made | None:
        """What the judge's step kept, once."""

    @abc.abstractmethod
    def judge_again(self) -> AbstractContextManager[object]:
        """Inside of a replay that has not made anything: the random numbers that the first judgement drew."""

    @abc.abstractmethod
    def look(self, *, replay: bool) -> AbstractContextManager[object]:
        """The random numbers and buffers of one evaluation; make, judge and losses are called inside, in that order."""

    @abc.abstractmethod
    def make(self) -> Tensor:
        """u = G(z)."""

    @abc.abstractmethod
    def judge_made(self, made: Tensor) -> Tensor:
        """D(u)."""

    @abc.abstractmethod
    def loss(self, player: str, judged: Tensor, *, with_data: bool) -> Tensor:
        """ℓ of a player; without data, up to what does not depend on u, if the loss is separable."""

    @abc.abstractmethod
    def penalty(self, made: Tensor) -> Tensor | None:
        """p(u), outside of dual numbers, or None; at any place in a look, for it has random numbers of its own."""


class ChainDirection(NamedTuple):
    """A player's direction on one micro-batch, and its loss."""

    direction: Vector
    loss: Tensor


def judge_gradient(
    chain: Chain,
    own: Vector,
    other: Vector,
    *,
    place: Place,
    full_precision: Context,
    replay: bool,
    hands_on: bool = False,
) -> ChainDirection:
    """g_D; arguments as in `judge_direction`, and `hands_on` where the fakes may serve the maker's step too."""
    leaves = leaves_of(other, hands_on=hands_on and chain.shares and not replay)
    with torch.enable_grad(), place({chain.judge: own, chain.maker: leaves}):
        with chain.look(replay=replay):
            made, judged = judge_and_keep(chain, leaves, full_precision)
            loss = plus(chain.loss(chain.judge, judged, with_data=True), chain.penalty(made))
        with full_precision():
            return ChainDirection(gradient(loss, own, label=loss_of(chain.judge)), loss.detach())


def maker_gradient(
    chain: Chain,
    own: Vector,
    other: Vector,
    *,
    place: Place,
    full_precision: Context,
    replay: bool,
    kept: Made | None = None,
) -> ChainDirection:
    """g_G; arguments as in `judge_direction`, the players exchanged, and `kept` from the judge's step."""
    with torch.enable_grad(), place({chain.maker: own, chain.judge: other}):
        if kept is not None and chain.joint:
            with full_precision():
                return ChainDirection(pull_back(kept.made, kept.parameters, kept.push), kept.loss)
        with chain.look(replay=replay):
            loss = chain.loss(chain.maker, chain.judge_made(chain.make()), with_data=False)
        with full_precision():
            return ChainDirection(gradient(loss, own, label=loss_of(chain.maker)), loss.detach())


def leaves_of(vector: Vector, *, hands_on: bool) -> Vector:
    """The maker's parameters for the judge's step, requiring gradients if fakes are handed on to the maker."""
    return tuple(p.detach().requires_grad_(hands_on) for p in vector)


def judge_and_keep(chain: Chain, leaves: Vector, full_precision: Context) -> tuple[Tensor, Tensor]:
    """u, detached, and D(u); where the maker's parameters require gradients, u and ∂_u ℓ_G are kept for the maker."""
    made = chain.make()
    leaf = made.detach().requires_grad_(leaves[0].requires_grad)
    judged = chain.judge_made(leaf.view_as(leaf))
    if leaf.requires_grad:
        loss = chain.loss(chain.maker, judged, with_data=False)
        with full_precision():
            (push,) = gradient(loss, (leaf,), retain_graph=True, label=loss_of(chain.maker))
        chain.keep(Made(made, leaves, push, loss.detach()))
    return made.detach(), judged


def judge_loss(chain: Chain, *, with_data: bool = True, with_penalty: bool = True) -> Tensor:
    """ℓ_D + p, by fakes of which nobody wants a derivative."""
    with torch.no_grad():
        made = chain.make()
    loss = chain.loss(chain.judge, chain.judge_made(made), with_data=with_data)
    return plus(loss, chain.penalty(made)) if with_penalty else loss


def plus(loss: Tensor, penalty: Tensor | None) -> Tensor:
    """ℓ + p, if there is a p."""
    return loss if penalty is None else loss + penalty


def push_of(chain: Chain, made: Tensor, full_precision: Context) -> tuple[Tensor, Tensor]:
    """∂_u ℓ_G, and ℓ_G."""
    leaf = made.detach().requires_grad_()
    # a view, because some tools refuse a leaf that is handed to a module and differentiated by
    loss = chain.loss(chain.maker, chain.judge_made(leaf.view_as(leaf)), with_data=False)
    with full_precision():
        return gradient(loss, (leaf,), label=loss_of(chain.maker))[0], loss.detach()


def pull_back(made: Tensor, own: Vector, push: Tensor) -> Vector:
    """J_Gᵀ push."""
    if not made.requires_grad:
        raise DifferentiationError(
            "Cannot differentiate what the maker makes because it depends on none of its parameters; check that its "
            "output is not detached"
        )
    grads = torch.autograd.grad(made, own, push, allow_unused=True)
    return tuple(torch.zeros_like(p) if g is None else g for g, p in zip(grads, own, strict=True))


def loss_of(player: str) -> str:
    """How an error names a loss."""
    return f"the loss of player {player!r}"
