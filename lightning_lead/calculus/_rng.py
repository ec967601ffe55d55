"""Private random numbers: functions of a seed, which neither read nor move the generators outside."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError

__all__ = ["PrivateNoise", "RandomState", "mix_seed", "private_rng"]


def mix_seed(*parts: int) -> int:
    """A 63-bit seed from any integers, unrelated to those of their neighbours.

    Args:
        *parts: what the random numbers depend on, such as (seed, rank, step).

    Example:
        >>> mix_seed(0, 1) == mix_seed(0, 1), mix_seed(0, 1) == mix_seed(1, 0)
        (True, False)
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class RandomState:
    """The global generators' state, as it is now: torch's on the CPU and on one device, Python's and numpy's."""

    def __init__(self, device: torch.device | str, *, torch_only: bool = False) -> None:
        device = torch.device(device)
        # torch.cuda, torch.xpu, or torch.mps, which has one device and never names it
        self._module: Any = None if device.type == "cpu" else getattr(torch, device.type)
        self._where = () if device.type == "mps" else (device,)
        self._cpu = torch.get_rng_state()  # torch's `fork_rng` looks for accelerators every time, which takes longer
        self._python = None if torch_only else random.getstate()
        self._numpy: Any = None if torch_only else sys.modules.get("numpy")  # torch works without it
        self._of_numpy = None if self._numpy is None else self._numpy.random.get_state()
        self._own = None if self._module is None else self._module.get_rng_state(*self._where)

    def seed(self, seed: int) -> None:
        """Seed the generators whose state this is."""
        torch.default_generator.manual_seed(seed)
        if self._python is not None:
            random.seed(seed)
        if self._numpy is not None:
            self._numpy.random.seed(seed % 2**32)
        if self._module is not None:
            with self._module.device(*self._where) if self._where else nullcontext():
                self._module.manual_seed(seed)

    def restore(self) -> None:
        """Set the generators back to this state."""
        torch.set_rng_state(self._cpu)
        if self._python is not None:
            random.setstate(self._python)
        if self._numpy is not None:
            self._numpy.random.set_state(self._of_numpy)
        if self._module is not None:
            self._module.set_rng_state(self._own, *self._where)


@contextmanager
def private_rng(
    seed: int, device: torch.device | str = "cpu", *, torch_only: bool = False
) -> Iterator[torch.Generator]:
    """Random numbers that are a function of the seed; the global generators outside are untouched.

    Args:
        seed: any integer; taken modulo 2⁶³.
        device: where the yielded generator draws; the global generator of that device is seeded inside as well.
        torch_only: leave Python's and numpy's generators as they are, whose states take 80 µs to keep.

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
    seed %= 2**63
    state = RandomState(device, torch_only=torch_only)
    try:
        state.seed(seed)
        yield torch.Generator(device).manual_seed(seed + 1)
    finally:
        state.restore()


class PrivateNoise:
    """The random numbers of a game step, handed to whatever draws them.

    Args:
        device: where `generator` draws; an attribute that may be changed between uses.

    Attributes:
        torch_only: as of `private_rng`; another attribute that may be changed.
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
        check_arguments(PrivateNoise, locals())
        try:
            self.device, self.torch_only = torch.device(device), False
        except RuntimeError as error:
            raise ConfigurationError(
                f"Cannot draw random numbers because torch knows no such device; pass 'cpu' or 'cuda' (got {device!r})"
            ) from error
        self.generator: torch.Generator | None = None

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Make everything random inside a function of the seed, any integer; contexts may be nested."""
        outer = self.generator
        with private_rng(seed, self.device, torch_only=self.torch_only) as self.generator:
            try:
                yield
            finally:
                self.generator = outer
