"""Run on every rank as under torchrun: trains against each attack, measures accuracies, and writes what came out.

python -m torch.distributed.run --nproc-per-node 2 tests/robust/robust_ranks.py OUTPUT
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import robust_kit as kit
from negative_controls import stop_reductions
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_lead import RobustAccuracy, RobustModule
from lightning_lead.engine.named_rules import find_game
from lightning_lead.training import _turn_oracles

GAMES = {
    "plain": None,
    "exact": "LEAD(coupling=0.7)",
    "extrapolated": "LEAD(coupling=0.7, cross='extrapolated')",
    "accumulated": None,
}
CONFIGURATIONS = [(kind, game) for kind in kit.ATTACKS for game in ("plain", "exact")]
CONFIGURATIONS += [(kind, "extrapolated") for kind in ("pgd l2", "free", "universal")]
CONFIGURATIONS += [(kind, "accumulated") for kind in ("pgd", "universal")]


def share(world_size: int, rank: int, count: int = 40, batch: int = 8) -> DataLoader[Any]:
    """The images in order; rank r of w sees every w-th one."""
    data = TensorDataset(*kit.data(count))
    sampler = DistributedSampler(data, num_replicas=world_size, rank=rank, shuffle=False)
    return DataLoader(data, batch // world_size, sampler=sampler)


def built(kind: str, game: str, *, world_size: int, rank: int) -> RobustModule:
    """A module whose random numbers are those of the joint batch."""
    attack = kit.ATTACKS[kind]()
    if attack.renewed:
        attack._start = lambda images, start: attack.epsilon * torch.sin(50 * images)  # of each image alone
    if kind == "patch":

        def places(count: int, rows: int, columns: int, device: Any) -> Any:
            draw = torch.Generator().manual_seed(7)
            joint = (torch.randint(most, (count * world_size,), generator=draw) for most in (rows, columns))
            return tuple(each[rank::world_size] for each in joint)

        attack.places = places
    if kind == "network":
        attack.generator[1] = torch.nn.Identity()  # whose statistics are each rank's own
    text = GAMES[game]
    if text is not None and kind == "free":
        text = text[:-1] + ", play='simultaneous')"
    return kit.module(
        attack,
        net=kit.network(batch_norm=False),
        game=None if text is None else find_game(text),
        accumulate=2 if game == "accumulated" else 1,
    )


def train(kind: str, game: str, *, world_size: int, rank: int) -> torch.Tensor:
    made = built(kind, game, world_size=world_size, rank=rank)
    kit.fit(
        made,
        feed=share(world_size, rank),
        strategy="ddp" if world_size > 1 else "auto",
        devices=world_size,
    )
    parts = [made.network] if made.attack.renewed else [made.network, made.attack]
    return torch.cat([p.detach().reshape(-1) for part in parts for p in part.parameters()])


def measure(folder: Path, *, world_size: int, rank: int) -> dict[str, Any]:
    """Accuracies in a fit and under validate; blocks of 6 images, so that ranks have unequal shares."""
    attacks = ["pgd-3", "square-20", "apgd-ce-5"]
    callback = RobustAccuracy(attacks, epsilon=kit.EPSILON, every_n_steps=2, batch_size=6, data=kit.data(40))
    settings = {"strategy": "ddp" if world_size > 1 else "auto", "devices": world_size, "default_root_dir": folder}
    made = built("pgd", "plain", world_size=world_size, rank=rank)
    trainer = kit.fit(made, steps=4, feed=share(world_size, rank), callbacks=[callback], **settings)
    (returned,) = trainer.validate(made, share(world_size, rank), verbose=False)
    found = [
        {"step": record["step"], "values": record["values"], "protocol": record["protocol"]["num_samples"]}
        for record in callback.history
    ]
    return {"history": found, "returned": returned}


def main(output: str) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    place = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    result: dict[str, Any] = {"weights": {each: train(*each, **place) for each in CONFIGURATIONS}}
    result["accuracy"] = measure(Path(f"{output}.folder"), **place)

    stop_reductions(_turn_oracles)  # the negative control
    result["unreduced"] = train("pgd", "plain", **place)
    torch.save(result, f"{output}.{place['rank']}")


if __name__ == "__main__":
    main(sys.argv[1])
