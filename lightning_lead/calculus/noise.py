"""Evaluations that leave no trace: buffers frozen, random numbers private.

A second look at the same losses (a displaced opponent, a probe, a sample for a metric) must neither move batch-norm
statistics or spectral-norm vectors nor consume random numbers that training would have drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

__all__ = ["frozen_buffers", "mix_seed", "private_rng"]


@contextmanager
def frozen_buffers(module: nn.Module) -> Iterator[None]:
    """Run forwards that leave every buffer of `module` as it was.

    Buffers are replaced by copies, and power iteration is off, so that a spectral norm is the same function of the
    weights in every evaluation of a pair. Copies rather than a restore afterwards: the graph of an earlier forward may
    have saved the buffer itself, and writing to it in place would spoil the backward pass.

    Args:
        module: any module; its train mode stays as it is.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with frozen_buffers(norm):
        ...     _ = norm(torch.randn(8, 2))
        >>> norm.num_batches_tracked.item()
        0
    """
    originals: list[tuple[nn.Module, str, torch.Tensor]] = []
    iterating: list[nn.Module] = []
    for child in module.modules():
        for name, buffer in child.named_buffers(recurse=False):
            originals.append((child, name, buffer))
        hooks = child._forward_pre_hooks.values()
        if child.training and (isinstance(child, _SpectralNorm) or any(isinstance(h, SpectralNorm) for h in hooks)):
            iterating.append(child)
    try:
        for child, name, buffer in originals:
            setattr(child, name, buffer.clone())
        for child in iterating:
            child.training = False
        yield
    finally:
        for child, name, buffer in originals:
            setattr(child, name, buffer)
        for child in iterating:
            child.training = True


def mix_seed(*parts: int) -> int:
    """A 63-bit seed from any integers, unrelated to those of their neighbours.

    Args:
        *parts: what the noise is to depend on, such as (seed, rank, step).

    Example:
        >>> mix_seed(0, 1) == mix_seed(0, 1), mix_seed(0, 1) == mix_seed(1, 0)
        (True, False)
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def private_rng(seed: int, device: torch.device | str = "cpu") -> Iterator[torch.Generator]:
    """Random numbers that are a function of `seed`; the global generators outside are untouched.

    Args:
        seed: any integer; taken modulo 2⁶³.
        device: where the yielded generator draws; the global generator of that device is seeded inside as well.

    Yields:
        A generator on `device`, for draws that name their generator.

    Example:
        >>> with private_rng(7):
        ...     a = torch.rand(1)
        >>> with private_rng(7):
        ...     b = torch.rand(1)
        >>> torch.equal(a, b)
        True
    """
    device = torch.device(device)
    seed %= 2**63
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield torch.Generator(device).manual_seed(seed + 1)
