"""A run that a test kills and resumes: `python victim.py FOLDER STEPS [KILL_AT]`; goes on from the last checkpoint."""

from __future__ import annotations

import os
import random
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import tiny_networks, tiny_trainer

from lightning_lead import GaussiansDataModule, GeneratorEMA, LeadGANModule, LEADStrategy


class KillAt(Callback):
    """The machine goes down in the middle of a game step: the next batch has begun, nothing of it is saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: str, steps: int, kill_at: int) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    model = LeadGANModule(*tiny_networks(batch_norm=True, dtype=torch.float32), game=LEADStrategy(1.0))
    saver = ModelCheckpoint(folder, every_n_train_steps=1, save_last=True)
    callbacks = [saver, GeneratorEMA(halflife_images=100), KillAt(kill_at)]
    trainer = tiny_trainer(steps, callbacks=callbacks, enable_checkpointing=True)
    last = Path(folder) / "last.ckpt"
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(4 if not last.exists() else 1234)
    data = GaussiansDataModule(num_points=256, batch_size=64)
    trainer.fit(model, data, ckpt_path=last if last.exists() else None)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else -1)
