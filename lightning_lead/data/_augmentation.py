"""Random numbers of a sample that are a function of (seed, epoch, sample), the same bits on every device.

    key of a sample   k = mix((s + e·N + i)·γ)      s: from the seed,  e: epoch,  i: sample of N
    its words         w_j = mix(k + (j + 1)·γ)      of 64 bits; 24 bits of each half are a float in [0, 1)

γ is 2⁶⁴ over the golden ratio, and mix two rounds of shift, xor and multiply. Whole numbers alone: a device's own
generator would give other numbers on another device, and those of the global one would depend on who drew before.

Reference: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (SplitMix64).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_lead._hashing import text_number

__all__ = ["flipped", "sample_keys", "uniform"]


def _signed(word: int) -> int:
    """The int64 with the same 64 bits."""
    return word - (1 << 64) if word >> 63 else word


_GAMMA = _signed(0x9E3779B97F4A7C15)
_ROUNDS = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)))
_LOW = (1 << 24) - 1


def _folded(words: Tensor, bits: int) -> Tensor:
    """Words xor themselves shifted to the right, logically; torch's shift is arithmetic."""
    return (words >> bits).bitwise_and_((1 << (64 - bits)) - 1).bitwise_xor_(words)


def _mix(words: Tensor) -> Tensor:
    """SplitMix64's finaliser; int64 products wrap around."""
    for bits, factor in _ROUNDS:
        words = _folded(words, bits).mul_(factor)
    return _folded(words, 31)


def sample_keys(seed: int, samples: Tensor) -> Tensor:
    """A key per sample and epoch."""
    start = text_number(f"samples/{seed}")
    return _mix((samples + _signed(start)) * _GAMMA)


def uniform(keys: Tensor, count: int) -> Tensor:
    """Numbers in [0, 1), of which each key has its own."""
    steps = torch.arange(1, (count + 1) // 2 + 1, device=keys.device) * _GAMMA
    words = _mix(keys[:, None] + steps)
    halves = torch.stack([words >> 40, words >> 8], dim=2).bitwise_and_(_LOW)  # bits 40 to 63 and 8 to 31
    return halves.flatten(1)[:, :count].to(torch.float32).mul_(2.0**-24)


def flipped(images: Tensor, keys: Tensor) -> Tensor:
    """Images of which half, at random, are mirrored left to right."""
    # the sign of another function of the key than those that `uniform` uses
    mirror = _mix(keys ^ _GAMMA) < 0
    return torch.where(mirror[:, None, None, None], images.flip(3), images)
