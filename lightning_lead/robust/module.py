"""RobustModule: adversarial training, where the attack is a player.

    min_θ L_network(θ, δ),     min_δ L_attack(θ, δ)  subject to δ in its ball and x + δ in the range of the images

The attack moves first, and by how many turns and on what it says itself (`lightning_lead.robust` has seven). With
the cross-entropy L_attack = −L_network, and this is Madry's saddle point.

Reference: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, equation 2.1; those
of the attacks and losses stand in their modules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_range, check_rates
from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import LRSchedulerCallable, OptimizerCallable, rank_zero_warn
from lightning_lead.calculus.replay import frozen_buffers
from lightning_lead.constraints import AbstractConstraint
from lightning_lead.engine._batches import split_batch
from lightning_lead.engine.strategy import GameStrategy
from lightning_lead.engine.turns import Turn
from lightning_lead.robust.base import AbstractAttack
from lightning_lead.robust.losses import AbstractRobustLoss, CrossEntropy, robust_loss
from lightning_lead.robust.sample_attacks import AbstractSampleAttack, FreeAttack
from lightning_lead.robust.shared_attacks import PerturbationNetwork
from lightning_lead.rules.base import AbstractGameRule
from lightning_lead.training.module import LeadModule

__all__ = ["RobustModule"]


class _Samples(NamedTuple):
    """A micro-batch, and where its samples stand in the loader's batch."""

    images: Tensor
    labels: Tensor
    rows: Tensor


class RobustModule(LeadModule):
    """A classifier and an attack on it, trained against each other; batches are (images, labels).

    Args:
        network: images (n, …) -> logits (n, K).
        attack: a player, as `PGDAttack(8 / 255)`.
        loss: "cross_entropy", "trades" or "mart", or an `AbstractRobustLoss`.
        value_range: lowest and highest value of an image; ε is in the same units.
        attack_mode: the network in the attack's turns: "eval", as in the code of TRADES, or "train". Its statistics
            stay as they are either way.
        game: rule, play and state; or a rule; or a name; default plain play, alternating, or of `FreeAttack`
            simultaneous.
        optimizer: param groups -> the network's optimizer; default SGD with momentum 0.9 and weight decay 5·10⁻⁴.
        attack_optimizer: param groups -> the attack's; default the attack's own.
        learning_rate: the network's, > 0.
        scheduler: optimizer -> learning-rate scheduler of the network, stepped once per game step; or None.
        clip: largest norm of a player's direction, > 0, or None.
        accumulate: micro-batches per update, ≥ 1.

    Raises:
        ConfigurationError: a setting out of its range, or an attack that is not defined for the game's play.

    Example:
        >>> from lightning_lead.robust import FGSMAttack
        >>> RobustModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), FGSMAttack(0.1)).game
        GameStrategy(GradientPlay, play='alternating')
    """

    def __init__(
        self,
        network: nn.Module,
        attack: AbstractAttack,
        *,
        loss: AbstractRobustLoss | str = "cross_entropy",
        value_range: tuple[float, float] = (-1.0, 1.0),
        attack_mode: Literal["eval", "train"] = "eval",
        game: GameStrategy | AbstractGameRule | str | None = None,
        optimizer: OptimizerCallable | None = None,
        attack_optimizer: OptimizerCallable | None = None,
        learning_rate: float = 0.1,
        scheduler: LRSchedulerCallable | None = None,
        clip: float | None = None,
        accumulate: int = 1,
    ) -> None:
        check_arguments(RobustModule, locals())
        check_rates(learning_rate=learning_rate)
        if game is None:
            game = "SimultaneousGDA" if isinstance(attack, FreeAttack) else "AlternatingGDA"
        super().__init__(
            game=game,
            optimizer={"attack": attack_optimizer or attack.optimizer, "network": optimizer or _default_optimizer},
            learning_rates={"attack": attack.step_size, "network": learning_rate},
            clip=clip,
            accumulate=accumulate,
        )
        if attack_mode not in ("eval", "train"):
            raise ConfigurationError(
                "Cannot attack the network in this mode; pass attack_mode='eval' or attack_mode='train' "
                f"(got {attack_mode!r})"
            )
        self.network, self.attack, self.loss = network, attack, robust_loss(loss)
        self.value_range, self.attack_mode = check_range(value_range), attack_mode
        self._network_scheduler = scheduler
        attack.turns(self.game.play)  # an attack that is not defined for this play says so now
        if self.game.rule.needs.requires_sgd and not isinstance(attack, PerturbationNetwork):
            raise ConfigurationError(
                f"Cannot play {self.game.rule.name} against {type(attack).__name__} because it moves every player by "
                "plain SGD, whose steps along a gradient of a mean over samples leave a perturbation where it is; use "
                "LEADStrategy() or another rule that leaves the optimizer to you, or a PerturbationNetwork"
            )

    def configure_optimizers(self) -> Any:
        """Return an optimizer for each player; the scheduler is the network's, and steps of an attack stay as long."""
        optimizers = super().configure_optimizers()
        if self._network_scheduler is None:
            return optimizers
        *others, last = optimizers if isinstance(optimizers, list) else [optimizers]  # of a rule with SGD of its own
        scheduler = {"scheduler": self._network_scheduler(last), "interval": "step"}
        return [*({"optimizer": each} for each in others), {"optimizer": last, "lr_scheduler": scheduler}]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read the game, after an attack of each batch has taken the shape of the one that was saved."""
        if isinstance(self.attack, AbstractSampleAttack):
            self.attack.take_shape(checkpoint.get("state_dict", {}), "attack.")
        super().on_load_checkpoint(checkpoint)

    def on_fit_start(self) -> None:
        """Begin a fit, and warn of a cross term that is taken from another function than the network's loss."""
        needs = self.game.rule.needs
        mixed = needs.second_order and needs.form == "opponent" and self.attack_mode == "eval"
        if mixed and any(isinstance(layer, _BatchNorm) for layer in self.network.modules()):
            rank_zero_warn(
                f"{self.game.rule.name} takes the network's cross term from the attack's loss, whose batch norms are "
                "in eval mode and the network's are not, so that the game is not zero-sum: early in training the term "
                "may be far from that of the network's own loss. Use form='own', or attack_mode='train'."
            )
        super().on_fit_start()

    # ---- hooks a subclass may override ------------------------------------------------------------------------------

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (n, K)."""
        logits: Tensor = self.network(images)
        return logits

    def unpack_batch(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return (images, labels) of a batch from the loader; asked twice, so it draws no random numbers.

        Args:
            batch: by default a pair of tensors.
        """
        if isinstance(batch, (list, tuple)) and len(batch) == 2 and all(isinstance(each, Tensor) for each in batch):
            return batch[0], batch[1]
        raise ConfigurationError(
            "Cannot tell images from labels in the batch; override unpack_batch(batch) -> (images, labels) "
            f"(got {type(batch).__name__})"
        )

    # ---- the game ---------------------------------------------------------------------------------------------------

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        """Return the parameters of the attack and those of the network, in the order of play."""
        return {"attack": self.attack.parameters(), "network": self.network.parameters()}

    def constraints(self) -> Mapping[str, AbstractConstraint]:
        """Return where the attack lives, on the batch at hand."""
        bounds = self.attack.constraint()
        return {} if bounds is None else {"attack": bounds}

    def local_players(self) -> frozenset[str]:
        """Return the attack, if it is one perturbation per sample: each rank has those of its own samples."""
        return frozenset({"attack"} if self.attack.renewed else ())

    def on_game_step_start(self, batch: Any) -> None:
        """Let an attack with a perturbation per sample begin anew."""
        if self.attack.renewed:
            images, _ = self._checked(batch)
            self.attack.renew(images, self.value_range, self.loss.start)
            self.forget_player("attack")

    def game_turns(self, batch: Any) -> list[Turn]:
        """Return the turns that the attack asks for, each on the whole batch."""
        images, labels = self._checked(batch)
        self.attack.meet(images, self.value_range)
        samples = _Samples(images, labels, torch.arange(len(images), device=images.device))
        parts = split_batch(samples, len(images), self.accumulate)
        return [Turn(players, parts, len(images)) for players in self.attack.turns(self.game.play)]

    def wanted_losses(self, batch: Any, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        """Return the losses in `wanted`; those of a zero-sum game in one forward, where one serves both."""
        zero_sum = type(self.loss) is CrossEntropy and self.attack_mode == "train" and not _has_buffers(self.attack)
        if not zero_sum or not wanted >= {"attack", "network"}:
            return super().wanted_losses(batch, wanted)
        images, labels, rows = self._samples(batch)
        loss = self.loss.network_loss(self, images, self.attack(images, rows, self.value_range), labels)
        return {"attack": -loss, "network": loss}

    def player_loss(self, name: str, batch: Any) -> Tensor:
        """Return the loss of one player; that of the attack moves no statistics of the network, nor the other way.

        Args:
            name: "attack" or "network".
            batch: of a turn; or of the loader, which δ has met.
        """
        images, labels, rows = self._samples(batch)
        if name == "attack":
            perturbed = self.attack(images, rows, self.value_range)
            with _at_rest(self.network, self.attack_mode):
                return self.loss.attack_loss(self, images, perturbed, labels)
        # where nothing is differentiated through both players, as in a loop
        apart = self.game.rule.needs.evaluates_once
        with torch.no_grad() if apart else nullcontext(), _keeping_buffers(self.attack):
            perturbed = self.attack(images, rows, self.value_range)
        return self.loss.network_loss(self, images, perturbed, labels)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Do nothing per batch: callbacks such as `RobustAccuracy` score the network."""

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Do nothing per batch: callbacks such as `RobustAccuracy` score the network."""

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the classes (n,) of images, or of the images in a batch.

        Args:
            batch: images, or what `unpack_batch` takes.
            batch_idx: its number.
            dataloader_idx: its loader's number.
        """
        images = batch if isinstance(batch, Tensor) else self.unpack_batch(batch)[0]
        classes: Tensor = self(images).argmax(1)
        return classes

    def _samples(self, batch: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        return batch if isinstance(batch, _Samples) else (*self._checked(batch), None)

    def _checked(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return images and labels, or an error that names what an attack could not start from."""
        images, labels = self.unpack_batch(batch)
        if not images.is_floating_point() or labels.is_floating_point() or labels.shape != images.shape[:1]:
            raise ConfigurationError(
                "Cannot attack because a batch must have images of floats and a label, an integer, for each; override "
                f"unpack_batch(batch) (got {images.dtype} {tuple(images.shape)} and {labels.dtype} "
                f"{tuple(labels.shape)})"
            )
        if images.device.type != "cpu" and self._probed:  # elsewhere to read them is to wait for the device
            return images, labels
        low, high = self.value_range
        if labels.numel() and int(labels.min()) < 0:
            raise ConfigurationError(
                "Cannot attack images without a label because errors on them are no errors; leave them out of the "
                f"batch (got a label of {int(labels.min())})"
            )
        if images.numel():
            lowest, highest = (float(value) for value in torch.aminmax(images.detach()))
            slack = 1e-6 * (high - low)
            if not (low - slack <= lowest and highest <= high + slack):
                raise ConfigurationError(
                    "Cannot attack images that are outside of their range already; pass RobustModule(value_range=...) "
                    f"of your images, or put a normalisation into the network (got values from {lowest:.4g} to "
                    f"{highest:.4g}, and value_range={self.value_range})"
                )
        return images, labels


@contextmanager
def _at_rest(network: nn.Module, mode: str) -> Iterator[None]:
    """Evaluate a network in a mode, and leave its buffers, and the mode of each of its layers, as they were.

    Also in eval mode the buffers are copies: a train-mode forward of the same turn, as in simultaneous play, would
    write into what the attack's graph has saved.
    """
    training = [layer for layer in network.modules() if layer.training]
    with _keeping_buffers(network):
        if mode == "eval":
            for layer in training:
                layer.training = False
        try:
            yield
        finally:
            for layer in training:
                layer.training = True


def _keeping_buffers(module: nn.Module) -> Any:
    return frozen_buffers(module) if _has_buffers(module) else nullcontext()


def _has_buffers(module: nn.Module) -> bool:
    return next(module.buffers(), None) is not None


def _default_optimizer(groups: Iterable[Any]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4)
