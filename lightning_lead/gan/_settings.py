"""Checks of a GAN's settings against each other, and of batch sizes against the settings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from lightning_lead._checks import check_count, check_positive
from lightning_lead._errors import ConfigurationError

__all__ = ["check_batch", "check_last_batch", "check_schedule", "check_schedule_of_players", "check_weights"]


def check_schedule(
    *,
    simultaneous: str | None,
    discriminator_steps: int,
    discriminator_warmup: int,
    generator_batch_size: int | None,
    accumulate: int,
    shared_latents: bool,
    generator_penalty: object,
) -> None:
    """Refuse numbers out of their range, and settings that exclude each other.

    `simultaneous` is the rule's name if both players move at once, or None.
    """
    check_positive(discriminator_steps=discriminator_steps, generator_batch_size=generator_batch_size)
    check_count("a GAN", "discriminator_warmup", discriminator_warmup, least=0)
    if simultaneous is not None and discriminator_warmup:
        raise ConfigurationError(
            f"Cannot warm the discriminator up under {simultaneous} because in simultaneous play both players move at "
            f"once; use discriminator_warmup=0, or alternating play (got {discriminator_warmup})"
        )
    if simultaneous is not None and generator_penalty is not None:
        raise ConfigurationError(
            f"Cannot penalise the generator under {simultaneous} in simultaneous play, where its loss may be a repeat "
            f"in which no average moves; use alternating play, or generator_penalty=None (got {generator_penalty!r})"
        )
    if simultaneous is not None and discriminator_steps != 1:
        raise ConfigurationError(
            f"Cannot play {simultaneous} simultaneously with several discriminator steps because both players move at "
            f"once; use discriminator_steps=1, or alternating play (got {discriminator_steps})"
        )
    if generator_batch_size is not None and generator_batch_size % accumulate:
        raise ConfigurationError(
            f"Cannot split generator_batch_size={generator_batch_size} into accumulate={accumulate} micro-batches; "
            f"choose a size that {accumulate} divides"
        )
    if shared_latents and generator_batch_size is not None:
        raise ConfigurationError(
            "Cannot share latents with a generator batch of another size; leave generator_batch_size out "
            f"(got {generator_batch_size})"
        )


def check_schedule_of_players(
    *, simultaneous: bool, start: int, ramp: int, discriminator_every: int, generator_every: int
) -> None:
    """Refuse a schedule out of its range, one that simultaneous play cannot follow, and game steps without a turn."""
    check_count("a GAN", "start", start, least=0)
    check_count("a GAN", "ramp", ramp, least=0)
    check_count("a GAN", "discriminator_every", discriminator_every)
    check_count("a GAN", "generator_every", generator_every)
    if simultaneous and (start, discriminator_every, generator_every) != (0, 1, 1):
        raise ConfigurationError(
            "Cannot let one player wait in simultaneous play, where both move at once; use start=0, "
            "discriminator_every=1 and generator_every=1, or alternating play"
        )
    if start and generator_every > 1:
        raise ConfigurationError(
            "Cannot let the generator skip game steps while the discriminators wait, because then nobody moves; "
            f"use generator_every=1 or start=0 (got {generator_every} and {start})"
        )
    if 1 not in (discriminator_every, generator_every):
        raise ConfigurationError(
            "Cannot play a game step in which nobody moves; let discriminator_every or generator_every be 1 "
            f"(got {discriminator_every} and {generator_every})"
        )


def check_weights(discriminators: Iterable[str], of_discriminators: Mapping[str, float], **weights: float) -> None:
    """Refuse weights that are no finite number ≥ 0, and weights of discriminators that are not there."""
    for setting, value in [*weights.items(), *of_discriminators.items()]:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            raise ConfigurationError(f"Cannot weigh {setting} by {value!r}; pass a finite number ≥ 0")
    names = list(discriminators)
    if not names or of_discriminators.keys() != set(names):
        raise ConfigurationError(
            "Cannot weigh discriminators that are not there; name in discriminator_weights those of discriminators "
            f"(got {list(of_discriminators)} and {names})"
        )


def check_batch(size: int, discriminator_steps: int, accumulate: int) -> None:
    """Refuse a batch of a size that does not fall into equal micro-batches."""
    parts = discriminator_steps * accumulate
    if size % parts:
        raise ConfigurationError(
            f"Cannot split a batch of {size} over discriminator_steps × accumulate = {discriminator_steps} × "
            f"{accumulate}; choose a batch size that {parts} divides, and drop_last=True (got {size})"
        )


def check_last_batch(trainer: Any, discriminator_steps: int, accumulate: int) -> None:
    """Refuse a loader whose last, smaller batch of an epoch does not divide, if a fit gets there."""
    loader = trainer.train_dataloader
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return  # a stream may have no length
    if trainer.num_training_batches >= len(loader) and loader.batch_size and not loader.drop_last:
        last = len(loader.sampler) % loader.batch_size  # type: ignore[arg-type]
        if last % (discriminator_steps * accumulate):
            raise ConfigurationError(
                f"Cannot split the last batch of an epoch, of {last}, over discriminator_steps × accumulate = "
                f"{discriminator_steps} × {accumulate}; pass drop_last=True to the loader (got {last})"
            )
