"""Evaluations that leave no trace: buffers frozen, random numbers private.

A second look at the same losses (a displaced opponent, a probe, a sample for a metric) must neither move batch-norm
statistics or spectral-norm vectors nor consume random numbers that training would have drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from lightning_lead.calculus.dual import split_dual

__all__ = ["RandomState", "SpectralRecord", "frozen_buffers", "mix_seed", "primal_power_iteration", "private_rng"]


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
    originals = [(child, n, b) for child in module.modules() for n, b in child.named_buffers(recurse=False)]
    iterating = [child for child, _ in _spectral_norms(module) if child.training]
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


class SpectralRecord:
    """The singular vectors that every spectral norm used, forward by forward, for a repeat of the same forwards.

    A train-mode forward moves the vectors, so a second evaluation would be another function of the weights: the
    difference of two gradients would not vanish where nothing has moved.

    Example:
        >>> layer = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
        >>> x, record = torch.ones(1, 3), SpectralRecord()
        >>> with record.recording(layer):
        ...     first, second = layer(x), layer(x)
        >>> with frozen_buffers(layer), record.replaying(layer):
        ...     torch.equal(layer(x), first), torch.equal(layer(x), second)
        (True, True)
    """

    def __init__(self) -> None:
        self._used: dict[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    @contextmanager
    def recording(self, module: nn.Module) -> Iterator[None]:
        """Keep copies of the vectors of each forward, after those that were kept before.

        Args:
            module: whose spectral norms.
        """
        handles = []
        for child, (u, v) in _spectral_norms(module):
            used = self._used.setdefault(child, [])

            def keep(layer: nn.Module, *_: object, used: list[Any] = used, u: str = u, v: str = v) -> None:
                used.append((getattr(layer, u).clone(), getattr(layer, v).clone()))

            handles.append(child.register_forward_hook(keep))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def replaying(self, module: nn.Module) -> Iterator[None]:
        """Use them again, in the same order; inside of `frozen_buffers`.

        Args:
            module: the one that was recorded.
        """
        handles = []
        for child, (u, v) in _spectral_norms(module):
            pairs = iter(self._used.get(child, []))

            def restore(layer: nn.Module, *_: object, pairs: Any = pairs, u: str = u, v: str = v) -> None:
                pair = next(pairs, None)
                if pair is not None:
                    setattr(layer, u, pair[0])
                    setattr(layer, v, pair[1])

            handles.append(child.register_forward_pre_hook(restore, prepend=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def primal_power_iteration(module: nn.Module) -> Iterator[None]:
    """Let spectral norms iterate on the primal part of a dual weight.

    Power iteration writes into its buffers, which dual numbers refuse; no derivative goes through it in any case.

    Args:
        module: any module.

    Example:
        >>> from lightning_lead.calculus.dual import lean_duals
        >>> layer = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))
        >>> with primal_power_iteration(layer), lean_duals():
        ...     layer(torch.ones(1, 2)).shape
        torch.Size([1, 2])
    """
    patched: list[tuple[Any, str]] = []
    try:
        for child in module.modules():
            if isinstance(child, _SpectralNorm) and hasattr(child, "_u"):
                object.__setattr__(child, "_power_method", partial(_iterate_primal, child._power_method))
                patched.append((child, "_power_method"))
            for hook in child._forward_pre_hooks.values():
                if isinstance(hook, SpectralNorm):
                    hook.compute_weight = partial(_weight_of_primal, hook, hook.compute_weight)  # type: ignore[method-assign]
                    patched.append((hook, "compute_weight"))
        yield
    finally:
        for where, name in patched:
            object.__delattr__(where, name)


def _iterate_primal(iterate: Any, weight: torch.Tensor, iterations: int) -> None:
    with torch._C.DisableTorchFunction():  # no rule has a say here, and each call that passes them takes its time
        iterate(split_dual(weight)[0], iterations)


def _weight_of_primal(hook: SpectralNorm, compute: Any, layer: nn.Module, do_power_iteration: bool) -> Any:
    """torch's older implementation iterates and divides in one function: once on the primal, once for the quotient."""
    name, (u, v) = f"{hook.name}_orig", (f"{hook.name}_u", f"{hook.name}_v")
    weight = layer._parameters[name]
    assert weight is not None
    primal, tangent = split_dual(weight)
    if tangent is None or not do_power_iteration:
        return compute(layer, do_power_iteration)
    layer._parameters[name] = primal  # type: ignore[assignment]
    compute(layer, True)
    layer._parameters[name] = weight
    moved = getattr(layer, u), getattr(layer, v)
    setattr(layer, u, moved[0].clone())  # the graph keeps copies, because the next forward writes to the buffers
    setattr(layer, v, moved[1].clone())
    try:
        return compute(layer, False)
    finally:
        setattr(layer, u, moved[0])
        setattr(layer, v, moved[1])


def _spectral_norms(module: nn.Module) -> list[tuple[nn.Module, tuple[str, str]]]:
    """Both of torch's implementations: the module whose forward iterates, and the names of its two vectors."""
    found: list[tuple[nn.Module, tuple[str, str]]] = []
    for child in module.modules():
        if isinstance(child, _SpectralNorm) and hasattr(child, "_u"):
            found.append((child, ("_u", "_v")))
        for hook in child._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                found.append((child, (f"{hook.name}_u", f"{hook.name}_v")))
    return found


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
