"""Fits on the device of `fake_device`, and tensors that are made there unless they say otherwise."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytorch_lightning as pl
import torch
from fake_device import DEVICE, KIND, AnyGenerator, FakeDevice
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.strategies import SingleDeviceStrategy
from tiny import tiny_trainer
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

__all__ = ["device_by_default", "device_trainer", "waits_of_fit"]


class device_by_default(TorchFunctionMode):
    """Tensors that are made outside of a package, or by a network's constructor, are on the device unless they say.

    Args:
        package: folder of the package, whose own tensors stay where they are made.
    """

    def __init__(self, package: str) -> None:
        super().__init__()
        self._package, self._makers = package, _device_constructors()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        given = args and isinstance(args[0], torch.Tensor)
        if func in self._makers and kwargs.get("device") is None and not given and self._outside():
            kwargs["device"] = DEVICE
        return func(*args, **kwargs)

    def __enter__(self) -> Any:
        AnyGenerator.default = lambda: KIND if self._outside() else "cpu"
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        AnyGenerator.default = lambda: "cpu"
        super().__exit__(*error)

    def _outside(self) -> bool:
        frame = sys._getframe(2)
        while frame is not None:
            code = frame.f_code
            if code.co_filename.startswith("<doctest"):
                return True
            if code.co_name == "__init__" and isinstance(frame.f_locals.get("self"), torch.nn.Module):
                return True
            if code.co_filename.startswith(self._package):
                return False
            frame = frame.f_back
        return False


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        """Take the device, where the processor's own accelerator would refuse it."""


def device_trainer(max_steps: int, **settings: Any) -> pl.Trainer:
    """A silent trainer on the device."""
    strategy = SingleDeviceStrategy(device=DEVICE)
    return tiny_trainer(max_steps, **({"accelerator": _Accelerator(), "strategy": strategy} | settings))


def waits_of_fit(
    device: FakeDevice, module: Any, data: Any, *, steps: int = 3, seed: int = 7, **settings: Any
) -> list[Counter[str]]:
    """Fit on the device. Return the waits in each pass of Lightning's loop: loading, hooks, the step, the log."""
    found, advance = [], _TrainingEpochLoop.advance

    def counted(*arguments: Any) -> None:
        with device.counted() as waits:
            advance(*arguments)
        found.append(waits)

    torch.manual_seed(seed)
    trainer = device_trainer(steps, **settings)
    _TrainingEpochLoop.advance = counted
    try:
        trainer.fit(module, data)
    finally:
        _TrainingEpochLoop.advance = advance
    assert trainer.global_step == steps
    assert device.operations
    return found
