"""Private random numbers: functions of a seed, which neither read nor move the generators outside."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["PrivateNoise", "RandomState", "mix_seed", "private_rng"]


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


class RandomState:
    """The global generators' state, on the CPU and on one device, as it is now.

    Args:
        device: of which the generator counts, besides the CPU's.

    Example:
        >>> state = RandomState("cpu")
        >>> first = torch.rand(1)
        >>> state.restore()
        >>> torch.equal(first, torch.rand(1))
        True
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._cpu = torch.get_rng_state()
        self._own = None if self._device.type == "cpu" else _backend(self._device)[0].get_rng_state(*self._where)

    @property
    def _where(self) -> tuple[torch.device, ...]:
        return _backend(self._device)[1]

    def restore(self) -> None:
        """Draw from here again."""
        torch.set_rng_state(self._cpu)
        if self._own is not None:
            _backend(self._device)[0].set_rng_state(self._own, *self._where)


def _backend(device: torch.device) -> tuple[Any, tuple[torch.device, ...]]:
    """torch.cuda, torch.xpu, and torch.mps, which has one device and never names it."""
    return getattr(torch, device.type), () if device.type == "mps" else (device,)


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
    state = torch.get_rng_state()  # torch's `fork_rng` looks for accelerators every time, which takes longer
    try:
        with _seeded(device, seed):
            torch.default_generator.manual_seed(seed)
            yield torch.Generator(device).manual_seed(seed + 1)
    finally:
        torch.set_rng_state(state)


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """An accelerator's global generator, seeded inside and put back."""
    if device.type == "cpu":
        yield
        return
    backend, where = _backend(device)
    state = backend.get_rng_state(*where)
    if device.type == "mps":
        backend.manual_seed(seed)
    else:
        with backend.device(device):
            backend.manual_seed(seed)
    try:
        yield
    finally:
        backend.set_rng_state(state, *where)


class PrivateNoise:
    """The random numbers of a game step, handed to whatever draws them.

    Args:
        device: where `generator` draws.

    Attributes:
        device: the same; it may be changed between uses.
        generator: for draws that name their generator; None outside of `seeded`, where the global one draws.

    Example:
        >>> noise = PrivateNoise()
        >>> with noise.seeded(7):
        ...     a = torch.rand(1, generator=noise.generator)
        >>> with noise.seeded(7):
        ...     torch.equal(a, torch.rand(1, generator=noise.generator)), noise.generator is None
        (True, False)
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.generator: torch.Generator | None = None

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Make everything random inside a function of the seed; nested uses put the outer generator back.

        Args:
            seed: any integer.
        """
        outer = self.generator
        with private_rng(seed, self.device) as self.generator:
            try:
                yield
            finally:
                self.generator = outer
