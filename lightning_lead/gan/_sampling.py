"""Samples of a generator in eval mode, in full precision, from private noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lightning_lead._checks import check_positive
from lightning_lead._errors import ConfigurationError
from lightning_lead._sharding import refuse_sharded
from lightning_lead.calculus._float32 import plain_computation
from lightning_lead.calculus._rng import mix_seed
from lightning_lead.calculus.swap import Swap

if TYPE_CHECKING:
    from lightning_lead.gan.ema import GeneratorEMA

__all__ = ["averaged_weights", "check_generates", "generate", "sampled_networks"]


def check_generates(pl_module: Any, who: str) -> None:
    """Refuse, in the name of a callback, a module that cannot be asked for samples; the error names what is missing."""
    drawing = () if hasattr(pl_module, "sample") else ("generator", "sample_latents", "sample_labels")
    if missing := [name for name in (*drawing, "private_noise", "sync_buffers") if not hasattr(pl_module, name)]:
        raise ConfigurationError(
            f"Cannot run {who} because {type(pl_module).__name__} has no {', '.join(missing)}; subclass LeadGANModule, "
            "or give a LeadMixin a method sample(n) that returns n samples"
        )


def sampled_networks(pl_module: Any, ema: GeneratorEMA | None) -> list[str]:
    """Name the networks that samples come of: those that are averaged, or the generator, or else all there are."""
    if ema is not None:
        return list(ema.networks)
    return ["generator"] if hasattr(pl_module, "generator") else [name for name, _ in pl_module.named_children()]


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
        pl_module: a module with `sample_latents`, `sample_labels` and `forward`, as `LeadGANModule`; or a `LeadMixin`
            with a method `sample(n)`, which draws its noise from torch's global generator.
        count: samples over all ranks, ≥ 1.
        seed: any integer.
        batch_size: samples in a chunk, ≥ 1; another one gives other samples.
        ema: draw from its averaged weights instead of the live ones.
        rank: this process.
        world_size: number of processes that share the work.

    Yields:
        This rank's chunks, float32, (n, C, H, W) or (n, 2), in order.

    Raises:
        ConfigurationError: a count < 1, or a generator that returns no batch of floats.

    Example:
        >>> import torch
        >>> from lightning_lead import LeadGANModule
        >>> G, D = nn.Linear(3, 2), nn.Linear(2, 1)
        >>> gan = LeadGANModule(G, D, latent_dim=3)
        >>> alone = torch.cat(list(generate(gan, 10, seed=0, batch_size=4)))
        >>> second = torch.cat(list(generate(gan, 10, seed=0, batch_size=4, rank=1, world_size=2)))
        >>> alone.shape, torch.equal(alone[4:8], second)
        (torch.Size([10, 2]), True)
    """
    check_positive(count=count, batch_size=batch_size)
    refuse_sharded(pl_module, "draw samples")
    averaged = ema.average(pl_module) if ema is not None else None
    for k, start in enumerate(range(0, count, batch_size)):
        if k % world_size == rank:
            yield _draw(pl_module, min(batch_size, count - start), mix_seed(seed, k), averaged)


def _draw(pl_module: Any, n: int, seed: int, averaged: Mapping[str, Tensor] | None) -> Tensor:
    quiet, device = _evaluation_mode(pl_module), pl_module.device
    with quiet, plain_computation(device), pl_module.private_noise(seed), averaged_weights(pl_module, averaged):
        if hasattr(pl_module, "sample_latents"):
            latents, labels = pl_module.sample_latents(n), pl_module.sample_labels(n)
            samples = pl_module(latents) if labels is None else pl_module(latents, labels)
        else:
            samples = pl_module.sample(n)
    if not isinstance(samples, Tensor) or not samples.is_floating_point() or samples.dim() < 2 or len(samples) != n:
        got = f"{tuple(samples.shape)} {samples.dtype}" if isinstance(samples, Tensor) else type(samples).__name__
        raise ConfigurationError(
            f"Cannot use the samples because {n} were asked for and there are not {n} floating-point samples; "
            f"make the generator return (n, C, H, W) or (n, 2) (got {got})"
        )
    return samples.float()


@contextmanager
def averaged_weights(module: nn.Module, averaged: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Put averaged parameters into the places of the live ones of these names; None leaves these where they are."""
    live = dict(module.named_parameters(remove_duplicate=False))
    names = [name for name in averaged or () if name in live]  # besides them, there are buffers
    point = {"averaged": tuple(averaged[name] for name in names)} if averaged is not None else {}
    with Swap(module, {"averaged": [live[name] for name in names]})(point):
        yield


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Switch to eval mode; afterwards every submodule has exactly the mode that it had."""
    modes = [(child, child.training) for child in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for child, training in modes:
            child.training = training
