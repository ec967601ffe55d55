"""Checks of a GAN's settings against each other, and of batch sizes against the settings."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from lightning_lead._checks import check_count, check_positive
from lightning_lead._errors import ConfigurationError

__all__ = ["check_batch", "check_last_batch", "check_schedule"]


def check_schedule(
    *,
    simultaneous: str | None,
    discriminator_steps: int,
    discriminator_warmup: int,
    generator_batch_size: int | None,
    accumulate: int,
    shared_latents: bool,
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
