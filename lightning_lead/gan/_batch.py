"""The micro-batch of a GAN's turn."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["EVALUATED", "GANBatch"]

EVALUATED = -1
"""The `update` of a batch that is evaluated and not trained on: every penalty is due, with its own weight."""


class GANBatch(NamedTuple):
    """The micro-batch of a turn: reals, and the latents of the fakes, drawn once and used in every evaluation.

    `LeadGANModule.wanted_losses(batch, wanted)` gets it, and `game_turns(batch)` returns turns of it.

    Example:
        >>> import torch
        >>> batch = GANBatch(torch.zeros(4, 2), None, torch.zeros(8, 3), None, discriminator_moves=True)
        >>> [len(part.latents) for part in batch.split(2)], len(batch.first(3).real)
        ([4, 4], 3)
    """

    real: Tensor  # (m, ...)
    labels: Tensor | None  # of the reals, (m,); None for an unconditional GAN
    latents: Tensor  # (k, latent_dim)
    fake_labels: Tensor | None  # of the fakes, (k,)
    discriminator_moves: bool  # alone or with the generator; otherwise D(x) moves buffers only if it enters L_G
    update: int = 0  # of the discriminator, counted from 0 in a run; penalties with `every` ask for it
    generator_moves: bool = True  # alone or with the discriminator; otherwise averages of its penalty stay
    generator_update: int = 0  # counted in the same way

    def split(self, parts: int) -> list[GANBatch]:
        """Return as many equal micro-batches; `parts` must divide m and k."""
        columns = (field.chunk(parts) if isinstance(field, Tensor) else [field] * parts for field in self)
        return [GANBatch(*fields) for fields in zip(*columns, strict=True)]

    def first(self, count: int) -> GANBatch:
        """Return the first `count` reals and latents, with their labels."""
        return GANBatch._make(field[:count] if isinstance(field, Tensor) else field for field in self)
