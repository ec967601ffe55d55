"""A hash of a network's weights: of names and values, and not of the file that they came in."""

from __future__ import annotations

import hashlib

from torch import nn

__all__ = ["is_counter", "weights_sha256"]


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 of all weights and buffers in float32, names included, as 64 hexadecimal digits.

    Saving the same weights again gives another file, and another device or memory format the same weights: neither
    changes the hash. Batch normalisation's counters, which only training reads, are left out.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not is_counter(name):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy())
    return digest.hexdigest()


def is_counter(name: str) -> bool:
    """True of a batch normalisation's count of batches; files of weights may lack it."""
    return name.endswith("num_batches_tracked")
