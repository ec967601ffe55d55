"""Rules whose memory lies on the host between turns, on the device of `fake_device` and on the processor."""

from __future__ import annotations

import copy
import gc
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from device_runs import device_trainer
from fake_device import KIND, FakeDevice, fake_device
from host import Host
from rules_under_test import label, rules_under_test
from tiny import tiny_gan, tiny_points, tiny_trainer
from torch.utils.data import DataLoader

from lightning_lead import ConfigurationError, GameStrategy, LEADStrategy
from lightning_lead._sharding import map_tensors
from lightning_lead.engine import _host_memory
from lightning_lead.engine._host_memory import lend, settled, take_back
from lightning_lead.engine.named_rules import find_game, name_game
from lightning_lead.rules import AbstractGameRule, GradientPlay, OptimisticGradient

RULES = rules_under_test()
DOCS = Path(__file__).parents[2] / "docs" / "speed.md"
STEPS = 4
SIZE = 4  # parameters of each of two players


@pytest.fixture
def pinned(monkeypatch) -> Callable[[FakeDevice], None]:
    """Let copies of the device's tensors go through pinned memory, as those of CUDA's do."""

    def pin(device: FakeDevice) -> None:
        cuda = device.cuda
        monkeypatch.setattr(_host_memory, "_cuda", lambda where: cuda if where.type == KIND else None)

    return pin


class Watch:
    """Counts what is brought to the device and what is copied to the host, and knows what is still there."""

    def __init__(self, monkeypatch: Any) -> None:
        self.copies: Counter[str] = Counter()
        self.at_losses = 0
        """Most bytes of the rule's that lay on the device while losses were evaluated."""
        self._lent: list[Any] = []
        brought, of = _host_memory._Kept.brought, _host_memory._Kept.of

        def watched(kept: Any) -> torch.Tensor:
            tensor = brought(kept)
            self._lent.append(weakref.ref(tensor))
            self.copies["brought"] += 1
            return tensor

        def counted(tensor: torch.Tensor, events: Any) -> Any:
            self.copies["taken back"] += 1
            return of(tensor, events)

        monkeypatch.setattr(_host_memory._Kept, "brought", watched)
        monkeypatch.setattr(_host_memory._Kept, "of", counted)

    def bytes_there(self) -> int:
        """Bytes of what has been brought and is still on the device."""
        there = [tensor for tensor in (each() for each in self._lent) if tensor is not None]
        return sum(tensor.numel() * tensor.element_size() for tensor in there)

    def saddle(self, values: Any) -> Any:
        """Smooth, curved, and zero-sum."""
        self.at_losses = max(self.at_losses, self.bytes_there())
        x, y = values["x"], values["y"]
        loss = x @ y + 0.1 * x.sin().square().sum() - 0.2 * y.square().sum()
        return {"x": loss, "y": -loss}


def played(rule: AbstractGameRule, watch: Watch, kind: str, *, offload: bool) -> Host:
    draw = torch.Generator().manual_seed(5)
    start = {name: torch.randn(SIZE, generator=draw) for name in "xy"}
    host = Host(copy.deepcopy(rule), watch.saddle, {k: v.to(kind) for k, v in start.items()}, lr=0.05)
    host.game = GameStrategy(host.game.rule, skip_limit=None, offload=offload)
    host.game.start({name: tuple(params) for name, params in host.live.items()})
    return host


def kept_bytes(state: Any) -> dict[str, int]:
    """Device -> bytes of the tensors in a state."""
    found: Counter[str] = Counter()
    seen = set()

    def add(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in seen:
            found[tensor.device.type] += tensor.numel() * tensor.element_size()
            seen.add(id(tensor))
        return tensor

    map_tensors(add, state)
    return dict(found)


@pytest.mark.parametrize("rule", RULES, ids=label)
def test_a_rule_that_is_offloaded_plays_the_same_bits_and_leaves_nothing_on_the_device(rule, pinned, monkeypatch):
    """Through pinned memory it waits for no copy, elsewhere for each."""
    ends, waits = [], []
    for offload, through_pinned in ((False, False), (True, True), (True, False)):
        with monkeypatch.context() as patch, fake_device() as device:
            watch = Watch(patch)
            if through_pinned:
                pinned(device)
            else:
                patch.setattr(_host_memory, "_cuda", lambda where: None)
            host = played(rule, watch, KIND, offload=offload)
            own = watch.copies.total()
            with device.counted() as found:
                for _ in range(STEPS):
                    host.step()
                    gc.collect()
                    assert watch.bytes_there() == 0
            waits.append(found.total() - (watch.copies.total() - own if offload and not through_pinned else 0))
            assert offload or not watch.copies
            lies = kept_bytes(host.game._memory)
            assert (lies.keys() <= {KIND}) if not offload else not lies
            assert kept_bytes(host.game.state).keys() <= {"cpu" if offload else KIND}
            ends.append({name: value.cpu() for name, value in host.values().items()})
    for end in ends[1:]:
        assert all(torch.equal(end[name], ends[0][name]) for name in end)
    assert waits[1] == waits[2] == waits[0]
