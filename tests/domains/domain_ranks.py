"""Run on every rank as under torchrun: trains each module, scores by domains, and writes what this rank found.

python -m torch.distributed.run --nproc-per-node 2 tests/domains/domain_ranks.py OUTPUT
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
import domain_kit as kit
from negative_controls import stop_reductions

from lightning_lead import DomainAccuracy, MoonsDataModule
from lightning_lead.domains import irm
from lightning_lead.networks import MLP
from lightning_lead.training import _turn_oracles

STEPS, BATCH = 6, 24


class Wide(MoonsDataModule):
    """Moons in float64, as the modules are."""

    def load(self) -> Any:
        return [samples._replace(inputs=samples.inputs.double()) for samples in super().load()]


def trained(name: str, world_size: int, rank: int) -> torch.Tensor:
    """The weights after a few game steps, of which some begin a new epoch."""
    module = kit.MODULES[name](game="GradientDescent" if name in ("ERM", "IRMv1") else "AlternatingGDA")
    loader = kit.loader(BATCH // world_size, world_size=world_size, rank=rank, target=kit.target_of(name))
    strategy = "ddp" if world_size > 1 else "auto"
    kit.trainer(STEPS, strategy=strategy, devices=world_size).fit(module, loader)
    return kit.weights(module)


def exact(world_size: int, rank: int) -> torch.Tensor:
    """The same of DANN with the exact cross term."""
    module = kit.dann(game="LEAD(coupling=1.0)")
    loader = kit.loader(BATCH // world_size, world_size=world_size, rank=rank, target=1)
    kit.trainer(STEPS, strategy="ddp" if world_size > 1 else "auto", devices=world_size).fit(module, loader)
    return kit.weights(module)


def scored(world_size: int) -> list[dict[str, Any]]:
    """Records of a fit by a data module, with its own loaders."""
    torch.manual_seed(0)
    networks = MLP(2, width=8), MLP(8, 1, depth=0), MLP(8, 1, width=8)
    module = kit.DANNModule(*networks, game="AlternatingGDA", learning_rates=0.1)
    accuracy = DomainAccuracy(every_n_steps=2)
    data = Wide(batch_size=40 // world_size, num_points=101)  # scored points that ranks cannot halve
    strategy = "ddp" if world_size > 1 else "auto"
    kit.trainer(4, strategy=strategy, devices=world_size, callbacks=[accuracy]).fit(module.double(), datamodule=data)
    return accuracy.history


def main(output: str) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    result: dict[str, Any] = {name: trained(name, world_size, rank) for name in kit.MODULES}
    result["exact"] = exact(world_size, rank)
    result["scored"] = scored(world_size)

    stop_reductions(irm)  # the first control: a penalty of each rank's own
    result["own penalty"] = trained("IRMv1", world_size, rank)
    stop_reductions(_turn_oracles)  # the second: each rank its own weights
    result["unreduced"] = trained("ERM", world_size, rank)
    torch.save(result, f"{output}.{rank}")


if __name__ == "__main__":
    main(sys.argv[1])
