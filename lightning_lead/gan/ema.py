"""GeneratorEMA: a moving average of the generator's weights, its memory measured in images.

    θ̄ ← d θ̄ + (1 − d) θ,      d = 2^(−b / h),      h = min(H, ρ N)

b images per game step, H the half-life in images, N the images seen before this step, ρ the ramp-up: early in training
the average forgets as fast as it learns, so the initial weights leave it at once (the ramp-up of EDM, 2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.utils.data import DistributedSampler

from lightning_lead._errors import CheckpointMismatchError, ConfigurationError
from lightning_lead.engine._batches import batch_size

__all__ = ["GeneratorEMA", "find_ema"]

PREFIX = "generator."


class GeneratorEMA(Callback):
    """Averages the generator, and nothing else; `GenerativeMetrics`, `SampleGrid` and `predict` then draw from it.

    The average is kept in float32 at least, is updated once per game step, and is part of the checkpoint. Buffers are
    not averaged: the averaged generator has the running statistics of the live one, as they are at that moment.

    Args:
        halflife_images: H, the number of images after which a weight counts half, > 0. Images are those that one game
            step takes from the loader, over all ranks; a module that counts otherwise has an integer attribute
            `images_per_step`.
        rampup: ρ > 0, or None for the same memory from the first step on.

    Raises:
        ConfigurationError: a number out of its range.

    Example:
        >>> ema = GeneratorEMA(halflife_images=1_000, rampup=0.05)
        >>> ema.decay(images=100, seen=0), round(ema.decay(images=100, seen=10_000), 4)
        (0.0, 0.8706)
    """

    def __init__(self, *, halflife_images: float, rampup: float | None = 0.05) -> None:
        for name, value in (("halflife_images", halflife_images), ("rampup", rampup)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigurationError(f"Cannot average with {name}={value!r} because it must be finite and > 0")
        self.halflife_images, self.rampup = halflife_images, rampup
        self._average: dict[str, Tensor] = {}
        self._seen = 0  # images
        self._step = 0  # the last game step in the average
        self._images = 0  # in the game step that is under way
        self._equal_batches = False

    def decay(self, *, images: int, seen: int) -> float:
        """Return the factor d by which one game step shrinks the old average.

        Args:
            images: b, in this step.
            seen: N, before it.
        """
        halflife = self.halflife_images if self.rampup is None else min(self.halflife_images, self.rampup * seen)
        return 0.5 ** (images / halflife) if halflife > 0 else 0.0

    @property
    def ready(self) -> bool:
        """True if there is an average: from the start of a fit on, or after a checkpoint was loaded."""
        return bool(self._average)

    def average(self, pl_module: Any) -> dict[str, Tensor]:
        """Return the averaged generator under the module's names, for `torch.func.functional_call(pl_module, ...)`.

        Args:
            pl_module: the module with the live generator.

        Returns:
            "generator.…" -> averaged parameter, in the live one's dtype; and -> the live buffers themselves.

        Raises:
            CheckpointMismatchError: the average belongs to another generator.
            ConfigurationError: nothing has been averaged yet.
        """
        if not self._average:
            raise ConfigurationError("Cannot use the averaged generator before a fit or a checkpoint; fit first")
        self._align(pl_module)
        live = pl_module.generator
        averaged = {PREFIX + name: self._average[name].to(p.dtype) for name, p in live.named_parameters()}
        return averaged | {PREFIX + name: buffer for name, buffer in live.named_buffers()}

    def update_if_due(self, trainer: Trainer, pl_module: Any) -> None:
        """Update the average by the last game step, once; callbacks that run before this one call it themselves.

        Args:
            trainer: whose `global_step` counts game steps.
            pl_module: the module with the live generator.
        """
        if trainer.global_step == self._step or not self._average:
            return
        decay = self.decay(images=self._images, seen=self._seen)
        with torch.no_grad():
            for name, parameter in pl_module.generator.named_parameters():
                average = self._average.get(name)
                if average is None or average.shape != parameter.shape:  # the generator has grown
                    self._average[name] = _wide_copy(parameter)
                else:
                    average.lerp_(parameter.to(average.dtype), 1 - decay)
        self._seen += self._images
        self._step = trainer.global_step

    # ---- Lightning hooks --------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Begin a new average in a new fit; a checkpoint, which is loaded later, brings its own."""
        if not hasattr(pl_module, "generator"):
            raise ConfigurationError(
                f"Cannot run GeneratorEMA because {type(pl_module).__name__} has no generator; name it self.generator"
            )
        if stage == "fit" and trainer.global_step == 0:
            self._average, self._seen, self._step = {}, 0, 0

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start from the live weights, or go on from those of the checkpoint."""
        if self._average:
            self._align(pl_module)
            return
        self._average = {name: _wide_copy(p) for name, p in pl_module.generator.named_parameters()}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """See whether every rank is known to have the same number of images."""
        # the sampler pads, so each rank's batches are equal to the last one
        self._equal_batches = isinstance(getattr(trainer.train_dataloader, "sampler", None), DistributedSampler)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Count the images of this game step, over all ranks."""
        images = getattr(pl_module, "images_per_step", None)
        if images is None:
            unpack = getattr(pl_module, "unpack_batch", None)
            images = batch_size(batch) if unpack is None else len(unpack(batch)[0])
            if self._equal_batches or trainer.world_size == 1:
                images *= trainer.world_size
            else:  # every rank must find the same number, or their averages drift apart
                count = torch.tensor(images, device=pl_module.device)
                images = int(trainer.strategy.reduce(count, reduce_op="sum"))
        self._images = images

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Update once per game step."""
        self.update_if_due(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Update first: a callback that saves before this one must save this step's average."""
        self.update_if_due(trainer, pl_module)
        checkpoint["callbacks"][self.state_key] = self.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Return plain tensors and numbers; loads with `weights_only=True`."""
        average = {name: tensor.clone() for name, tensor in self._average.items()}
        return {"average": average, "seen": self._seen, "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; it is compared with the generator, and moved to its device, when it is first used."""
        self._average = dict(state_dict["average"])
        self._seen, self._step = int(state_dict["seen"]), int(state_dict["step"])

    def _align(self, pl_module: Any) -> None:
        live: Mapping[str, Tensor] = dict(pl_module.generator.named_parameters())
        for name in [*live, *(name for name in self._average if name not in live)]:
            theirs = list(self._average[name].shape) if name in self._average else "nothing"
            ours = list(live[name].shape) if name in live else "nothing"
            if theirs != ours:
                raise CheckpointMismatchError(
                    f"Cannot use the averaged weights because they are those of another generator: {PREFIX}{name} has "
                    f"shape {theirs} in the average; build the generator that wrote them (got {ours})"
                )
        for name, parameter in live.items():  # Lightning loads callbacks before the module is on its device
            self._average[name] = self._average[name].to(parameter.device)


def _wide_copy(parameter: Tensor) -> Tensor:
    return parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32), copy=True)


def find_ema(trainer: Trainer | None) -> GeneratorEMA | None:
    """Return the Trainer's `GeneratorEMA`, if it has one that holds an average.

    Args:
        trainer: or None.

    Example:
        >>> find_ema(None) is None
        True
    """
    callbacks: list[Callback] = getattr(trainer, "callbacks", [])
    return next((c for c in callbacks if isinstance(c, GeneratorEMA) and c.ready), None)
