"""LeadGANModule: a generator and a discriminator under a game rule, one game step per `training_step`.

one game step = n discriminator updates, each on its share of the batch, then one generator update. The first of the n
answers the generator's last move, the others are plain; the generator answers all n together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive, check_rates
from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import LRSchedulerCallable, OptimizerCallable
from lightning_lead.calculus._chain.links import Structure
from lightning_lead.calculus._rng import mix_seed
from lightning_lead.calculus._terms import OracleStatistics
from lightning_lead.engine.strategy import GameStrategy
from lightning_lead.engine.turns import Turn
from lightning_lead.gan._batch import EVALUATED, GANBatch
from lightning_lead.gan._chain_losses import GANLosses
from lightning_lead.gan._labels import call_network, takes_labels
from lightning_lead.gan._penalties import as_penalties, check_generator_penalty, no_penalty_values
from lightning_lead.gan._problem import AdversarialLosses, GANProblem, HookedProblem
from lightning_lead.gan._settings import check_batch, check_last_batch, check_schedule
from lightning_lead.gan._structured_module import StructuredModule
from lightning_lead.gan.augmentation import adaptive_parts, check_augment
from lightning_lead.objectives import AbstractGeneratorPenalty, AbstractPenalty, adversarial_objective
from lightning_lead.rules.base import AbstractGameRule

__all__ = ["LeadGANModule"]


class LeadGANModule(AdversarialLosses, StructuredModule):
    """A GAN trained as a game; subclass it, or pass two networks.

    Labels go to the argument that a network's `label_argument` names; or else to one called `labels`, `label`,
    `class_labels` or `classes`, to a keyword-only `y` or `c`, or to the second one. An optional argument is used if the
    network has `num_classes`.

    Args:
        generator: latents (n, latent_dim)[, labels (n,)] -> samples of the shape of the real ones.
        discriminator: samples[, labels] -> logits, one per sample.
        objective: "non_saturating", "minimax", "hinge", "wasserstein", "least_squares", "relativistic_pairing",
            "relativistic_average", or an object with `generator_loss(fake_logits)`, or `(fake_logits, real_logits)`,
            and `discriminator_loss(real_logits, fake_logits)`.
        penalty: what the discriminator's loss gets on top, as `R1(weight=10.0)` or `LeCam(weight=0.01)` of
            `lightning_lead.objectives`, or a list of them, or None.
        generator_penalty: what the generator's loss gets on top, as `PathLength(weight=2.0)`, or None.
        game: rule, play and state; or a rule; or a name, as in "ExtraAdam"; default `LEADStrategy()`, the exact term
            with a coupling that follows the optimizer's momentum.
        latent_dim: size of a latent; default `generator.latent_dim`.
        augment: samples -> samples, differentiable, applied to reals and fakes before the discriminator sees them, as
            `DiffAugment()` or `AdaptiveAugment()`; or None.
        discriminator_steps: discriminator updates per game step, ≥ 1; a batch from the loader is split evenly over
            them.
        discriminator_warmup: game steps at the start in which the discriminator alone moves, ≥ 0.
        generator_batch_size: fakes per generator update; default those of a discriminator update, a share of the batch.
        optimizer: param groups -> optimizer; default Adam with betas (0, 0.9).
        generator_lr: the generator's learning rate, > 0.
        discriminator_lr: the discriminator's learning rate, > 0.
        scheduler: optimizer -> learning-rate scheduler, stepped once per game step; or None.
        clip: largest norm of a player's direction, > 0, or None.
        accumulate: micro-batches per update, ≥ 1; each share of the batch is split once more.
        shared_latents: use the fakes of the first discriminator update in the generator's as well, not fresh ones. With
            `cross="difference"` they are then computed once for both, and so is the gradient at the earlier opponent.
        audit_every: game steps between two audits, ≥ 1, which compare derivatives by the structure that was found at
            the start with those of the losses as a whole, on a few samples; or None for no audit.
        channels_last: keep images and the weights of convolutions in this order in memory (a sample's pixels side by
            side, each with its channels), in which tensor cores work; the numbers are the same to rounding.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> from lightning_lead.networks import DCGANDiscriminator, DCGANGenerator
        >>> G = DCGANGenerator(latent_dim=8, channels=1, image_size=8, width=4)
        >>> D = DCGANDiscriminator(channels=1, image_size=8, width=4)
        >>> gan = LeadGANModule(G, D, objective="hinge")
        >>> gan(gan.sample_latents(2)).shape
        torch.Size([2, 1, 8, 8])
    """

    _passing: ClassVar[tuple[str, ...]] = (
        "_structure",
        "_saved_structure",
        "_known_calls",
        "_first",
        "_penalty_values",
    )

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        objective: Any = "non_saturating",
        penalty: AbstractPenalty | list[AbstractPenalty] | None = None,
        generator_penalty: AbstractGeneratorPenalty | None = None,
        augment: nn.Module | None = None,
        game: GameStrategy | AbstractGameRule | str | None = None,
        latent_dim: int | None = None,
        discriminator_steps: int = 1,
        discriminator_warmup: int = 0,
        generator_batch_size: int | None = None,
        optimizer: OptimizerCallable | None = None,
        generator_lr: float = 2e-4,
        discriminator_lr: float = 2e-4,
        scheduler: LRSchedulerCallable | None = None,
        clip: float | None = None,
        accumulate: int = 1,
        shared_latents: bool = False,
        channels_last: bool = False,
        audit_every: int | None = 1000,
    ) -> None:
        check_arguments(LeadGANModule, locals(), but=("penalty", "generator_penalty", "augment"))
        check_rates(generator_lr=generator_lr, discriminator_lr=discriminator_lr)
        rates = {"discriminator": discriminator_lr, "generator": generator_lr}
        super().__init__(
            game=game,
            optimizer=optimizer,
            learning_rates=rates,
            scheduler=scheduler,
            clip=clip,
            accumulate=accumulate,
        )
        latent_dim = latent_dim if latent_dim is not None else getattr(generator, "latent_dim", None)
        if not isinstance(latent_dim, int) or latent_dim < 1:
            raise ConfigurationError(
                "Cannot draw latents because their size is unknown; pass latent_dim=, or give the generator an integer "
                f"attribute latent_dim ≥ 1 (got {latent_dim!r})"
            )
        self.generator, self.discriminator, self.augment = generator, discriminator, check_augment(augment)
        self.objective = adversarial_objective(objective)
        several = isinstance(penalty, (list, tuple))
        self.penalty: Any = tuple(penalty) if several else penalty  # type: ignore[arg-type]
        modules = [each for each in as_penalties(penalty) if isinstance(each, nn.Module)]
        if several and modules:  # their averages are saved and moved with this module
            self.penalty_modules = nn.ModuleList(modules)
        self.generator_penalty = check_generator_penalty(generator_penalty)
        self.discriminator_warmup = discriminator_warmup
        self.latent_dim = latent_dim
        self.discriminator_steps, self.generator_batch_size = discriminator_steps, generator_batch_size
        check_positive(audit_every=audit_every)
        self.audit_every = audit_every
        self._structure = Structure("it was not looked for", None)
        self._saved_structure: Structure | None = None
        self._known_calls: dict[str, set[str]] = {}
        self.shared_latents, self.channels_last = shared_latents, channels_last
        self._check_schedule()
        if channels_last:
            for network in (generator, discriminator):
                network.to(memory_format=torch.channels_last)
        self._first: dict[int, GANLosses] = {}
        self._penalty_values = no_penalty_values()

    def _check_schedule(self) -> None:
        check_schedule(
            simultaneous=self.game.rule.name if self.game.play == "simultaneous" else None,
            discriminator_steps=self.discriminator_steps,
            discriminator_warmup=self.discriminator_warmup,
            generator_batch_size=self.generator_batch_size,
            accumulate=self.accumulate,
            shared_latents=self.shared_latents,
            generator_penalty=self.generator_penalty,
        )

    # ---- hooks a subclass may override ------------------------------------------------------------------------------

    def sample_latents(self, n: int) -> Tensor:
        """Draw standard normal latents.

        Args:
            n: how many.

        Returns:
            (n, latent_dim) on the module's device, from the module's own random numbers.
        """
        dtype = next(self.generator.parameters()).dtype
        return torch.randn(n, self.latent_dim, generator=self._noise.generator, device=self.device, dtype=dtype)

    def sample_labels(self, n: int) -> Tensor | None:
        """Draw uniform labels for samples that follow no batch, or None for an unconditional generator.

        Args:
            n: how many.

        Returns:
            (n,) int64, or None.

        Raises:
            ConfigurationError: the generator takes labels but does not say of how many classes.
        """
        if not takes_labels(self.generator):
            return None
        classes = getattr(self.generator, "num_classes", None)
        if classes is None:
            raise ConfigurationError(
                "Cannot draw labels because the generator takes them but has no attribute num_classes; "
                "set it, or override sample_labels(n)"
            )
        return torch.randint(classes, (n,), generator=self._noise.generator, device=self.device)

    def unpack_batch(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Return a batch from the loader as (real samples, labels or None).

        Args:
            batch: a tensor, or a sequence that begins with samples and, if it goes on, labels.
        """
        if isinstance(batch, Tensor):
            return batch, None
        if isinstance(batch, (list, tuple)) and batch and all(isinstance(b, Tensor) for b in batch):
            return batch[0], batch[1] if len(batch) > 1 else None
        raise ConfigurationError(
            "Cannot find the real samples in the batch; override unpack_batch(batch) -> (real, labels or None) "
            f"(got {type(batch).__name__})"
        )

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return samples from latents.

        Args:
            latents: (n, latent_dim).
            labels: (n,) for a conditional generator.
        """
        samples: Tensor = call_network(self.generator, latents, labels)
        return samples

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return samples, one per index in the batch, in eval mode.

        Args:
            batch: sample indices (n,), as a data module's `predict_dataloader` yields them; the first one seeds the
                noise, so the same indices give the same samples.

        Returns:
            Samples (n, ...); from the averaged generator where the Trainer has a `GeneratorEMA`.
        """
        from lightning_lead.gan._sampling import generate
        from lightning_lead.gan.ema import find_ema

        ema = find_ema(self.trainer)
        seed = mix_seed(int(batch[0]))
        return torch.cat(list(generate(self, len(batch), seed=seed, batch_size=len(batch), ema=ema)))

    def on_fit_start(self) -> None:
        """Start the game; settings may have been set anew since the module was made."""
        self._check_schedule()
        super().on_fit_start()

    def on_train_start(self) -> None:
        """Check what every game checks, and that an epoch's last, smaller batch divides as well."""
        super().on_train_start()
        check_last_batch(self.trainer, self.discriminator_steps, self.accumulate)

    # ---- the game ---------------------------------------------------------------------------------------------------

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        """Return both networks' parameters; the discriminator moves first."""
        return {"discriminator": self.discriminator.parameters(), "generator": self.generator.parameters()}

    def game_turns(self, batch: Any) -> list[Turn]:
        """Return n discriminator turns on equal shares of the batch, and one generator turn."""
        real, labels = self.unpack_batch(batch)
        if self.channels_last and real.dim() == 4:
            real = real.contiguous(memory_format=torch.channels_last)
        self._first.clear()
        self._penalty_values.update(no_penalty_values())
        shares = self.discriminator_steps
        check_batch(len(real), shares, self.accumulate)
        size = len(real) // shares
        fakes = self.generator_batch_size or size
        reals = real.split(size)
        classes = labels.split(size) if labels is not None else [None] * shares
        step, update = self.global_step, self._turns_played["discriminator"]
        if self.game.play == "simultaneous":
            both = ("discriminator", "generator")
            return [Turn(both, self._micro(real, labels, fakes, both, update=update), size)]
        turns = [
            Turn(("discriminator",), self._micro(r, c, size, ("discriminator",), update=update + k), size)
            for k, (r, c) in enumerate(zip(reals, classes, strict=True))
        ]
        if step < self.discriminator_warmup:
            return turns
        if self.shared_latents:
            shared = [m._replace(discriminator_moves=False, generator_moves=True) for m in turns[0].micro_batches]
            return [*turns, Turn(("generator",), shared, size)]
        # a cross term of the generator takes the discriminator's loss on the reals of its last update
        last = self._micro(reals[-1], classes[-1], fakes, ("generator",), update=update + shares - 1)
        return [*turns, Turn(("generator",), last, fakes)]

    def _follow_step(self) -> None:
        """Let an adaptive augmentation follow how sure the discriminator has been of the reals."""
        for augment in adaptive_parts(self.augment):
            if self.global_step % augment.interval == 0:
                augment.adapt(lambda tensor: self.trainer.strategy.reduce(tensor, reduce_op="sum"))
                self.log("augment/probability", augment.probability, on_step=True, on_epoch=False)

    def _waits_until(self) -> int:
        return self.discriminator_warmup

    def _completes(self) -> bool:
        # of shared latents the generator's turn takes fakes over from the first one
        return super()._completes() and not self.shared_latents

    def _turns_until(self, step: int) -> dict[str, int]:
        waited = max(step - self.discriminator_warmup, 0)
        return {"discriminator": step * self.discriminator_steps, "generator": waited}

    def wanted_losses(self, batch: GANBatch, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        """Return the losses in `wanted` on one micro-batch."""
        return self.problem.losses(batch, wanted)

    def log_game_step(self, record: Mapping[str, OracleStatistics], notes: Mapping[str, float]) -> None:
        """Log what every game logs, and `penalty/<player>`, the mean over the updates that had a penalty."""
        super().log_game_step(record, notes)
        for player, values in self._penalty_values.items():
            if values:
                self.log(f"penalty/{player}", torch.stack(list(values.values())).mean(), on_step=True, on_epoch=False)

    def player_losses(self, batch: Any) -> Mapping[str, Tensor]:
        """Return both losses on a batch from the loader, with fresh latents; for evaluation loops of your own.

        Every penalty is in it, with its own weight; in eval mode nothing moves.
        """
        real, labels = self.unpack_batch(batch)
        both = ("discriminator", "generator")
        (whole,) = self._micro(real, labels, len(real), both if self.training else (), parts=1, update=EVALUATED)
        losses = self.wanted_losses(whole, frozenset(both))
        return {player: losses[player] for player in both}

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Do nothing per batch: the `GenerativeMetrics` callback scores samples."""

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Do nothing per batch: the `GenerativeMetrics` callback scores samples."""

    # ---- the losses of a micro-batch, and the structure that they have -----------------------------------------------

    @property
    def problem(self) -> GANProblem:
        """The GAN without its trainer: both networks and their losses, as they are now, with this module's hooks."""
        own = type(self)
        return HookedProblem(
            self,
            noise=self._noise,
            penalty_values=self._penalty_values,
            own_loss=own.discriminator_loss is LeadGANModule.discriminator_loss,
            own_losses=own.wanted_losses is LeadGANModule.wanted_losses,
        )

    def _micro(
        self,
        real: Tensor,
        labels: Tensor | None,
        fakes: int,
        moving: tuple[str, ...],
        *,
        update: int,
        parts: int | None = None,
    ) -> list[GANBatch]:
        whole = GANBatch(
            real,
            labels,
            self.sample_latents(fakes),
            None,
            discriminator_moves="discriminator" in moving,
            update=update,
            generator_moves="generator" in moving,
            generator_update=self._turns_played["generator"],
        )
        micros = whole.split(self.accumulate if parts is None else parts)
        if labels is None or not (takes_labels(self.generator) or takes_labels(self.discriminator)):
            return micros
        return [micro._replace(fake_labels=_cycled(micro.labels, len(micro.latents))) for micro in micros]


def _cycled(labels: Tensor | None, count: int) -> Tensor | None:
    """The labels of the reals, over and over if there are more fakes: the i-th fake has the i-th real's."""
    return None if labels is None else labels.repeat(-(-count // len(labels)))[:count]
