"""Settings of a GAN that must fit each other, and the sizes of batches that must fit the settings."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from lightning_lead._errors import ConfigurationError

__all__ = ["check_batch", "check_last_batch", "check_schedule"]


def check_schedule(
    *,
    simultaneous: str | None,
    discriminator_steps: int,
    generator_batch_size: int | None,
    accumulate: int,
    shared_latents: bool,
) -> None:
    """Refuse a schedule of a game step that contradicts itself.

    Args:
        simultaneous: the rule's name if both players move at once, or None.
        discriminator_steps: discriminator updates per game step.
        generator_batch_size: fakes per generator update, or None for the discriminator's.
        accumulate: micro-batches per update.
        shared_latents: whether the generator looks at the fakes of the first discriminator update.

    Raises:
        ConfigurationError: a number out of its range, or two settings that exclude each other.
    """
    for name, value in (("discriminator_steps", discriminator_steps), ("generator_batch_size", generator_batch_size)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigurationError(f"Cannot use {name} because it must be an integer ≥ 1 (got {value!r})")
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
    """Refuse a batch that does not fall into equal micro-batches.

    Args:
        size: samples in it.
        discriminator_steps: shares of the batch.
        accumulate: parts of a share.

    Raises:
        ConfigurationError: it does not divide.
    """
    parts = discriminator_steps * accumulate
    if size % parts:
        raise ConfigurationError(
            f"Cannot split a batch of {size} over discriminator_steps × accumulate = {discriminator_steps} × "
            f"{accumulate}; choose a batch size that {parts} divides, and drop_last=True (got {size})"
        )


def check_last_batch(trainer: Any, discriminator_steps: int, accumulate: int) -> None:
    """Refuse a loader of which the last, smaller batch of an epoch does not divide, if a fit gets there.

    Args:
        trainer: with its loader.
        discriminator_steps: shares of a batch.
        accumulate: parts of a share.

    Raises:
        ConfigurationError: it does not divide.
    """
    loader = trainer.train_dataloader
    reached = isinstance(loader, DataLoader) and trainer.num_training_batches >= len(loader)
    if reached and loader.batch_size and not loader.drop_last and not isinstance(loader.dataset, IterableDataset):
        last = len(loader.sampler) % loader.batch_size
        if last % (discriminator_steps * accumulate):
            raise ConfigurationError(
                f"Cannot split the last batch of an epoch, of {last}, over discriminator_steps × accumulate = "
                f"{discriminator_steps} × {accumulate}; pass drop_last=True to the loader (got {last})"
            )
