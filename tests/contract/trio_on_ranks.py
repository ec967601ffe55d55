"""Three players, one of them a perturbation of each sample that its rank alone has; run on every rank as well.

python -m torch.distributed.run --nproc-per-node 2 tests/contract/trio_on_ranks.py OUTPUT
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from negative_controls import stop_rank_watch
from tiny import tiny_loader, tiny_networks, tiny_trainer

from lightning_lead import ConfigurationError, LeadModule
from lightning_lead.constraints import AbstractConstraint, LInfBall

BATCH = 24
GAMES = ("LEAD(cross='exact')", "LEAD(cross='extrapolated')", "LEAD(cross='exact', play='simultaneous')", "ExtraAdam")


class Trio(LeadModule):
    """Two networks whose mean predicts, each of its own half of the plane, and a perturbation against both."""

    def __init__(self, **settings: Any) -> None:
        rates = {"first": 0.05, "second": 0.05, "delta": 10.0}
        super().__init__(**({"learning_rates": rates, "optimizer": torch.optim.SGD} | settings))
        self.first, self.second = (tiny_networks()[1] for _ in range(2))
        with torch.no_grad():
            for parameter in self.second.parameters():
                parameter.mul_(-0.5)
        self.delta = nn.Parameter(torch.zeros(0, 2, dtype=torch.float64))

    def players(self) -> dict[str, Any]:
        return {"first": self.first.parameters(), "delta": [self.delta], "second": self.second.parameters()}

    def local_players(self) -> frozenset[str]:
        return frozenset({"delta"})

    def constraints(self) -> dict[str, AbstractConstraint]:
        return {"delta": LInfBall(0.1)}

    def on_game_step_start(self, batch: Any) -> None:
        self.delta.data = 0.001 * batch[0].sin()  # a start that does not depend on the rank
        self.forget_player("delta")

    def player_loss(self, name: str, batch: Any) -> torch.Tensor:
        (points,) = batch
        mean = (self.first(points + self.delta) + self.second(points + self.delta)).squeeze(1) / 2
        label = points.prod(1).sign()
        weight = {"first": points[:, 0].sigmoid(), "second": points[:, 0].neg().sigmoid()}.get(name, -torch.ones(1))
        return (weight * nn.functional.softplus(-label * mean)).mean()


def fitted(game: str, *, world_size: int, rank: int, steps: int = 3, **settings: Any) -> Trio:
    """The module after some game steps."""
    trio = Trio(game=game, **settings)
    trainer = tiny_trainer(steps, strategy="ddp" if world_size > 1 else "auto", devices=world_size)
    trainer.fit(trio, tiny_loader(BATCH // world_size, world_size=world_size, rank=rank))
    return trio


def saved_between_turns(path: Any, *, world_size: int, rank: int) -> bool:
    """Save before the last turn of a game step, and tell if the checkpoint is one that no fit goes on from."""
    trio = Trio(game=GAMES[0])
    trainer = tiny_trainer(1, strategy="ddp" if world_size > 1 else "auto", devices=world_size)
    save = lambda player: trainer.save_checkpoint(path) if player == "second" else None  # noqa: E731
    trio.on_before_player_step = save  # type: ignore[method-assign]
    trainer.fit(trio, tiny_loader(BATCH // world_size, world_size=world_size, rank=rank))
    return bool(torch.load(path, weights_only=True)["lightning_lead"].get("torn", False))


def networks(trio: Trio) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for net in (trio.first, trio.second) for p in net.parameters()])


def main(output: str) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    place = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    found = {}
    for game in GAMES:
        trio = fitted(game, **place)
        found[game] = {"networks": networks(trio), "delta": trio.delta.detach()}

    found["torn"] = {"torn": torch.tensor(saved_between_turns(f"{output}.ckpt", **place))}

    stop_rank_watch()  # which sees that weights differ
    own = Trio.local_players
    Trio.local_players = lambda self: frozenset()  # the negative control: perturbations are averaged
    found["averaged"] = {"networks": networks(fitted(GAMES[0], **place))}
    torch.save(found, f"{output}.{place['rank']}")

    Trio.local_players = own
    for refused in ({"clip": 1.0}, {"game": "LEAD(cross='auto')"}):
        with pytest.raises(ConfigurationError, match="on several ranks because it weighs whole directions"):
            fitted(**({"game": GAMES[0]} | refused), **place)


if __name__ == "__main__":
    main(sys.argv[1])
