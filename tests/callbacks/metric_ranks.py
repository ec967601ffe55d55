"""Run on every rank as under torchrun: trains a little under DDP with all callbacks, and writes what this rank found.

python -m torch.distributed.run --nproc-per-node 2 tests/callbacks/metric_ranks.py FOLDER [--only-validate]
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import callback_kit as kit
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, DistributedSampler

from lightning_lead.callbacks import GenerativeMetrics, GeneratorEMA, SampleGrid
from lightning_lead.metrics import _neighbours


def validate(folder: Path, *, world_size: int) -> dict[str, Any]:
    """Score frozen weights twice, the second time with the statistics of the first; ranks must not matter.

    Of three chunks a fourth rank gets none, and there are several tiles for everybody.
    """
    _neighbours.ROWS, _neighbours.COLUMNS = 8, 16
    every = {"metrics": ["fid", "kid", "prdc", "memorization", "mind"], "is_splits": 5, "batch_size": 20}
    found: dict[str, Any] = {}
    for name in ("frozen", "cached"):
        extractor = kit.TinyExtractor()
        settings = kit.SMALL | every | {"reference": kit.images(), "cache": folder / "statistics"}
        scores = GenerativeMetrics(extractor, **settings)
        validator = kit.trainer(
            folder, callbacks=[scores], strategy="ddp" if world_size > 1 else "auto", devices=world_size
        )
        (returned,) = validator.validate(kit.gan(), kit.loader(12), verbose=False)
        found[name] = scores.history[0]
        found[f"{name} forwards"] = extractor.forwards
        found["returned"] = {key: float(value) for key, value in returned.items()}
    return found


def train(folder: Path, *, rank: int, world_size: int) -> dict[str, Any]:
    """Fit, then validate frozen weights, whose scores must not depend on the number of ranks."""
    data = torch.utils.data.TensorDataset(kit.images())
    sampler = DistributedSampler(data, world_size, rank, shuffle=False)
    size = 12 // world_size
    metrics = GenerativeMetrics(kit.TinyExtractor(), **kit.SMALL, every_n_steps=2)
    ema, grid = GeneratorEMA(halflife_images=100), SampleGrid(every_n_steps=2, num_samples=4)
    save = ModelCheckpoint(folder / "saved", "{step}", monitor="fid", every_n_train_steps=2)
    trainer = kit.trainer(
        folder,
        4,
        callbacks=[metrics, grid, ema, save],
        strategy="ddp" if world_size > 1 else "auto",
        devices=world_size,
        enable_checkpointing=True,
    )
    torch.manual_seed(1)
    trainer.fit(kit.gan(), DataLoader(data, size, sampler=sampler))

    uneven = GeneratorEMA(halflife_images=100)
    few = kit.images(14)[: 8 if rank == 0 else 6] if world_size > 1 else kit.images(14)
    runner = kit.trainer(
        folder, 1, callbacks=[uneven], strategy="ddp" if world_size > 1 else "auto", devices=world_size
    )
    runner.fit(kit.gan(), DataLoader(torch.utils.data.TensorDataset(few), len(few)))
    return {
        "fit": metrics.history,
        "seen": [ema.state_dict()["seen"], uneven.state_dict()["seen"]],
        "average": ema.state_dict()["average"],
        "best": [save.best_model_path, float(save.best_model_score)],
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png")),
    }


def main(folder: Path, *, only_validate: bool) -> None:
    warnings.filterwarnings("ignore", "The '.*' does not have many workers")
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    result = {} if only_validate else train(folder / "run", rank=rank, world_size=world_size)
    result |= validate(folder / "frozen", world_size=world_size)
    torch.save(result, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), only_validate="--only-validate" in sys.argv)
