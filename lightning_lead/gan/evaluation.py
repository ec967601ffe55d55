"""One micro-batch of a GAN, looked at as a whole or link by link: u = G(z), D(u), ℓ(D(u))."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_lead.calculus.chain import Chain, Made, Structure
from lightning_lead.calculus.dual import make_dual, split_dual
from lightning_lead.calculus.noise import RandomState, primal_power_iteration
from lightning_lead.evaluation import Evaluation
from lightning_lead.gan.batch import GANBatch, call_network

if TYPE_CHECKING:
    from lightning_lead.gan import LeadGANModule

__all__ = ["GANEvaluation"]


class GANEvaluation(Evaluation, Chain):
    """A GAN's losses on one micro-batch, also link by link: u = G(z), D(u), ℓ(D(u)); see `calculus.chain`."""

    maker, judge = "generator", "discriminator"
    _module: LeadGANModule
    _batch: GANBatch

    def __init__(
        self, module: LeadGANModule, batch: GANBatch, seed: int, *, repeated: bool, structure: Structure
    ) -> None:
        super().__init__(module, batch, seed, repeated=repeated)
        self.structure = structure
        plain = not module.game.rule.couples or module.game.rule.displaces  # one gradient, which needs no structure
        self.linked = module._linked() and (structure.chained or plain)
        self.joint = module.game.play == "simultaneous"
        self.shares = batch.discriminator_moves and (self._looked_at_once() if self.joint else module.shared_latents)
        self._judging: RandomState | None = None
        self._partner: GANEvaluation | None = None
        self._made: Made | None = None

    def _looked_at_once(self) -> bool:
        """In simultaneous play fakes take two reverse passes through the discriminator, and compiled code allows one.

        With accumulation the graphs of all micro-batches would wait for the generator.
        """
        module = self._module
        return self.structure.chained and module.accumulate == 1 and not _compiled(module.discriminator)

    @property
    def separable(self) -> bool:
        """Whether the discriminator's loss is a function of the reals' logits plus one of the fakes'."""
        return self._module._separable()

    @property
    def penalised_by_made(self) -> bool:
        """Whether the penalty looks at the fakes."""
        return self._module.penalty is not None and self._module.penalty.looks_at_fakes

    @contextmanager
    def look(self, *, replay: bool) -> Iterator[None]:
        """One evaluation, of dual numbers too."""
        duals = primal_power_iteration(self._module) if self.structure.chained else nullcontext()
        with super().look(replay=replay), duals:
            yield

    def part(self, fraction: float) -> GANEvaluation:
        """The first samples of the micro-batch alone."""
        counts = {len(self._batch.real), len(self._batch.latents)}
        ends = {count: max(1, math.ceil(fraction * count)) for count in counts}
        few = GANBatch._make(t[: ends[len(t)]] if isinstance(t, Tensor) else t for t in self._batch)
        part = GANEvaluation(self._module, few, self._seed, repeated=self._repeated, structure=self.structure)
        part._record, part._judging = self._record, self._judging
        return part

    def among(self, made: Tensor) -> Tensor:
        """The first fakes."""
        return made[: len(self._batch.latents)]

    def make(self) -> Tensor:
        """The fakes."""
        return self._module._fakes(self._batch)

    def judge_made(self, made: Tensor) -> Tensor:
        """Their logits."""
        if self._repeated and self._judging is None:
            self._judging = RandomState(self._module.device)
        return call_network(self._module.discriminator, made, self._batch.fake_labels)

    def follow(self, partner: GANEvaluation) -> None:
        """Look at the latents of another evaluation as that one did.

        Args:
            partner: of the discriminator's first step.
        """
        self._partner, self._seed = partner, partner._seed

    def keep(self, made: Made) -> None:
        """Keep fakes for the generator's step."""
        self._made = made

    def kept(self) -> Made | None:
        """The fakes of the discriminator's first step, once; their graph goes with them."""
        source = self if self.joint else self._partner
        if source is None:
            return None
        made, source._made = source._made, None
        return made

    @contextmanager
    def judge_again(self) -> Iterator[None]:
        """The random numbers that the first judgement drew, though nothing has been made before it."""
        judging = self._judging
        if judging is None and self._partner is not None:
            judging = self._partner._judging
        if judging is not None:
            judging.restore()
        yield

    def loss(self, player: str, judged: Tensor, *, with_data: bool) -> Tensor:
        """A player's loss; without data, reals are left out where the objective keeps them apart from the fakes."""
        if player == self.maker:
            return self._module.generator_loss(judged)
        if with_data or not self.separable:
            return self._module.discriminator_loss(self._module._real_logits(self._batch), judged)
        primal, tangent = split_dual(judged)
        absent = torch.zeros_like(primal).detach()
        if tangent is not None:  # torch takes 0.2 ms for the sum of a number that moves and one that does not
            absent = make_dual(absent, absent)
        return self._module.discriminator_loss(absent, judged)

    def penalty(self, made: Tensor) -> Tensor | None:
        """The discriminator's penalty, or None."""
        return self._module._penalty(self._batch, made)


def _compiled(network: nn.Module) -> bool:
    return any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in network.modules())
