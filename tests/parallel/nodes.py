"""Run by torchrun on every rank of two nodes: the same game, scores, segments and recipe as on one machine.

torchrun --nnodes 2 --node-rank R --master-addr 127.0.0.1 --master-port P tests/parallel/nodes.py FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback

sys.path.insert(0, str(Path(__file__).parents[1] / "callbacks"))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import callback_kit as kit
import ranks
from tiny import tiny_gan, tiny_trainer

from lightning_lead import GaussiansDataModule, GeneratorEMA, SegmentCheckpoint, Throughput
from lightning_lead.callbacks import GenerativeMetrics
from lightning_lead.cli import main as command_line

NODES, STEPS = 2, 5
RECIPE = Path(__file__).parents[2] / "examples" / "recipes" / "digits.yaml"


def score(folder: Path, *, nodes: int = 1) -> dict[str, float]:
    """FID and KID of frozen weights."""
    metrics = GenerativeMetrics(kit.TinyExtractor(), **kit.SMALL, reference=kit.images())
    many = {"strategy": "ddp", "num_nodes": nodes} if nodes > 1 else {}
    kit.trainer(folder, callbacks=[metrics], **many).validate(kit.gan(), kit.loader(12), verbose=False)
    values: dict[str, float] = metrics.history[0]["values"]
    return values


class Interrupt(Callback):
    """One node is told to stop, in the middle of its fourth game step; the other knows of nothing."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3 and trainer.global_rank == NODES - 1:
            os.kill(os.getpid(), signal.SIGUSR1)


def segments(folder: Path) -> dict[str, Any]:
    """A whole run, and one in two segments; images over all ranks."""
    ends, steps = {}, []
    for name, callbacks, seed in (("whole", [], 1), ("parts", [Interrupt()], 1), ("parts", [], 2)):
        model, speed = tiny_gan(batch_norm=True, dtype=torch.float32), Throughput(every_n_steps=2)
        saver = SegmentCheckpoint(str(folder / name), check_every_n_steps=2, every_minutes=None)
        callbacks = [*callbacks, saver, GeneratorEMA(halflife_images=100), speed]
        trainer = tiny_trainer(
            7, strategy="ddp", num_nodes=NODES, callbacks=callbacks, enable_checkpointing=True, log_every_n_steps=2
        )
        torch.manual_seed(seed)
        trainer.fit(model, GaussiansDataModule(num_points=192, batch_size=24), ckpt_path="last")
        steps.append(trainer.global_step)
        ends[name] = ranks.weights(model)
    images = round(speed.latest["images_per_second"] / speed.latest["game_steps_per_second"])
    return {**ends, "steps": steps, "images": images}


def recipe() -> dict[str, Any]:
    """The digits recipe, by the command."""
    built = command_line(
        [
            *("fit", f"--config={RECIPE}", "--trainer.max_steps=2", "--trainer.strategy=ddp"),
            *(f"--trainer.num_nodes={NODES}", "--trainer.devices=1", "--data.batch_size=32"),
            *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
        ]
    )
    weights = torch.cat([p.detach().flatten() for p in built.model.parameters()])
    return {"recipe": weights, "world_size": built.trainer.world_size, "recipe_steps": built.trainer.global_step}


def main(folder: Path) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    model = ranks.train(world_size=world_size, rank=rank, nodes=NODES, steps=STEPS, discriminator_steps=3)
    result: dict[str, Any] = {"weights": ranks.weights(model), "group_rank": int(os.environ["GROUP_RANK"])}
    result |= {"scores": score(folder, nodes=NODES)} | segments(folder) | recipe()
    torch.save(result, folder / f"{rank}.pt")


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    main(Path(sys.argv[1]))
