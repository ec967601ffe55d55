"""Runs that are killed and resumed: `python kill_victim.py FOLDER KIND COUNT`; prints a line of JSON for each kill.

Each run is a fork of this process, which has imported everything. A run counts its moments (hooks, losses, writes of
its optimizers and to its disk), and is killed at one of them, or at a time of the clock.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

from bitwise import differing
from tiny import tiny_gan, tiny_networks, tiny_points, tiny_trainer

from lightning_lead import (
    AdversarialModule,
    CompactCheckpointIO,
    ConfigurationError,
    GeneratorEMA,
    LeadMixin,
    LEADStrategy,
)
from lightning_lead.checkpoints._whole import refuse_damaged
from lightning_lead.data import ResumableDataLoader
from lightning_lead.objectives import R1, LeCam

STEPS = 7  # of 3 batches an epoch
DISC = {"penalty": [R1(1.0, every=2), LeCam(0.1)], "discriminator_steps": 2}


class Mixed(LeadMixin, LightningModule):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.generator, self.discriminator = tiny_networks(batch_norm=True)

    def players(self) -> Any:
        return {"d": self.discriminator.parameters(), "g": self.generator.parameters()}

    def player_losses(self, batch: Any) -> Any:
        real = batch[0]
        fake = self.generator(torch.randn(len(real), 3, dtype=real.dtype))
        of_fakes = self.discriminator(fake)
        softplus = nn.functional.softplus
        return {"d": (softplus(-self.discriminator(real)) + softplus(of_fakes)).mean(), "g": softplus(-of_fakes).mean()}

    def validation_step(self, batch: Any, index: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        optimizers = [torch.optim.Adam(list(p), 0.01) for p in self.players().values()]
        each = [torch.optim.lr_scheduler.ExponentialLR(o, 0.7) for o in optimizers]
        return optimizers, [{"scheduler": s, "interval": i} for s, i in zip(each, ("epoch", "step"), strict=True)]


class Translator(AdversarialModule):
    def task_losses(self, outputs: Any, inputs: Any, targets: Any) -> Any:
        return {"l1": (outputs - targets).abs().mean()}

    def last_layer(self) -> Any:
        return self.generator[-1].weight


def translator() -> Translator:
    D = tiny_networks()[1]
    torch.manual_seed(3)
    G = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    return Translator(G, D, adaptive_to="l1", start=2, ramp=3, generator_lr=0.01, discriminator_lr=0.01)


KINDS: dict[str, Any] = {
    "plain": lambda: (tiny_gan(batch_norm=True, game="AlternatingGDA", **DISC), {}),
    "exact": lambda: (tiny_gan(batch_norm=True, game=LEADStrategy(1.0), **DISC), {}),
    "difference": lambda: (tiny_gan(game=LEADStrategy(1.0, cross="difference"), accumulate=2), {}),
    "extrapolated": lambda: (tiny_gan(batch_norm=True, game=LEADStrategy(1.0, cross="extrapolated"), **DISC), {}),
    "auto": lambda: (tiny_gan(batch_norm=True, game=LEADStrategy(cross="auto"), clip=0.5), {}),
    "LeadMixin": lambda: (Mixed(game=LEADStrategy(1.0)), {}),
    "AdversarialModule": lambda: (translator(), {}),
    "bf16": lambda: (
        tiny_gan(dtype=torch.float32, game=LEADStrategy(cross="extrapolated")),
        {"precision": "bf16-mixed"},
    ),
    "compact": lambda: (tiny_gan(batch_norm=True, game=LEADStrategy(1.0)), {"plugins": [CompactCheckpointIO()]}),
    "two workers": lambda: (tiny_gan(batch_norm=True, game=LEADStrategy(1.0)), {"workers": 2}),
}


class History(Callback):
    """Scores of validation, as GenerativeMetrics keeps them."""

    def __init__(self) -> None:
        self.scores: list[Any] = []

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        scores = float(sum(p.detach().double().norm() for p in module.parameters()))
        self.scores.append([trainer.global_step, scores])

    def state_dict(self) -> dict[str, Any]:
        return {"scores": list(self.scores)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scores = state["scores"]


class Moments(Callback):
    """Counts the moments of a run, and kills it at one of them."""

    def __init__(self, kill_at: int | None) -> None:
        self.kill_at, self.names = kill_at, list[str]()

    def tick(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, home: Any, name: str) -> None:
        inner = getattr(home, name)

        def both(*args: Any, **settings: Any) -> Any:
            self.tick(f"before {name}")
            result = inner(*args, **settings)
            self.tick(f"after {name}")
            return result

        setattr(home, name, both)

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        for home, name in ((os, "fsync"), (os, "replace"), (GeneratorEMA, "update_if_due"), (torch.Tensor, "addcdiv_")):
            self.around(home, name)
        self.around(module, "on_before_player_step")
        self.around(module, "on_game_step_end")
        whole = Path.write_bytes

        def write(path: Path, content: Any) -> int:
            whole(path, bytes(content)[: len(content) // 2])
            self.tick("half a file written")
            return whole(path, content)

        Path.write_bytes = write  # type: ignore[method-assign]
        for network in module.modules():
            if isinstance(network, nn.Linear):
                network.register_forward_hook(lambda *_: self.tick("in a forward"))
        for kind in {type(config.scheduler) for config in trainer.lr_scheduler_configs}:
            self.around(kind, "step")


for hook in ("train_epoch_start", "train_batch_start", "train_batch_end", "train_epoch_end", "before_optimizer_step"):
    setattr(Moments, f"on_{hook}", lambda self, *_, hook=hook: self.tick(hook))
for hook in ("validation_start", "validation_batch_end", "validation_end", "save_checkpoint"):
    setattr(Moments, f"on_{hook}", lambda self, *_, hook=hook: self.tick(hook))


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole."""
    for file in sorted(folder.glob("*.ckpt"), key=lambda file: file.stat().st_mtime_ns, reverse=True):
        try:
            refuse_damaged(file)
        except ConfigurationError:
            continue
        return file
    return None


def play(folder: Path, kind: str, *, kill_at: int | None = None, seconds: float | None = None) -> None:
    """A run from its beginning, or from its newest checkpoint; leaves its end in `end.pt`."""
    torch.manual_seed(2)
    module, settings = KINDS[kind]()
    moments, history, ema = Moments(kill_at), History(), GeneratorEMA(halflife_images=50)
    saver = ModelCheckpoint(folder, every_n_train_steps=2, save_top_k=-1, save_last=True, filename="{step}")
    dtype = torch.float32 if kind == "bf16" else torch.float64
    points, workers = TensorDataset(tiny_points(48, dtype)), settings.pop("workers", 0)
    callbacks = [moments, history, saver, ema]
    trainer = tiny_trainer(
        STEPS, callbacks=callbacks, enable_checkpointing=True, val_check_interval=2, num_sanity_val_steps=0, **settings
    )
    ckpt = newest(folder)
    torch.manual_seed(1 if ckpt is None else 77)
    if seconds is not None:
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    begin = time.monotonic()
    loader = ResumableDataLoader(points, 16, seed=3, num_workers=workers)
    trainer.fit(module, loader, DataLoader(points, 24), ckpt_path=ckpt)
    end = {
        "weights": module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler._last_lr for config in trainer.lr_scheduler_configs],
        "game": module.game.state_dict(),
        "turns": dict(module._turns_played),
        "average": ema.state_dict(),
        "history": history.scores,
        "steps": trainer.global_step,
    }
    torch.save([end, moments.names, time.monotonic() - begin], folder / "end.pt")


def forked(*arguments: Any, **settings: Any) -> int:
    """Run `play` in a fork; the status of its end."""
    if (child := os.fork()) == 0:
        status = 1
        try:
            play(*arguments, **settings)
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path, kind: str, count: int) -> None:
    (folder / "whole").mkdir(parents=True)
    assert forked(folder / "whole", kind) == 0
    expected, names, seconds = torch.load(folder / "whole" / "end.pt", weights_only=True)
    for number in range(count):
        place = folder / str(number)
        place.mkdir()
        # an odd stride, so that few kills meet every sort of moment
        kill_at = 1 + (number * 2 + 1) * len(names) // (2 * count)
        by_clock = number % 10 == 9
        when = {"seconds": seconds * (number + 0.5) / count} if by_clock else {"kill_at": kill_at}
        status = forked(place, kind, **when)
        resumed = forked(place, kind) if status == -signal.SIGKILL else None
        off = ["no end"]
        if (place / "end.pt").exists():
            end = torch.load(place / "end.pt", weights_only=True)[0]
            # a validation that was due after the batch of the checkpoint is one that Lightning leaves out on a resume
            missing = [score for score in expected["history"] if score not in end["history"]]
            end["history"] = sorted([*end["history"], *missing[:1]])
            off = differing(end, expected)
        moment = "by the clock" if by_clock else names[kill_at - 1]
        print(json.dumps({"moment": moment, "killed": status, "resumed": resumed, "off": off[:5]}), flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
