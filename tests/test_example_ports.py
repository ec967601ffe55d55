"""Ports of public training loops: plain play is the loop that they came from, and rules of one gradient train them."""

from __future__ import annotations

import functools
import importlib.util
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny import tiny_trainer
from torch.utils.data import DataLoader, TensorDataset

from lightning_lead import ConfigurationError

PORTS = Path(__file__).parents[1] / "examples" / "ports"
FILES = sorted(PORTS.glob("*.py"))
STEPS, BATCH = 8, 6


@functools.cache
def load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def port(request: pytest.FixtureRequest) -> ModuleType:
    return load(request.param)


def build(port: ModuleType, game: Any) -> Any:
    """The port's module, in float64; if its adversarial part begins late, in the middle of these steps."""
    own = [v for v in vars(port).values() if isinstance(v, type) and v.__module__ == port.__name__]
    (kind,) = (v for v in own if hasattr(v, "players"))
    torch.manual_seed(0)
    module = kind(game).double()
    if port.__name__ == "vqgan":
        module.start = STEPS // 2
    return module


def data(port: ModuleType) -> DataLoader[Any]:
    count = STEPS * BATCH
    if hasattr(port, "sounds"):
        return DataLoader(TensorDataset(port.sounds(count).double()), BATCH)
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(2)).double() * 2 - 1
    labels = [torch.arange(count) % 10] if hasattr(port, "CLASSES") else []
    return DataLoader(TensorDataset(images, *labels), BATCH)


def train(port: ModuleType, module: Any) -> Any:
    random.seed(5)
    trainer = tiny_trainer(STEPS, log_every_n_steps=1)
    trainer.fit(module, data(port))
    return trainer


@functools.cache
def plain(port: ModuleType) -> Any:
    """The port's module, trained by plain play."""
    module = build(port, "GradientPlay")
    train(port, module)
    return module


def furthest_from_plain(port: ModuleType, module: Any) -> float:
    pairs = zip(plain(port).parameters(), module.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def test_there_are_some() -> None:
    assert len(FILES) >= 6


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_port_is_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 150


def test_plain_play_is_the_loop_that_was_there_before(port: ModuleType) -> None:
    module, loop = plain(port), build(port, "GradientPlay")
    random.seed(5)
    port.plain_loop(loop, list(data(port)))
    start = build(port, "GradientPlay").state_dict()
    for name, value in loop.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=0, atol=1e-12, msg=name)
    moved = [name for name, value in loop.state_dict().items() if not torch.equal(value, start[name])]
    assert len(moved) > len(start) // 2


@pytest.mark.parametrize("game", ["LEAD(cross='extrapolated')", "OptimisticAdam"])
def test_it_trains_by_one_gradient_per_player(port: ModuleType, game: str) -> None:
    module = build(port, game)
    assert train(port, module).global_step == STEPS
    assert 1e-6 < furthest_from_plain(port, module) < 1


def test_a_pool_is_named_under_a_rule_that_evaluates_a_batch_again() -> None:
    with pytest.raises(ConfigurationError, match=r"cross='extrapolated'.*got: pool"):
        train(port := load(PORTS / "pix2pix.py"), build(port, "LEAD"))


@pytest.mark.parametrize("name", ["vocoder", "biggan"])
def test_losses_that_keep_nothing_are_played_by_the_exact_form_too(name: str) -> None:
    port = load(PORTS / f"{name}.py")
    module = build(port, "LEAD(coupling=1.0)")
    assert train(port, module).global_step == STEPS
    assert 1e-6 < furthest_from_plain(port, module) < 1
