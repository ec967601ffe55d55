"""AdversarialModule: a generator that has losses of its own, and discriminators that add an adversarial part.

    L_G = Σ task losses + A,    A = s·λ·Σ_k w_k·(ℓ_G(D_k(u)) + m·Σ_layers mean |f_k(x) − f_k(u)|)
    L_D = Σ_k w_k·ℓ_D(D_k(x), D_k(u))

x are the targets, u the generator's outputs, f_k the features of a discriminator that returns them; s grows from 0 to 1
over `ramp` game steps from `start` on. With `adaptive_to` λ = weight·‖∇_l task‖ / (‖∇_l A‖ + 10⁻⁴), by the weights l of
the last layer. Players meet in A alone, so a cross term is taken of A and not of the task losses.

References: Isola, Zhu, Zhou and Efros, "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017;
Kong, Kim and Bae, "HiFi-GAN", NeurIPS 2020 (several discriminators, feature matching); Esser, Rombach and Ommer,
"Taming Transformers for High-Resolution Image Synthesis", CVPR 2021, equation 7 (λ) and a late start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_rates
from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import LRSchedulerCallable, OptimizerCallable
from lightning_lead.calculus._terms import COUPLED, OracleStatistics
from lightning_lead.engine.lead_strategy import LEADStrategy
from lightning_lead.engine.strategy import GameStrategy
from lightning_lead.engine.turns import Turn
from lightning_lead.gan._settings import check_schedule_of_players, check_weights
from lightning_lead.objectives import adversarial_objective
from lightning_lead.objectives.adversarial import real_logits_argument
from lightning_lead.rules.base import AbstractGameRule
from lightning_lead.training.module import LeadModule

__all__ = ["AdversarialModule"]


class _Judgement(NamedTuple):
    """One output of one discriminator."""

    weight: float
    logits: Tensor
    features: Sequence[Tensor]


class AdversarialModule(LeadModule):
    """Any generator (image to image, autoencoder, vocoder) against one discriminator or several; subclass it.

    Each turn makes fakes of its own, so what moves in the generator's forward, as batch norm, moves in both players'
    turns. Parts of the generator's loss are logged as `task/<name>`, of its last evaluation, a mean over micro-batches.

    Override `task_losses`, and whatever else differs: `unpack_batch`, `forward`, `seen`, `last_layer`. A discriminator
    returns logits, or (logits, list of features), or a list of either, as one of several scales does.

    Args:
        generator: all that the generating player trains, as an encoder, a codebook and a decoder in one module.
        discriminators: one, or several by name.
        objective: a name, or an object with `generator_loss` and `discriminator_loss`; see `objectives`.
        weight: λ of the adversarial part, ≥ 0.
        discriminator_weights: name of a discriminator -> w, ≥ 0; default 1 for each.
        feature_matching: m, ≥ 0; with 0 no features are needed.
        adaptive_to: name of the task loss that λ follows, which needs `last_layer()`; None for a constant λ.
        start: game step at which the adversarial part begins; before it, the generator alone moves.
        ramp: game steps from there until it has its full weight.
        discriminator_every: the discriminators move on every k-th game step.
        generator_every: the generator moves on every k-th game step.
        generator_first: the generator moves before the discriminators.
        game: rule, play and state; or a rule; or a name; default `LEADStrategy(cross="extrapolated")`, which evaluates
            a loss once per turn as a plain loop does.
        optimizer: param groups -> optimizer; default Adam with betas (0, 0.9).
        generator_lr: the generator's learning rate, > 0.
        discriminator_lr: that of all discriminators, > 0.
        scheduler: optimizer -> learning-rate scheduler, stepped once per game step; or None.
        clip: largest norm of a player's direction, > 0, or None.
        accumulate: micro-batches per update, ≥ 1.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> from torch import nn
        >>> class Denoiser(AdversarialModule):
        ...     def task_losses(self, outputs, inputs, targets):
        ...         return {"l1": (outputs - targets).abs().mean()}
        >>> Denoiser(nn.Linear(2, 2), nn.Linear(2, 1), objective="least_squares", start=100).game
        GameStrategy(LEAD, play='alternating')
    """

    _passing: ClassVar[tuple[str, ...]] = ("_ratio", "_parts")

    def __init__(
        self,
        generator: nn.Module,
        discriminators: nn.Module | Mapping[str, nn.Module],
        *,
        objective: Any = "hinge",
        weight: float = 1.0,
        discriminator_weights: Mapping[str, float] | None = None,
        feature_matching: float = 0.0,
        adaptive_to: str | None = None,
        start: int = 0,
        ramp: int = 0,
        discriminator_every: int = 1,
        generator_every: int = 1,
        generator_first: bool = False,
        game: GameStrategy | AbstractGameRule | str | None = None,
        optimizer: OptimizerCallable | None = None,
        generator_lr: float = 2e-4,
        discriminator_lr: float = 2e-4,
        scheduler: LRSchedulerCallable | None = None,
        clip: float | None = None,
        accumulate: int = 1,
    ) -> None:
        check_arguments(AdversarialModule, locals())
        check_rates(generator_lr=generator_lr, discriminator_lr=discriminator_lr)
        super().__init__(
            game=game if game is not None else LEADStrategy(cross="extrapolated"),
            optimizer=optimizer,
            learning_rates={"discriminator": discriminator_lr, "generator": generator_lr},
            scheduler=scheduler,
            clip=clip,
            accumulate=accumulate,
        )
        named: Any = discriminators if isinstance(discriminators, (Mapping, nn.ModuleDict)) else None
        named = {"discriminator": discriminators} if named is None else dict(named.items())
        self.generator, self.discriminators = generator, nn.ModuleDict(named)
        self.objective = adversarial_objective(objective)
        self.weight, self.feature_matching, self.adaptive_to = weight, feature_matching, adaptive_to
        self.discriminator_weights = dict.fromkeys(self.discriminators, 1.0) | dict(discriminator_weights or {})
        self.start, self.ramp = start, ramp
        self.discriminator_every, self.generator_every = discriminator_every, generator_every
        self.generator_first = generator_first
        self._ratio: Tensor | None = None
        self._parts: dict[str, list[Tensor]] = {}
        check_schedule_of_players(
            simultaneous=self.game.play == "simultaneous",
            start=start,
            ramp=ramp,
            discriminator_every=discriminator_every,
            generator_every=generator_every,
        )
        check_weights(self.discriminators, self.discriminator_weights, weight=weight, feature_matching=feature_matching)

    # ---- hooks a subclass may override ------------------------------------------------------------------------------

    def task_losses(self, outputs: Any, inputs: Any, targets: Tensor) -> Mapping[str, Tensor]:
        """Return name -> scalar, weighed: the generator's losses that no discriminator has a part in.

        Args:
            outputs: what `forward` has returned.
            inputs: of the batch.
            targets: of the batch.
        """
        return {}

    def unpack_batch(self, batch: Any) -> tuple[Any, Tensor]:
        """Return (inputs of the generator, targets that its outputs are compared with).

        Args:
            batch: a tensor, which is both, alone or in a list; or a pair of floating-point tensors.
        """
        if isinstance(batch, (list, tuple)) and len(batch) == 1:
            (batch,) = batch
        if isinstance(batch, Tensor):
            return batch, batch
        pair = isinstance(batch, (list, tuple)) and len(batch) == 2 and all(isinstance(b, Tensor) for b in batch)
        if pair and batch[1].is_floating_point():
            return batch[0], batch[1]
        raise ConfigurationError(
            "Cannot tell inputs from targets in the batch; override unpack_batch(batch) -> (inputs, targets) "
            f"(got {type(batch).__name__})"
        )

    def forward(self, inputs: Any) -> Any:
        """Return the fakes, shaped as the targets, or a tuple that begins with them; by default of the generator.

        Args:
            inputs: of the batch.
        """
        return self.generator(inputs)

    def seen(self, samples: Tensor, inputs: Any) -> Tensor:
        """Return what discriminators see of samples, by default themselves; pix2pix shows the inputs beside them.

        Args:
            samples: targets or fakes.
            inputs: of the batch.
        """
        return samples

    def last_layer(self) -> nn.Parameter:
        """Return the weights that an adaptive λ compares gradients at."""
        raise NotImplementedError("Cannot adapt the weight because last_layer() is missing; return the last weights")

    # ---- the game ---------------------------------------------------------------------------------------------------

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        """Return the parameters of all discriminators and those of the generator, in the order of play."""
        both = {"discriminator": self.discriminators.parameters(), "generator": self.generator.parameters()}
        return dict(reversed(both.items())) if self.generator_first else both

    def game_turns(self, batch: Any) -> list[Turn]:
        """Return the turns of the players that move on this game step."""
        self._parts.clear()
        step, turns = self.global_step, super().game_turns(batch)
        moves = {
            "discriminator": step >= self.start and step % self.discriminator_every == 0,
            "generator": step % self.generator_every == 0,
        }
        return [turn for turn in turns if any(moves[player] for player in turn.players)]

    def wanted_losses(self, batch: Any, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        """Return the losses in `wanted`, and the part of the generator's in which the players meet."""
        inputs, targets = self.unpack_batch(batch)
        # where nothing is differentiated through both networks, as in a loop
        apart = self.game.rule.needs.evaluates_once
        with torch.no_grad() if apart and "generator" not in wanted else nullcontext():
            outputs = self(inputs)
        fakes = _fakes_of(outputs, targets)
        losses: dict[str, Tensor] = {}
        if "generator" in wanted:
            losses |= self._of_generator(outputs, fakes, inputs, targets)
        if "discriminator" in wanted:
            losses["discriminator"] = self._of_discriminator(fakes.detach() if apart else fakes, inputs, targets)
        return losses

    def translate(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return (fakes, targets) of a batch, as `PairedMetrics` compares them."""
        inputs, targets = self.unpack_batch(batch)
        return _fakes_of(self(inputs), targets), targets

    def player_losses(self, batch: Any) -> Mapping[str, Tensor]:
        """Return both players' losses, for evaluation loops of your own."""
        losses = self.wanted_losses(batch, frozenset({"discriminator", "generator"}))
        return {name: losses[name] for name in ("discriminator", "generator")}

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Do nothing per batch: callbacks such as `PairedMetrics` score outputs."""

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Do nothing per batch: callbacks such as `PairedMetrics` score outputs."""

    def _of_discriminator(self, fakes: Tensor, inputs: Any, targets: Tensor) -> Tensor:
        of_reals, of_fakes = self._judged(targets, inputs), self._judged(fakes, inputs)
        terms = [
            r.weight * self.objective.discriminator_loss(r.logits, t.logits)
            for r, t in zip(of_reals, of_fakes, strict=True)
        ]
        return torch.stack(terms).sum()

    def _of_generator(self, outputs: Any, fakes: Tensor, inputs: Any, targets: Tensor) -> dict[str, Tensor]:
        tasks = dict(self.task_losses(outputs, inputs, targets))
        for name, value in tasks.items():
            self._note(f"task/{name}", value)
        if self.adaptive_to is not None and self.adaptive_to not in tasks:
            raise ConfigurationError(
                f"Cannot adapt the weight to {self.adaptive_to!r} because task_losses() returns no loss of that name "
                f"(got {list(tasks)})"
            )
        scale = self._scale()
        if not scale or not self.weight:
            if not tasks:
                raise ConfigurationError(
                    f"Cannot train the generator before the adversarial part begins at step {self.start} because there "
                    "is no other loss; override task_losses(), or use start=0 and weight > 0"
                )
            # no part in which players meet: a constant has no derivative
            return {"generator": sum(tasks.values()), COUPLED + "generator": fakes.new_zeros(())}  # type: ignore[dict-item]
        adversarial = self._adversarial(fakes, inputs, targets)
        if self.adaptive_to is not None:
            if self._ratio is None or not self.is_repeat:  # repeats have that of the first evaluation
                self._ratio = self._adapted(tasks[self.adaptive_to], adversarial)
            adversarial = self._ratio * adversarial
        adversarial = scale * self.weight * adversarial
        return {"generator": sum(tasks.values(), adversarial), COUPLED + "generator": adversarial}

    def _adversarial(self, fakes: Tensor, inputs: Any, targets: Tensor) -> Tensor:
        of_fakes = self._judged(fakes, inputs)
        relativistic = real_logits_argument(self.objective.generator_loss) is not None
        of_reals: Sequence[_Judgement | None] = [None] * len(of_fakes)
        if relativistic or self.feature_matching:
            # their derivative by D belongs to the cross term alone
            with torch.no_grad() if self.game.rule.needs.evaluates_once else nullcontext():
                of_reals = self._judged(targets, inputs)
        total = fakes.new_zeros(())
        for t, r in zip(of_fakes, of_reals, strict=True):
            reals = {"real_logits": r.logits} if relativistic and r is not None else {}
            total = total + t.weight * self.objective.generator_loss(t.logits, **reals)
            if self.feature_matching and r is not None:
                total = total + self.feature_matching * t.weight * _distance(r.features, t.features)
        return total

    def _adapted(self, task: Tensor, adversarial: Tensor) -> Tensor:
        """‖∇ task‖ / (‖∇ adversarial‖ + 10⁻⁴) at the last layer, at most 10⁴; a constant of the update."""
        last = self.last_layer()
        pull, push = (torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (task, adversarial))
        ratio: Tensor = (pull / (push + 1e-4)).clamp(max=1e4).detach()
        self._note("adversarial_weight", self.weight * ratio)
        return ratio

    def _judged(self, samples: Tensor, inputs: Any) -> list[_Judgement]:
        """Return every output of every discriminator."""
        found, shown = [], self.seen(samples, inputs)
        for name, discriminator in self.discriminators.items():
            output = discriminator(shown)
            for each in output if isinstance(output, list) else [output]:
                logits, features = each if isinstance(each, tuple) and len(each) == 2 else (each, ())
                fit = isinstance(logits, Tensor) and isinstance(features, (list, tuple))
                if not fit or (self.feature_matching and not features):
                    wanted = "(logits, [features])" if self.feature_matching else "logits, or (logits, [features])"
                    raise ConfigurationError(
                        f"Cannot use what discriminator {name!r} returns; make it return {wanted}, or a list of such, "
                        f"one for each of several logits (got {type(each).__name__})"
                    )
                found.append(_Judgement(self.discriminator_weights[name], logits, features))
        return found

    def _waits_until(self) -> int:
        return self.start

    def _warn_if_apart(self) -> None:
        if self.weight:
            super()._warn_if_apart()

    def _note(self, name: str, value: Tensor) -> None:
        """Keep a number of a micro-batch for the log of this game step."""
        if self._trainer is not None and self.trainer.training and not self.is_repeat:
            self._parts.setdefault(name, []).append(value.detach())

    def log_game_step(self, record: Mapping[str, OracleStatistics], notes: Mapping[str, float]) -> None:
        """Log what every game logs, and the parts of the generator's loss."""
        super().log_game_step(record, notes)
        for name, values in self._parts.items():  # those of other turns, for a cross term, came before
            self.log(name, torch.stack(values[-self.accumulate :]).mean(), on_step=True, on_epoch=False)

    def _scale(self) -> float:
        """Return s, the share of the adversarial part on this game step."""
        # the look before the first step finds out what the game will be once it has begun
        since = max(self.global_step - self.start, 0) if self.is_looked_at else self.global_step - self.start
        if since < 0:
            return 0.0
        return min(1.0, (since + 1) / self.ramp) if self.ramp else 1.0


def _fakes_of(outputs: Any, targets: Tensor) -> Tensor:
    """Return the fakes, which come first of several outputs; refuse a shape that is not that of the targets."""
    fakes = outputs[0] if isinstance(outputs, (list, tuple)) and outputs else outputs
    if not isinstance(fakes, Tensor) or fakes.shape != targets.shape:
        got = tuple(fakes.shape) if isinstance(fakes, Tensor) else type(fakes).__name__
        raise ConfigurationError(
            "Cannot compare fakes with targets because they are no tensors of one shape; make forward() return "
            f"{tuple(targets.shape)}, or a tuple that begins with that (got {got})"
        )
    return fakes


def _distance(reals: Sequence[Tensor], fakes: Sequence[Tensor]) -> Tensor:
    """Σ over layers of the mean absolute difference."""
    return torch.stack([(r - t).abs().mean() for r, t in zip(reals, fakes, strict=True)]).sum()
