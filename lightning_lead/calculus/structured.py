"""The exact cross term of a game whose players meet only in what one of them makes: u = G(z), L_i = ℓ_i(D(u)).

    the judge's:   c_D = ∓∇_D ψ,   ψ = d/dε ℓ(D(u + εt)),       t = J_G Δ_G, one forward-mode pass through G
    the maker's:   c_G = ∓J_Gᵀ ∂_u ψ,   ψ = d/dε ℓ(D_{θ+εΔ}(u)), added to ∂_u L_G before the one backward through G

with ℓ the opponent's loss and the minus sign in the opponent form, the own loss and the plus sign in the own form. G is
never differentiated twice, nothing is differentiated through G more than once, and direction and cross term share one
reverse pass: d is the gradient of the single scalar L_i + a·(∓ψ).

The difference form has the structure as well: what does not depend on u cancels, so reals are looked at once, and the
maker's fakes are made once.

    the judge's:   c_D = ∇_D [ℓ_D(D(u)) − ℓ_D(D(u⁻))],   u⁻ made by G at θ_G − Δ_G
    the maker's:   c_G = J_Gᵀ ∂_u [ℓ_G(D(u)) − ℓ_G(D⁻(u))],   D⁻ at θ_D − Δ_D

Where both players look at the same latents, the fakes of the judge's step serve the maker's, and ∂_u ℓ_G(D⁻(u)) is
taken in the judge's step, where D still is D⁻: the maker's correction then costs nothing in its own step.

Cost on top of plain training, with F = one forward pass: the judge pays 2F of G for t and 3F of D, the maker 4F of D.
In dual arithmetic (three products for one) none of it can be left out for a general network; a D that is piecewise
linear sample by sample needs 1F and 2F, see `calculus.piecewise`.

Reference: Askari Hemmat et al., "LEAD: Min-Max Optimization from a Physical Perspective", TMLR 2023, Algorithm 1;
Pearlmutter, "Fast Exact Multiplication by the Hessian", Neural Computation 1994.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lightning_lead._errors import DifferentiationError
from lightning_lead._typing import CrossForm, Point, Vector
from lightning_lead.calculus.derivatives import gradient
from lightning_lead.calculus.dual import dual_vector, lean_duals, split_dual, uncompiled
from lightning_lead.calculus.piecewise import logits_along_data, logits_along_parameters

__all__ = [
    "Chain",
    "ChainDirection",
    "Made",
    "Structure",
    "judge_difference",
    "judge_direction",
    "judge_gradient",
    "maker_difference",
    "maker_direction",
    "maker_gradient",
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

    general: str | None  # why cross terms are taken of the losses as a whole
    dual: str | None  # why the judge is differentiated by dual numbers

    @property
    def chained(self) -> bool:
        """Whether the players meet only in u = G(z)."""
        return self.general is None

    @property
    def piecewise_linear(self) -> bool:
        """Whether the judge is, in what was made, sample by sample; see `calculus.piecewise`."""
        return self.chained and self.dual is None


@runtime_checkable
class Chain(Protocol):
    """What a micro-batch offers if its losses have the structure; each call looks at the same data and latents."""

    maker: str
    judge: str
    structure: Structure
    linked: bool  # whether losses are evaluated link by link at all
    shares: bool  # whether the maker will look at what was made here
    joint: bool  # whether neither player moves before both have looked
    separable: bool  # whether the judge's loss is a function of its data plus a function of what was made

    def part(self, fraction: float) -> Chain:
        """The same look at the first samples alone, which never is the first evaluation."""
        ...

    def among(self, made: Tensor) -> Tensor:
        """Those of a larger micro-batch's u that this one looks at."""
        ...

    def keep(self, made: Made) -> None:
        """Keep it for the maker's step."""
        ...

    def kept(self) -> Made | None:
        """What the judge's step kept, once."""
        ...

    def judge_again(self) -> AbstractContextManager[object]:
        """Inside of a replay that has not made anything: the random numbers that the first judgement drew."""
        ...

    def look(self, *, replay: bool) -> AbstractContextManager[object]:
        """The random numbers and buffers of one evaluation; make, judge and losses are called inside, in that order."""
        ...

    def make(self, *, moving: bool = False) -> Tensor:
        """u = G(z), also of parameters that move; what was made ahead, where they do not."""
        ...

    def make_ahead(self) -> None:
        """Begin the first evaluation: make u, for `make` to hand out when that evaluation goes on."""
        ...

    def judge_made(self, made: Tensor) -> Tensor:
        """D(u)."""
        ...

    def loss(self, player: str, judged: Tensor, *, with_data: bool) -> Tensor:
        """ℓ of a player; without data, up to what does not depend on u, if the loss is separable."""
        ...


class ChainDirection(NamedTuple):
    """A player's direction on one micro-batch, and its loss."""

    direction: Vector
    loss: Tensor


def judge_gradient(
    chain: Chain, own: Vector, other: Vector, *, place: Place, full_precision: Context, replay: bool
) -> ChainDirection:
    """g_D; arguments as in `judge_direction`."""
    leaves = _leaves(other, hands_on=chain.joint and chain.shares and not replay)
    with torch.enable_grad(), place({chain.judge: own, chain.maker: leaves}):
        with chain.look(replay=replay):
            judged = _judge_and_keep(chain, leaves, full_precision)
            loss = chain.loss(chain.judge, judged, with_data=True)
        with full_precision():
            return ChainDirection(gradient(loss, own, label=_loss_of(chain.judge)), loss.detach())


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
                return ChainDirection(_pull_back(kept.made, kept.parameters, kept.push), kept.loss)
        with chain.look(replay=replay):
            loss = chain.loss(chain.maker, chain.judge_made(chain.make()), with_data=False)
        with full_precision():
            return ChainDirection(gradient(loss, own, label=_loss_of(chain.maker)), loss.detach())


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
                whole = _judge_loss(chain)
            chain, replay = part, True
        with chain.look(replay=replay):
            with torch.no_grad(), lean_duals(), place({chain.maker: dual_vector(other, displacement)}):
                made, moved = split_dual(chain.make(moving=True))
            if moved is None:
                raise _no_interaction(chain.maker)
            with _judged_along_data(chain, made, moved) as judged:
                loss, work = _loss_and_work(chain, chain.judge, judged, form, with_data=part is None)
            if work is None or not work.requires_grad:
                raise _no_interaction(chain.judge)
        loss = loss if whole is None else whole
        with full_precision():
            total = loss + _signed(weight, form) * work
            return ChainDirection(gradient(total, own, label=_loss_of(chain.judge)), loss.detach())


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
            loss, work = _loss_and_work(chain, chain.maker, judged, form, with_data=False)
        if work is None or not work.requires_grad:
            raise _no_interaction(chain.judge)
        turn = _signed(weight, form) * work
        with full_precision():
            return gradient(loss + turn if plain else turn, (leaf,), label=_loss_of(chain.maker))[0], loss.detach()

    with torch.enable_grad(), place({chain.maker: own, chain.judge: other}):
        with chain.look(replay=replay):
            made = chain.make()
            pushed, loss = push(chain, made, plain=True) if part is None else _push(chain, made, full_precision)
        if part is not None:
            few = part.among(made)
            with part.look(replay=True):
                pushed[: len(few)] += push(part, few, plain=False)[0]
        with full_precision():
            return ChainDirection(_pull_back(made, own, pushed), loss)


def judge_difference(
    chain: Chain,
    own: Vector,
    other: Vector,
    *,
    displacement: Vector,
    weight: float,
    place: Place,
    full_precision: Context,
    replay: bool,
    part: Chain | None = None,
) -> ChainDirection:
    """g_D + weight·c_D in the difference form; arguments as in `judge_direction`."""
    player, compared = chain.judge, part if part is not None else chain
    leaves = _leaves(other, hands_on=chain.shares and not replay)
    # compiled code allows one reverse pass, and fakes that are handed on take two through the judge
    mode = uncompiled() if leaves[0].requires_grad else nullcontext()
    with torch.enable_grad(), full_precision(), place({player: own}), mode:
        with chain.look(replay=replay), place({chain.maker: leaves}):
            judged = _judge_and_keep(chain, leaves, full_precision)
            loss = chain.loss(player, judged, with_data=True)
            if part is None:
                now = chain.loss(player, judged, with_data=False) if chain.separable else loss
        if part is not None:
            with part.look(replay=True), place({part.maker: other}):
                now = _judge_loss(part, with_data=not part.separable)
        with compared.look(replay=True), place({chain.maker: _earlier(other, displacement)}):
            before = _judge_loss(compared, with_data=not compared.separable)
        return ChainDirection(gradient(loss + weight * (now - before), own, label=_loss_of(player)), loss.detach())


def maker_difference(
    chain: Chain,
    own: Vector,
    other: Vector,
    *,
    displacement: Vector,
    weight: float,
    place: Place,
    full_precision: Context,
    replay: bool,
    part: Chain | None = None,
    kept: Made | None = None,
) -> ChainDirection:
    """g_G + weight·c_G in the difference form; arguments as in `maker_gradient` and `judge_direction`."""
    compared = part if part is not None else chain
    with torch.enable_grad(), full_precision(), place({chain.maker: own, chain.judge: other}):
        if kept is None:
            with chain.look(replay=replay):
                made = chain.make()
                now, loss = _push(chain, made, full_precision)
        else:
            made, own = kept.made, kept.parameters
            now, loss = kept.push, kept.loss
        if kept is not None and not chain.joint:  # the judge has moved since; its old push is there, of all samples
            with chain.look(replay=replay), chain.judge_again():
                now, loss = _push(chain, made, full_precision)
            return ChainDirection(_pull_back(made, own, now + weight * (now - kept.push)), loss)
        few, here = compared.among(made), now
        if part is not None:
            with part.look(replay=True), part.judge_again():
                here, _ = _push(part, few, full_precision)
        with compared.look(replay=True), compared.judge_again(), place({chain.judge: _earlier(other, displacement)}):
            before, _ = _push(compared, few, full_precision)
        pushed = now.clone()
        pushed[: len(few)] += weight * (here - before)
        return ChainDirection(_pull_back(made, own, pushed), loss)


def _leaves(vector: Vector, *, hands_on: bool) -> Vector:
    return tuple(p.detach().requires_grad_(hands_on) for p in vector)


def _judge_and_keep(chain: Chain, leaves: Vector, full_precision: Context) -> Tensor:
    """D(u); where the maker's parameters require gradients, u and ∂_u ℓ_G are kept for the maker."""
    made = chain.make()
    leaf = made.detach().requires_grad_(leaves[0].requires_grad)
    judged = chain.judge_made(leaf.view_as(leaf))
    if leaf.requires_grad:
        loss = chain.loss(chain.maker, judged, with_data=False)
        with full_precision():
            (push,) = gradient(loss, (leaf,), retain_graph=True, label=_loss_of(chain.maker))
        chain.keep(Made(made, leaves, push, loss.detach()))
    return judged


def _judge_loss(chain: Chain, *, with_data: bool = True) -> Tensor:
    """ℓ_D, by fakes of which nobody wants a derivative."""
    with torch.no_grad():
        made = chain.make()
    return chain.loss(chain.judge, chain.judge_made(made), with_data=with_data)


def _push(chain: Chain, made: Tensor, full_precision: Context) -> tuple[Tensor, Tensor]:
    """∂_u ℓ_G, and ℓ_G."""
    leaf = made.detach().requires_grad_()
    # a view, because some tools refuse a leaf that is handed to a module and differentiated by
    loss = chain.loss(chain.maker, chain.judge_made(leaf.view_as(leaf)), with_data=False)
    with full_precision():
        return gradient(loss, (leaf,), label=_loss_of(chain.maker))[0], loss.detach()


def _signed(weight: float, form: CrossForm) -> float:
    return weight if form == "own" else -weight


def _loss_of(player: str) -> str:
    return f"the loss of player {player!r}"


@contextmanager
def _judged_along_data(chain: Chain, made: Tensor, moved: Tensor) -> Iterator[Tensor]:
    """D(u + εt), a dual number, while its level is open."""
    if chain.structure.piecewise_linear:
        logits, slopes = logits_along_data(chain.judge_made, made, moved)
        with lean_duals():
            yield logits if slopes is None else forward_ad.make_dual(logits, slopes)
    else:
        with lean_duals():
            yield chain.judge_made(forward_ad.make_dual(made, moved))


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
            yield logits if slopes is None else forward_ad.make_dual(logits, slopes)
    else:
        with lean_duals(), place({chain.judge: dual_vector(parameters, displacement)}):
            # a view, because some tools refuse a leaf that is handed to a module and differentiated by
            yield chain.judge_made(leaf.view_as(leaf))


def _loss_and_work(
    chain: Chain, player: str, judged: Tensor, form: CrossForm, *, with_data: bool
) -> tuple[Tensor, Tensor | None]:
    """The player's loss, and ψ: how fast the opponent's changes, or the own one, or None where it does not."""
    if form == "own":
        return split_dual(chain.loss(player, judged, with_data=with_data))
    opponent = chain.maker if player == chain.judge else chain.judge
    work = split_dual(chain.loss(opponent, judged, with_data=False))[1]
    return chain.loss(player, split_dual(judged)[0], with_data=with_data), work


def _earlier(vector: Vector, displacement: Vector) -> Vector:
    return tuple((p - d.to(p.dtype)).detach() for p, d in zip(vector, displacement, strict=True))


def _pull_back(made: Tensor, own: Vector, push: Tensor) -> Vector:
    """J_Gᵀ push."""
    if not made.requires_grad:
        raise DifferentiationError(
            "Cannot differentiate what the maker makes because it depends on none of its parameters; check that its "
            "output is not detached"
        )
    grads = torch.autograd.grad(made, own, push, allow_unused=True)
    return tuple(torch.zeros_like(p) if g is None else g for g, p in zip(grads, own, strict=True))


def _no_interaction(player: str) -> DifferentiationError:
    return DifferentiationError(
        f"Cannot form the cross term because the losses do not depend on {player!r}; "
        "the players must meet in one loss (is an output detached, or an opponent left out of the loss?)"
    )
