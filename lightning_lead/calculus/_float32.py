"""float32 that is float32: no TF32, which keeps 10 bits of a factor instead of 23, in convolutions and matrix products.

torch allows TF32 in cuDNN's convolutions unless told not to. A step of training can bear that. A
difference of two nearly equal results cannot (the difference form, the comparison of two ways to a derivative), and a
score would depend on it.

torch 2.9 has a setting per operation, `torch.backends.cudnn.conv.fp32_precision`. All versions have the older flags
`torch.backends.cudnn.allow_tf32` and `torch.set_float32_matmul_precision`. Reading an older flag that contradicts the
settings raises. So both are moved together, and read where they agree.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

__all__ = ["float32_products", "full_float32", "plain_computation"]

# what `torch.backends` calls itself; by its own attributes a read takes 8 µs, and a game step needs dozens of them
_PER_OPERATION = hasattr(torch._C, "_get_fp32_precision_getter")  # torch ≥ 2.9
_OPERATIONS = [(backend, operation) for backend in ("cuda", "mkldnn") for operation in ("conv", "rnn", "matmul")]
_NAMES = {"convolution": "conv", "matmul": "matmul"}
_LEVELS = {"highest": "ieee", "high": "tf32", "medium": "tf32"}
_COARSE = ("tf32", "bf16")


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute convolutions, recurrent layers and matrix products of float32 in float32, on every device.

    Afterwards every setting reads as before. Kernels are chosen when they are queued, so nothing waits for the device.
    The settings are the whole process's, so no other thread should compute meanwhile.
    """
    with _settings_moved() if _PER_OPERATION else _flags_moved():
        yield


@contextmanager
def plain_computation(device: torch.device) -> Iterator[None]:
    """Compute without gradients, autocast and TF32, and make ordinary tensors.

    Lightning validates in inference mode, and a tensor that was made there cannot be written to during training.
    Statistics of the real images are kept across both.
    """
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False), full_float32():
        yield


def float32_products(device: torch.device | str) -> dict[str, str]:
    """The dtypes in which the device now computes products of float32: "float32", "tf32" or "bf16"."""
    kind = torch.device(device).type
    if _PER_OPERATION:
        backend = "cuda" if kind == "cuda" else "mkldnn"  # oneDNN, of CPUs
        settings = {name: _get(backend, operation) for name, operation in _NAMES.items()}
    else:
        level = torch.get_float32_matmul_precision()
        settings = {"convolution": "tf32" if torch._C._get_cudnn_allow_tf32() else "ieee", "matmul": _LEVELS[level]}
        if kind != "cuda":  # there the older flags know of bf16 alone
            settings = {"convolution": "ieee", "matmul": "bf16" if level == "medium" else "ieee"}
    return {name: setting if setting in _COARSE else "float32" for name, setting in settings.items()}


@contextmanager
def _settings_moved() -> Iterator[None]:
    before = [_get(*operation) for operation in _OPERATIONS]
    if not any(setting in _COARSE for setting in before):
        yield
        return
    try:
        _set(["ieee"] * len(_OPERATIONS))
        _silence_first_read()
        level = torch.get_float32_matmul_precision()  # now that no setting contradicts it
        allowed = _cudnn_flag(before[0] == "tf32")
        # the flags too, so that code which reads them inside meets no contradiction
        try:
            torch.set_float32_matmul_precision("highest")
            torch._C._set_cudnn_allow_tf32(False)
            _set(["ieee"] * len(_OPERATIONS))  # after the flag, which leaves them to what stands above them
            yield
        finally:
            torch._C._set_cudnn_allow_tf32(allowed)
            torch.set_float32_matmul_precision(level)
    finally:
        _set(before)


@contextmanager
def _flags_moved() -> Iterator[None]:
    level, allowed = torch.get_float32_matmul_precision(), torch._C._get_cudnn_allow_tf32()
    if level == "highest" and not allowed:
        yield
        return
    try:
        torch.set_float32_matmul_precision("highest")
        torch._C._set_cudnn_allow_tf32(False)
        yield
    finally:
        torch._C._set_cudnn_allow_tf32(allowed)
        torch.set_float32_matmul_precision(level)


def _get(backend: str, operation: str) -> str:
    setting: str = torch._C._get_fp32_precision_getter(backend, operation)
    return setting


def _set(settings: Sequence[str]) -> None:
    for (backend, operation), setting in zip(_OPERATIONS, settings, strict=True):
        torch._C._set_fp32_precision_setter(backend, operation, setting)


def _cudnn_flag(guess: bool) -> bool:
    """The older flag, read where the settings agree with a guess at it, because an error takes torch 0.2 ms."""
    for operation in ("conv", "rnn"):
        torch._C._set_fp32_precision_setter("cuda", operation, "tf32" if guess else "ieee")
    try:
        return bool(torch._C._get_cudnn_allow_tf32())
    except RuntimeError:  # the settings agree with each other, so it is the flag that does not
        return not guess


@functools.cache
def _silence_first_read() -> None:
    """Use up the warning that torch 2.9 gives once per process at the first read of an older flag."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.get_float32_matmul_precision()
