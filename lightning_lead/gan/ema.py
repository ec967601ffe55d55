"""GeneratorEMA: a moving average of weights, mostly of the generator's, its memory measured in images.

    θ̄ ← d θ̄ + (1 − d) θ,      d = 2^(−b / h),      h = min(H, ρ N)

b images per game step, H the half-life in images, N the images seen before this step, ρ the ramp-up: early in training
the average forgets as fast as it learns, so the initial weights leave it at once (the ramp-up of EDM, 2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._distributed import keeps_all_samples
from lightning_lead._errors import CheckpointMismatchError, ConfigurationError
from lightning_lead._lightning import Callback, Trainer
from lightning_lead._sharding import fsdp_units, refuse_sharded, reshard, sharded_like, whole
from lightning_lead.engine._batches import batch_size

__all__ = ["GeneratorEMA", "find_ema"]

PREFIX = "generator."


class GeneratorEMA(Callback):
    """Averages the generator, or the networks that it names; `GenerativeMetrics`, `SampleGrid` and `predict` use them.

    The average is kept in float32 at least, is updated once per game step, and is part of the checkpoint. Buffers are
    not averaged: the averaged generator has the running statistics of the live one, as they are at that moment.

    Args:
        halflife_images: H, the number of images after which a weight counts half, > 0. Images are those that one game
            step takes from the loader, over all ranks; a module that counts otherwise has an integer attribute
            `images_per_step`.
        rampup: ρ > 0, or None for the same memory from the first step on.
        networks: attributes of the module, as ["generator_ab", "generator_ba"]; or "net.decoder" for a part of one.

    Raises:
        ConfigurationError: a number out of its range; at setup, a network that the module has not.

    Example:
        >>> ema = GeneratorEMA(halflife_images=1_000, rampup=0.05)
        >>> ema.decay(images=100, seen=0), round(ema.decay(images=100, seen=10_000), 4)
        (0.0, 0.8706)
    """

    def __init__(
        self, *, halflife_images: float, rampup: float | None = 0.05, networks: Sequence[str] = ("generator",)
    ) -> None:
        check_arguments(GeneratorEMA, locals())
        if isinstance(networks, str) or not networks or not all(isinstance(name, str) for name in networks):
            raise ConfigurationError(f"Cannot average networks={networks!r}; pass a list of attributes of the module")
        for name, value in (("halflife_images", halflife_images), ("rampup", rampup)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigurationError(f"Cannot average with {name}={value!r} because it must be finite and > 0")
        self.halflife_images, self.rampup, self.networks = halflife_images, rampup, tuple(networks)
        self._average: dict[str, Tensor] = {}
        self._seen = 0  # images
        self._step = 0  # the last game step in the average
        self._images = 0  # in the game step that is under way
        self._equal_batches = False

    @property
    def state_key(self) -> str:
        """The key in a checkpoint; callbacks that average other networks are kept apart."""
        return "GeneratorEMA" if self.networks == ("generator",) else f"GeneratorEMA({', '.join(self.networks)})"

    @property
    def description(self) -> dict[str, Any]:
        """The average in a protocol of scores."""
        others = {} if self.networks == ("generator",) else {"networks": list(self.networks)}
        return {"halflife_images": self.halflife_images, "rampup": self.rampup} | others

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
        """Return the average under the module's names, for `torch.func.functional_call(pl_module, ...)`.

        Args:
            pl_module: the module with the live networks.

        Returns:
            "generator.…" -> averaged parameter, in the live one's dtype; and -> the live buffers themselves.

        Raises:
            CheckpointMismatchError: the average belongs to another generator.
            ConfigurationError: nothing has been averaged yet.
        """
        if not self._average:
            raise ConfigurationError("Cannot use the averaged generator before a fit or a checkpoint; fit first")
        self._align(pl_module)
        refuse_sharded(pl_module, "draw from the averaged generator")
        averaged = {name: self._average[name].to(p.dtype) for name, p in self._live(pl_module).items()}
        return averaged | {
            f"{network}.{name}": buffer
            for network in self.networks
            for name, buffer in pl_module.get_submodule(network).named_buffers()
        }

    def update_if_due(self, trainer: Trainer, pl_module: Any) -> None:
        """Update the average by the last game step, once; callbacks that run before this one call it themselves.

        Args:
            trainer: whose `global_step` counts game steps.
            pl_module: the module with the live networks.
        """
        if trainer.global_step == self._step or not self._average:
            return
        decay = self.decay(images=self._images, seen=self._seen)
        with torch.no_grad():
            for name, parameter in self._live(pl_module).items():
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
        for network in self.networks:
            try:
                pl_module.get_submodule(network)
            except AttributeError:
                children = ", ".join(name for name, _ in pl_module.named_children())
                raise ConfigurationError(
                    f"Cannot run GeneratorEMA because {type(pl_module).__name__} has no {network}; name the networks "
                    f"to be averaged, GeneratorEMA(..., networks=[...]) (got a module with {children})"
                ) from None
        if stage == "fit" and trainer.global_step == 0:
            self._average, self._seen, self._step = {}, 0, 0

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start from the live weights, or go on from those of the checkpoint."""
        if self._average:
            self._align(pl_module)
            return
        self._average = {name: _wide_copy(p) for name, p in self._live(pl_module).items()}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """See whether every rank is known to have the same number of images."""
        self._align(pl_module)  # strategies that shard parameters load checkpoints after the fit has started
        self._equal_batches = keeps_all_samples(trainer.train_dataloader)

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
        # the names of a lone generator's parameters are written without their prefix, as they always were
        prefix = PREFIX if self.networks == ("generator",) else ""
        average = {name.removeprefix(prefix): whole(tensor).clone() for name, tensor in self._average.items()}
        return {"average": average, "seen": self._seen, "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; it is compared with the generator, and moved to its device, when it is first used."""
        prefix = PREFIX if self.networks == ("generator",) else ""
        self._average = {prefix + name: tensor for name, tensor in state_dict["average"].items()}
        self._seen, self._step = int(state_dict["seen"]), int(state_dict["step"])

    def _live(self, pl_module: Any) -> dict[str, Tensor]:
        """The live parameters, by their names in the module."""
        reshard(fsdp_units(pl_module))
        return {
            f"{network}.{name}": parameter
            for network in self.networks
            for name, parameter in pl_module.get_submodule(network).named_parameters()
        }

    def _align(self, pl_module: Any) -> None:
        live: Mapping[str, Tensor] = self._live(pl_module)
        for name in [*live, *(name for name in self._average if name not in live)]:
            theirs = list(self._average[name].shape) if name in self._average else "nothing"
            ours = list(live[name].shape) if name in live else "nothing"
            if theirs != ours:
                raise CheckpointMismatchError(
                    f"Cannot use the averaged weights because they are those of another generator: {name} has "
                    f"shape {theirs} in the average; build the generator that wrote them (got {ours})"
                )
        for name, parameter in live.items():  # Lightning loads callbacks before the module is on its device
            self._average[name] = sharded_like(self._average[name], parameter)


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
