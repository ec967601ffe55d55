"""Small modules and batches of several domains, in float64, that the tests here share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_lead import DANNModule, ERMModule, GroupDROModule, IRMGamesModule, IRMv1Module
from lightning_lead.domains import AbstractDomainModule

COUNT, WIDTH = 96, 4


def samples(count: int = COUNT, *, groups: int = 2, target: int | None = None) -> TensorDataset:
    """Points (count, 4) whose groups take turns, 0 1 0 1 …; the labels of the group `target` are hidden."""
    drawn = torch.Generator().manual_seed(3)
    numbers = torch.arange(count) % groups
    inputs = torch.randn(count, WIDTH, generator=drawn, dtype=torch.float64) + numbers[:, None]
    noise = torch.randn(count, generator=drawn, dtype=torch.float64)
    labels = (inputs[:, 0] + noise > numbers).long()
    if target is not None:
        labels[numbers == target] = -1
    return TensorDataset(inputs, labels, numbers)


def loader(
    size: int, *, world_size: int = 1, rank: int = 0, groups: int = 2, target: int | None = None
) -> DataLoader[Any]:
    """Batches in order. Of two ranks the first has three quarters of the first group in a joint batch."""
    data = samples(groups=groups, target=target)
    if world_size == 1:
        return DataLoader(data, size)
    rows = torch.arange(len(data)).view(-1, world_size * size)
    numbers = rows[0] % groups
    of_first, others = rows[:, numbers == 0], rows[:, numbers > 0]
    more = 3 * of_first.shape[1] // 4
    fewer = size - more
    parts = [(of_first[:, :more], others[:, :fewer]), (of_first[:, more:], others[:, fewer:])]
    share = torch.utils.data.Subset(data, torch.cat(parts[rank], dim=1).flatten().tolist())
    return DataLoader(share, size, sampler=DistributedSampler(share, 1, 0, shuffle=False))


def network(outputs: int = 1, *, seed: int = 0, inputs: int = WIDTH) -> nn.Module:
    """A smooth MLP, always with the same weights for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, outputs)).double()


def dann(**settings: Any) -> DANNModule:
    """Features of six numbers."""
    return DANNModule(network(6), network(1, seed=1, inputs=6), network(1, seed=2, inputs=6), **(_rates | settings))


def group_dro(**settings: Any) -> GroupDROModule:
    """Two groups."""
    return GroupDROModule(network(), 2, **({"step": 0.3, "learning_rate": 0.1} | settings))


def irm_games(**settings: Any) -> IRMGamesModule:
    """Two environments."""
    return IRMGamesModule([network(), network(seed=1)], **(_rates | settings))


def irm(**settings: Any) -> IRMv1Module:
    """A penalty that grows after the third step."""
    return IRMv1Module(network(), **(_rates | {"penalty": 20.0, "anneal_steps": 3} | settings))


def erm(**settings: Any) -> ERMModule:
    """The baseline."""
    return ERMModule(network(), **(_rates | {"l2": 0.01} | settings))


_rates = {"learning_rates": 0.1, "optimizer": lambda groups: torch.optim.SGD(groups, momentum=0.5)}

MODULES: dict[str, Callable[..., AbstractDomainModule]] = {
    "DANN": dann,
    "group DRO": group_dro,
    "IRM games": irm_games,
    "IRMv1": irm,
    "ERM": erm,
}


def target_of(name: str) -> int | None:
    """The domain whose labels are hidden."""
    return 1 if name == "DANN" else None


def trainer(steps: int, **settings: Any) -> pl.Trainer:
    """A silent one on the CPU."""
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "limit_val_batches": 0,
    }
    return pl.Trainer(max_steps=steps, **(quiet | settings))


def weights(module: nn.Module) -> Tensor:
    """All parameters."""
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def batches(size: int, *, target: int | None = None) -> Iterator[list[Tensor]]:
    """The batches of `loader(size)`, epoch after epoch."""
    while True:
        yield from loader(size, target=target)
