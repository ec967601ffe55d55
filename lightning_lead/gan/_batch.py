"""A micro-batch of a GAN: reals, latents, and labels for the networks that take them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from lightning_lead._errors import ConfigurationError

__all__ = ["GANBatch", "call_network", "first_samples", "micro_batches", "takes_labels"]


class GANBatch(NamedTuple):
    """The micro-batch of a turn: reals, and the latents of the fakes, drawn once and used in every evaluation.

    `LeadGANModule.wanted_losses(batch, wanted)` gets it, and `game_turns(batch)` returns turns of it.

    Example:
        >>> import torch
        >>> batch = GANBatch(torch.zeros(4, 2), None, torch.zeros(8, 3), None, discriminator_moves=True)
        >>> batch.latents.shape
        torch.Size([8, 3])
    """

    real: Tensor  # (m, ...)
    labels: Tensor | None  # of the reals, (m,); None for an unconditional GAN
    latents: Tensor  # (k, latent_dim)
    fake_labels: Tensor | None  # of the fakes, (k,)
    discriminator_moves: bool  # otherwise the generator does


def micro_batches(
    real: Tensor, labels: Tensor | None, latents: Tensor, *, fakes_take_labels: bool, moves: bool, parts: int
) -> list[GANBatch]:
    """A turn's samples in equal parts.

    Args:
        real: (m, ...); `parts` divides m.
        labels: (m,), or None.
        latents: (k, latent_dim); `parts` divides k.
        fakes_take_labels: fakes get the labels of the reals, over and over if there are more of them.
        moves: whether the discriminator moves.
        parts: how many, ≥ 1.

    Example:
        >>> import torch
        >>> real, latents = torch.zeros(4, 2), torch.zeros(8, 3)
        >>> first, second = micro_batches(real, None, latents, fakes_take_labels=False, moves=True, parts=2)
        >>> len(first.real), len(second.latents)
        (2, 4)
    """
    fake_labels = None
    if labels is not None and fakes_take_labels:
        fake_labels = labels.repeat(-(-len(latents) // len(labels)))[: len(latents)]
    nothing = [None] * parts
    return [
        GANBatch(*columns, moves)
        for columns in zip(
            real.chunk(parts),
            labels.chunk(parts) if labels is not None else nothing,
            latents.chunk(parts),
            fake_labels.chunk(parts) if fake_labels is not None else nothing,
            strict=True,
        )
    ]


def first_samples(batch: GANBatch, count: int) -> GANBatch:
    """The first samples of a micro-batch.

    Args:
        batch: the micro-batch.
        count: of reals and of latents.

    Example:
        >>> import torch
        >>> len(first_samples(GANBatch(torch.zeros(4, 2), None, torch.zeros(8, 3), None, True), 3).latents)
        3
    """
    return GANBatch._make(part[:count] if isinstance(part, Tensor) else part for part in batch)


def _arguments(network: nn.Module) -> list[inspect.Parameter]:
    forward = getattr(network, "_orig_mod", network).forward  # inside of what torch.compile has wrapped
    function = getattr(forward, "__func__", None)
    return _positional(forward) if function is None else _of_method(function)[1:]


@functools.lru_cache
def _of_method(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Those of a function do not change, and reading them takes longer than a small layer; networks are not kept."""
    return _positional(function)


def _positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def takes_labels(network: nn.Module) -> bool:
    """Whether labels are passed to a network.

    One that may take labels but names no classes is unconditional: its optional argument stays unused.

    Args:
        network: generator or discriminator.

    Example:
        >>> takes_labels(nn.Linear(1, 1))
        False
    """
    arguments = _arguments(network)
    return len(arguments) > 1 and (
        arguments[1].default is inspect.Parameter.empty or getattr(network, "num_classes", None) is not None
    )


def call_network(network: nn.Module, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
    """A network's output, with labels if it takes them.

    Args:
        network: generator or discriminator.
        inputs: latents or samples, (n, ...).
        labels: (n,), or None.

    Raises:
        ConfigurationError: the network takes labels and there are none.
    """
    if not takes_labels(network):
        unconditional: Tensor = network(inputs)
        return unconditional
    if labels is None:
        raise ConfigurationError(
            f"Cannot call {type(network).__name__} because it takes labels and there are none; let the loader yield "
            "(samples, labels), or override unpack_batch(batch) and sample_labels(n)"
        )
    conditional: Tensor = network(inputs, labels)
    return conditional
