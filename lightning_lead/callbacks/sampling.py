"""Samples for looking at: drawn in eval mode, in full precision, from private noise, and turned into bytes by rounding.

    byte = round(255 · (x − low) / (high − low)),        clamped to [0, 255]

Truncation instead of rounding darkens every image by half a grey level, which a feature network sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_lead._errors import ConfigurationError
from lightning_lead.calculus.float32 import full_float32
from lightning_lead.calculus.noise import mix_seed
from lightning_lead.calculus.placement import Placement
from lightning_lead.callbacks.checks import check_positive

if TYPE_CHECKING:
    from lightning_lead.callbacks.ema import GeneratorEMA

__all__ = [
    "evaluation_mode",
    "generate",
    "outside_range",
    "plain_computation",
    "to_uint8",
]

RANGE_TOLERANCE = 1e-3
"""Share of the range's width that a value may overshoot it: a quarter of a grey level, which rounding swallows."""


def generate(
    pl_module: Any,
    count: int,
    *,
    seed: int,
    batch_size: int,
    ema: GeneratorEMA | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Tensor]:
    """Draw samples that depend on the weights and `seed` only, and leave no trace in the module or in any generator.

    Chunk k is drawn under noise of its own and by rank k mod world_size: all ranks together draw what one alone would.
    Modes are switched for one chunk at a time, so an iterator that is dropped half-way leaves nothing behind.

    Args:
        pl_module: a module with `private_noise`, `sample_latents`, `sample_labels` and `forward`, as `LeadGANModule`.
        count: samples over all ranks, ≥ 1.
        seed: any integer.
        batch_size: samples in a chunk, ≥ 1; another one gives other samples.
        ema: draw from its averaged weights instead of the live ones.
        rank: this process.
        world_size: how many processes share the work.

    Yields:
        This rank's chunks, float32, (n, C, H, W) or (n, 2), in order.

    Raises:
        ConfigurationError: a count < 1, or a generator that returns no batch of floats.

    Example:
        >>> from lightning_lead import LeadGANModule
        >>> G, D = nn.Linear(3, 2), nn.Linear(2, 1)
        >>> gan = LeadGANModule(G, D, latent_dim=3)
        >>> alone = torch.cat(list(generate(gan, 10, seed=0, batch_size=4)))
        >>> second = torch.cat(list(generate(gan, 10, seed=0, batch_size=4, rank=1, world_size=2)))
        >>> alone.shape, torch.equal(alone[4:8], second)
        (torch.Size([10, 2]), True)
    """
    check_positive(count=count, batch_size=batch_size)
    averaged = ema.average(pl_module) if ema is not None else None
    for k, start in enumerate(range(0, count, batch_size)):
        if k % world_size == rank:
            yield _draw(pl_module, min(batch_size, count - start), mix_seed(seed, k), averaged)


def _draw(pl_module: Any, n: int, seed: int, averaged: Mapping[str, Tensor] | None) -> Tensor:
    with evaluation_mode(pl_module), plain_computation(pl_module.device), pl_module.private_noise(seed):
        latents, labels = pl_module.sample_latents(n), pl_module.sample_labels(n)
        inputs = (latents,) if labels is None else (latents, labels)
        live = dict(pl_module.generator.named_parameters())
        average = {"generator": tuple(averaged[f"generator.{name}"] for name in live)} if averaged is not None else {}
        with Placement(pl_module, {"generator": list(live.values())}).hold(average):
            samples = pl_module(*inputs)
    if not isinstance(samples, Tensor) or not samples.is_floating_point() or samples.dim() < 2 or len(samples) != n:
        got = f"{tuple(samples.shape)} {samples.dtype}" if isinstance(samples, Tensor) else type(samples).__name__
        raise ConfigurationError(
            f"Cannot use the samples because {n} latents did not give {n} floating-point samples; "
            f"make the generator return (n, C, H, W) or (n, 2) (got {got})"
        )
    return samples.float()


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule has exactly the mode that it had.

    Args:
        module: any module, with submodules in train and in eval mode.

    Example:
        >>> net = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with evaluation_mode(net):
        ...     inside = [m.training for m in net]
        >>> inside, [m.training for m in net]
        ([False, False], [True, False])
    """
    modes = [(child, child.training) for child in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for child, training in modes:
            child.training = training


@contextmanager
def plain_computation(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, no TF32, and ordinary tensors.

    Lightning validates in inference mode, and a tensor that was made there cannot be written to during training;
    statistics of the real images are kept across both.

    Args:
        device: whose autocast to switch off.

    Example:
        >>> with torch.inference_mode(), plain_computation(torch.device("cpu")):
        ...     torch.ones(1).is_inference()
        False
    """
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False), full_float32():
        yield


def to_uint8(images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0), *, strict: bool = True) -> Tensor:
    """Images as bytes, by rounding.

    Args:
        images: any shape; floats in `value_range`, or bytes, which are returned as they are.
        value_range: the values that become 0 and 255.
        strict: refuse values that are farther outside the range than 1e-3 of its width; otherwise clamp them.

    Returns:
        uint8, of the same shape.

    Raises:
        ConfigurationError: values that are not finite; if strict, values outside the range.

    Example:
        >>> to_uint8(torch.tensor([-1.0, 0.0, 0.999, 1.0])).tolist()
        [0, 128, 255, 255]
    """
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise ConfigurationError(
            f"Cannot read the images because they are neither floats nor bytes; convert them (got {images.dtype})"
        )
    low, high = value_range
    if not bool(images.isfinite().all()):
        raise ConfigurationError(
            "Cannot turn images into bytes because some values are not finite; look for divergence, or mask them "
            f"(got {int((~images.isfinite()).sum())} of {images.numel()})"
        )
    if strict and outside_range(images, value_range):
        raise ConfigurationError(
            f"Cannot turn images into bytes because they leave the declared value_range=({low:g}, {high:g}); declare "
            "the range that the data and the generator really have, or end the generator in tanh or sigmoid "
            f"(got values from {images.min().item():.4g} to {images.max().item():.4g})"
        )
    scaled = (images.float() - low) * (255 / (high - low))
    return scaled.round().clamp(0, 255).to(torch.uint8)


def outside_range(images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> int:
    """How many values are farther outside the range than 1e-3 of its width.

    Args:
        images: any shape; bytes are never outside.
        value_range: lowest and highest value.

    Example:
        >>> outside_range(torch.tensor([-1.5, -1.001, 0.0, 3.0]))
        2
    """
    if images.dtype == torch.uint8:
        return 0
    low, high = value_range
    slack = RANGE_TOLERANCE * (high - low)
    return int(((images < low - slack) | (images > high + slack)).sum())
