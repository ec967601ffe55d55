"""Losses of a GAN on one micro-batch, for the oracle: as a whole, or link by link, u = G(z), D(u), ℓ(D(u))."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import NamedTuple, final

import torch
from torch import Tensor

from lightning_lead.calculus._chain.dual import has_compiled, make_dual, split_dual
from lightning_lead.calculus._chain.links import (
    DISCRIMINATOR,
    GENERATOR,
    Chain,
    PenaltyParts,
    SharedFakes,
    Structure,
)
from lightning_lead.calculus._chain.power_iteration import primal_power_iteration
from lightning_lead.calculus._rng import RandomState
from lightning_lead.engine.losses import BatchLosses
from lightning_lead.gan._batch import GANBatch
from lightning_lead.gan._problem import GANProblem
from lightning_lead.rules.base import RuleNeeds

__all__ = ["GANLosses", "TurnSettings"]


class TurnSettings(NamedTuple):
    """The settings of a game step that decide which evaluations of a GAN its turns may share."""

    needs: RuleNeeds
    joint: bool  # both players evaluate before either moves
    shared_latents: bool
    accumulate: int
    known_calls: dict[str, set[str]]  # by a piecewise-linear discriminator, since its structure was found
    use_duals: Callable[[str], None]  # told where it is not piecewise linear any more


@final
class GANLosses(BatchLosses, Chain):
    """Both losses of a GAN; see `calculus._chain.links` for the methods by which derivatives are taken link by link."""

    def __init__(
        self,
        problem: GANProblem,
        batch: GANBatch,
        seed: int,
        *,
        settings: TurnSettings,
        structure: Structure,
        repeated: bool,
        losses: Callable[[GANBatch, frozenset[str]], Mapping[str, Tensor]] | None = None,
    ) -> None:
        losses = losses if losses is not None else problem.losses
        super().__init__(problem.module, losses, batch, seed, noise=problem.noise, repeated=repeated)
        self.problem, self._settings, self._batch = problem, settings, batch
        self._names = frozenset({GENERATOR, DISCRIMINATOR})
        if structure.piecewise_linear and (reason := self.why_duals()):  # another objective or penalty since
            structure = structure._replace(not_piecewise_linear=reason)
            settings.use_duals(reason)
        self.structure, self.known_calls = structure, settings.known_calls
        # a plain gradient is the same by links or as a whole, whatever the losses; links need no graph of G in D's turn
        one_gradient = not settings.needs.uses_opponent or settings.needs.displaces
        self.linked = not problem.overridden and (structure.chained or (one_gradient and not settings.joint))
        self.joint = settings.joint
        self.shares = batch.discriminator_moves and (self._shares_jointly() if self.joint else settings.shared_latents)
        self._reals: Tensor | None = None  # D(x) of this evaluation
        self._before_logits: RandomState | None = None
        self._partner: GANLosses | None = None
        self._shared: SharedFakes | None = None

    def _shares_jointly(self) -> bool:
        """Return True if simultaneous play computes fakes once for both players."""
        # Both players differentiate through one graph of the discriminator, and compiled code allows one reverse pass.
        # With accumulation the graphs of all micro-batches would stay in memory until the generator's part.
        compiled = has_compiled(self.problem.discriminator)
        sees_reals = self.problem.generator_sees_reals
        return self.structure.chained and self._settings.accumulate == 1 and not compiled and not sees_reals

    def why_duals(self) -> str | None:
        """Say what about the losses needs dual numbers, even if the discriminator is piecewise linear, or None."""
        if not self.separable:
            return "the objective may let reals and fakes meet"
        if any(penalty.looks_at_fakes and not penalty.of_slopes for penalty in self.problem.penalties):
            return "a penalty depends on more of the fakes than slopes"
        return None

    @property
    def separable(self) -> bool:
        """True if ℓ_D is a function of the reals' logits plus a function of the fakes' logits."""
        return self.problem.separable

    @property
    def penalty_sees_fakes(self) -> bool:
        """True if the penalty depends on the fakes."""
        return self.problem.penalty_sees_fakes

    @property
    def penalises_generator(self) -> bool:
        """True if the generator's loss has a penalty in this update."""
        return self.problem.penalises_generator(self._batch)

    def use_duals(self, reason: str) -> None:
        """Differentiate the discriminator by dual numbers from now on, here and in later micro-batches."""
        self.structure = self.structure._replace(not_piecewise_linear=reason)
        self._settings.use_duals(reason)

    @contextmanager
    def evaluation(self, *, replay: bool, repeat: bool | None = None) -> Iterator[None]:
        """Seed one evaluation, of dual numbers too."""
        self._reals = None
        duals = primal_power_iteration(self._module) if self.structure.chained else nullcontext()
        with super().evaluation(replay=replay, repeat=repeat), duals:
            yield

    def part(self, fraction: float) -> GANLosses:
        """Return the losses on a leading fraction of the micro-batch; every evaluation of them is a replay."""
        # reals and latents may differ in number, and each is cut to the same fraction
        counts = {len(self._batch.real), len(self._batch.latents)}
        ends = {count: max(1, math.ceil(fraction * count)) for count in counts}
        few = GANBatch._make(t[: ends[len(t)]] if isinstance(t, Tensor) else t for t in self._batch)
        part = GANLosses(
            self.problem,
            few,
            self._seed,
            settings=self._settings,
            structure=self.structure,
            repeated=self._repeated,
            losses=self._losses,
        )
        part._record, part._before_logits, part.scale = self._record, self._before_logits, self.scale
        return part

    def first_of(self, fakes: Tensor) -> Tensor:
        """The leading fakes, as many as there are latents here."""
        return fakes[: len(self._batch.latents)]

    def fakes(self) -> Tensor:
        """u = G(z)."""
        return self.problem.fakes(self._batch)

    def fake_logits(self, fakes: Tensor) -> Tensor:
        """D(u)."""
        if self._repeated and self._before_logits is None:
            # where the random numbers stood after G: a replay that computes no fakes begins D from here
            self._before_logits = RandomState(self._noise.device, torch_only=self._noise.torch_only)
        return self.problem.fake_logits(self._batch, fakes)

    def follow(self, partner: GANLosses) -> None:
        """Use the random numbers, and the fakes, of the discriminator's turn on the same latents."""
        self._partner, self._seed = partner, partner._seed

    def keep(self, shared: SharedFakes) -> None:
        """Keep fakes for the generator's turn."""
        self._shared = shared

    def kept(self) -> SharedFakes | None:
        """Return the fakes of the discriminator's turn once; their graph goes with them."""
        source = self if self.joint else self._partner
        if source is None:
            return None
        shared, source._shared = source._shared, None
        if shared is None or source.scale == self.scale:
            return shared
        factor = self.scale / source.scale  # each turn has a scale of its own
        return shared._replace(cotangent=shared.cotangent.scaled(factor), loss=shared.loss * factor)

    @contextmanager
    def discriminator_replay(self) -> Iterator[None]:
        """Restore the random numbers with which the discriminator first began, as no fakes are computed before it."""
        state = self._before_logits
        if state is None and self._partner is not None:
            state = self._partner._before_logits
        if state is not None:
            state.restore()
        yield

    def loss(self, player: str, fake_logits: Tensor, *, with_reals: bool) -> Tensor:
        """ℓ of a player; without reals where the objective keeps them apart from the fakes."""
        return self.scaled(self._loss(player, fake_logits, with_reals=with_reals))

    def _loss(self, player: str, fake_logits: Tensor, *, with_reals: bool) -> Tensor:
        if player == GENERATOR:
            if not self.problem.generator_sees_reals:
                return self.problem.generator_loss(fake_logits)
            reals = self._real_logits()
            if split_dual(fake_logits)[1] is None:  # a plain loss beside the one along a direction
                reals = split_dual(reals)[0]
            return self.problem.generator_loss(fake_logits, real_logits=reals)
        if with_reals or not self.separable:
            return self.problem.discriminator_loss(self._real_logits(), fake_logits)
        # a separable ℓ_D is a(D(x)) + b(D(u)), so constant logits in place of D(x) change it by a constant
        primal, tangent = split_dual(fake_logits)
        absent = torch.zeros_like(primal).detach()
        if tangent is not None:  # torch takes 0.2 ms for the sum of a number that moves and one that does not
            absent = make_dual(absent, absent)
        return self.problem.discriminator_loss(absent, fake_logits)

    def _real_logits(self) -> Tensor:
        """D(x), computed once per evaluation, as in a loop whose losses share it."""
        if self._reals is None:
            self._reals = self.problem.real_logits(self._batch)
        return self._reals

    def penalty(self, fakes: Tensor, *, of_fakes: bool = False) -> PenaltyParts:
        """p(u)."""
        parts = self.problem.penalty_parts(self._batch, fakes, of_fakes=of_fakes)
        return PenaltyParts(*(None if part is None else self.scaled(part) for part in parts))

    def generator_penalty(self) -> Tensor | None:
        """q."""
        penalty = self.problem.generator_penalty_on(self._batch)
        return None if penalty is None else self.scaled(penalty)
