"""Samples of a trained generator, as tensors, from a seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_lead._checks import check_positive
from lightning_lead._errors import ConfigurationError

__all__ = ["draw_samples"]


def draw_samples(
    generator: nn.Module, n: int, *, seed: int = 0, labels: Sequence[int] | None = None, batch_size: int = 256
) -> Tensor:
    """Draw samples of a generator, in its own range; the same for a seed, whatever the batch size, to rounding.

    Args:
        generator: with an integer attribute `latent_dim`, as `load_generator` returns it; and `num_classes`, if it
            takes labels.
        n: samples, ≥ 1.
        seed: of the latents, which are standard normal.
        labels: of a conditional generator, each in [0, num_classes), over and over; default all classes in turn.
        batch_size: samples that are computed at once, ≥ 1.

    Returns:
        (n, ...) on the generator's device.

    Raises:
        ConfigurationError: a count below one, a generator that does not say how long a latent is, or labels out of
            their range.

    Example:
        >>> from lightning_lead.networks import MLPGenerator
        >>> draw_samples(MLPGenerator(latent_dim=4, width=8).eval(), 3).shape
        torch.Size([3, 2])
    """
    check_positive(n=n, batch_size=batch_size)
    latent_dim = getattr(generator, "latent_dim", None)
    if not isinstance(latent_dim, int):
        raise ConfigurationError(
            f"Cannot draw latents because {type(generator).__name__} has no integer attribute latent_dim; set it, or "
            f"call the generator on latents of your own (got {latent_dim!r})"
        )
    first = next(generator.parameters())
    drawn = torch.randn(n, latent_dim, generator=torch.Generator().manual_seed(seed)).to(first)
    classes = _classes(getattr(generator, "num_classes", None), labels)
    inputs = [drawn.split(batch_size)]
    if classes is not None:
        cycled = torch.tensor(classes).repeat(-(-n // len(classes)))[:n]
        inputs.append(cycled.to(first.device).split(batch_size))
    with torch.no_grad():
        return torch.cat([generator(*each) for each in zip(*inputs, strict=True)])


def _classes(num_classes: int | None, labels: Sequence[int] | None) -> list[int] | None:
    if num_classes is None:
        if labels is not None:
            raise ConfigurationError(
                f"Cannot use labels because the generator takes none; leave them out (got {labels})"
            )
        return None
    chosen = list(range(num_classes)) if labels is None else list(labels)
    if not chosen or not all(0 <= label < num_classes for label in chosen):
        raise ConfigurationError(f"Cannot use these labels; pass some in [0, {num_classes}) (got {chosen})")
    return chosen
