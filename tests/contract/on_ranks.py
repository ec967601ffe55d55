"""Run on every rank as under torchrun: trains every rule for some game steps and writes the weights.

python -m torch.distributed.run --nproc-per-node 2 tests/contract/on_ranks.py OUTPUT
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from negative_controls import stop_reductions
from rules_under_test import rules_under_test
from tiny import tiny_loader, tiny_networks, tiny_trainer

from lightning_lead import GameStrategy, LeadGANModule
from lightning_lead.rules import AbstractGameRule
from lightning_lead.training import _turn_oracles

BATCH = 24


class JointNoise(LeadGANModule):
    """Draws the latents of the joint batch on every rank, and takes this rank's share, as the loader does."""

    world_size, rank, draws = 1, 0, 0

    def sample_latents(self, n: int) -> torch.Tensor:
        self.draws += 1
        generator = torch.Generator().manual_seed(self.draws)
        joint = torch.randn(n * self.world_size, self.latent_dim, generator=generator, dtype=torch.float64)
        return joint[self.rank :: self.world_size]


def fitted(rule: AbstractGameRule, play: Any, *, world_size: int, rank: int) -> LeadGANModule:
    """A smooth GAN after a period and two game steps, by Adam unless the rule takes plain steps."""
    model = JointNoise(
        *tiny_networks(),
        game=GameStrategy(rule, play=play),
        objective="minimax" if rule.needs.zero_sum else "non_saturating",
        generator_lr=0.02,
        discriminator_lr=0.02,
    )
    model.world_size, model.rank = world_size, rank
    trainer = tiny_trainer(rule.period + 2, strategy="ddp" if world_size > 1 else "auto", devices=world_size)
    trainer.fit(model, tiny_loader(BATCH // world_size, world_size=world_size, rank=rank))
    return model


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def main(output: str) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    place = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    found = {
        f"{number} {play}": weights(fitted(rule, play, **place))
        for number, rule in enumerate(rules_under_test())
        for play in rule.plays
    }

    stop_reductions(_turn_oracles)  # the negative control
    first = rules_under_test()[0]
    found["unreduced"] = weights(fitted(first, first.plays[0], **place))
    torch.save({"weights": found}, f"{output}.{place['rank']}")


if __name__ == "__main__":
    main(sys.argv[1])
