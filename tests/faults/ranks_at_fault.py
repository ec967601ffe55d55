"""Run on every rank as under torchrun: a short fit in which one rank is at fault, or all of them are (-1).

FAULT KIND POINT WHO SHARES FOLDER; the joint batch has so many shares, and each rank as many of them as any other. The
ranks' weights after the fit go into the folder.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from pytorch_lightning import Callback
from tiny import tiny_networks, tiny_points, tiny_trainer
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from lightning_lead import LeadGANModule, LEADStrategy
from lightning_lead.rules import GradientPlay

GAMES: dict[str, Any] = {
    "plain": lambda: GradientPlay(),
    "exact": lambda: LEADStrategy(1.0),
    "either form": lambda: LEADStrategy(1.0, cross="auto"),
    "extrapolated": lambda: LEADStrategy(1.0, cross="extrapolated"),
}
POINTS = ("fit start", "first step", "mid-run", "between turns", "validation", "checkpoint")
STEPS, BATCH = 8, 8  # two epochs of four
SLOW = 12  # seconds: longer than a rank looks before it takes a collective for one that waits in vain


def end(fault: str) -> None:
    """End this process, or its fit, in one of the ways in which that happens."""
    if fault == "error":
        raise ValueError("a fault was put here")
    if fault == "caught":
        raise ArithmeticError("a fault was put here")
    if fault == "sys.exit":
        sys.exit("a fault was put here")
    if fault == "os._exit":
        os._exit(3)
    if fault == "interrupt":
        raise KeyboardInterrupt
    os.kill(os.getpid(), {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM}[fault])


class Faults(Callback):
    """Has its fault on one rank, at one point of the fit."""

    def __init__(self, fault: str, point: str, who: int) -> None:
        self.fault, self.point, self.who = fault, point, who

    def here(self, trainer: Any, point: str) -> None:
        if point == self.point and self.at_fault(trainer):
            if self.fault in ENDS:
                end(self.fault)
            elif self.fault == "slow":
                time.sleep(SLOW)

    def at_fault(self, trainer: Any) -> bool:
        return self.who in (-1, trainer.global_rank)

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        self.here(trainer, "fit start")
        if self.at_fault(trainer) and self.point == "fit start":
            self.change(trainer, module)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step == 0:
            self.here(trainer, "first step")
        if step == 5:
            self.here(trainer, "mid-run")
        if self.at_fault(trainer) and step == {"first step": 0, "mid-run": 5}.get(self.point, -1):
            self.change(trainer, module)

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        if self.fault == "stop" and trainer.global_rank == self.who and trainer.global_step == 6:
            trainer.should_stop = True
        if self.fault == "checkpoint alone" and trainer.global_rank == self.who and trainer.global_step == 6:
            trainer.save_checkpoint(Path(trainer.default_root_dir, "alone.ckpt"))

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        if trainer.global_step == 4:
            self.here(trainer, "validation")

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: Any) -> None:
        self.here(trainer, "checkpoint")

    def change(self, trainer: Any, module: Any) -> None:
        if self.fault == "frozen layer":
            module.discriminator[0].requires_grad_(False)
        elif self.fault == "frozen player":
            module.generator.requires_grad_(False)
        elif self.fault == "other rule":
            module.game = LEADStrategy(2.0)
            module.game.start({name: tuple(each) for name, each in module._live().items()})
        elif self.fault == "other steps":
            module.discriminator_steps = 2
        elif self.fault == "other accumulation":
            module.accumulate = 2
        elif self.fault == "other rate":
            trainer.optimizers[0].param_groups[0]["lr"] *= 3
        elif self.fault == "other weights":
            with torch.no_grad():
                module.generator[0].weight.mul_(1.5)


ENDS = ("error", "caught", "sys.exit", "os._exit", "interrupt", "SIGKILL", "SIGTERM")


class Game(LeadGANModule):
    """Draws the latents of the joint batch; may be at fault between two turns, or in a loss."""

    faults: Faults
    rank, world_size, draws = 0, 1, 0

    def sample_latents(self, n: int) -> torch.Tensor:
        self.draws += 1
        generator = torch.Generator().manual_seed(self.draws)
        joint = torch.randn(n * self.world_size, self.latent_dim, generator=generator, dtype=torch.float64)
        return joint[self.rank :: self.world_size]

    def generator_loss(self, fake_logits: torch.Tensor) -> torch.Tensor:
        if self.trainer.global_step == 5:
            self.faults.here(self.trainer, "between turns")
        nan = self.faults.fault == "nan" and self.trainer.global_step == 3 and self.faults.at_fault(self.trainer)
        return super().generator_loss(fake_logits) * (float("nan") if nan else 1.0)


class OnceDifferentiable(torch.autograd.Function):
    """2x, whose derivative has none."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return 2 * grad


class Once(torch.nn.Module):
    """Looks alike on every rank, but has no second derivative on some."""

    def __init__(self, *, twice: bool) -> None:
        super().__init__()
        self.twice = twice

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(2 * x if self.twice else OnceDifferentiable.apply(x))


class Stream(IterableDataset):
    """Points without a length; ends earlier on the rank at fault."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Any:
        return iter(tiny_points(self.count))


class Broken(TensorDataset):
    """Cannot be read any more from some sample on."""

    def __getitem__(self, index: int) -> Any:
        raise OSError("a fault was put here")


def loader(fault: str, rank: int, world_size: int, shares: int, *, at_fault: bool) -> DataLoader[Any]:
    if fault in ("data", "fewer batches"):
        count = 2 if at_fault else 4
        if fault == "data":
            return DataLoader(Stream(BATCH * count), BATCH)
        data = TensorDataset(tiny_points(BATCH * count))
        return DataLoader(data, BATCH, sampler=DistributedSampler(data, num_replicas=1, rank=0, shuffle=False))
    kind = Broken if fault == "loader" and at_fault else TensorDataset
    data = kind(tiny_points(BATCH * shares * 4))
    sampler = DistributedSampler(data, num_replicas=world_size, rank=rank, shuffle=False)
    return DataLoader(data, BATCH * shares // world_size, sampler=sampler)


def main(fault: str, kind: str, point: str, who: int, shares: int, folder: str) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    at_fault = who in (-1, rank)
    networks = tiny_networks()
    if at_fault and fault == "other shape":
        networks[1][0], networks[1][2] = torch.nn.Linear(2, 7).double(), torch.nn.Linear(7, 1).double()
    if at_fault and fault == "other dtype":
        networks[1].float()
    if at_fault and fault == "other name":
        networks[0].add_module("renamed", networks[0][2])
        del networks[0]._modules["2"]
    if at_fault and fault == "other layer":
        networks[1][1] = torch.nn.Softplus()
    if fault == "other derivative":
        networks[1][1] = Once(twice=not at_fault)
    if at_fault and fault == "other seed":
        torch.nn.init.normal_(networks[0][0].weight)
    optimizer = torch.optim.SGD if at_fault and fault == "other optimizer" else torch.optim.Adam
    clip = 0.1 if at_fault and fault == "other clip" else None
    game = Game(*networks, game=GAMES[kind](), optimizer=optimizer, generator_lr=0.02, discriminator_lr=0.02, clip=clip)
    game.faults = faults = Faults(fault, point, who)
    game.rank, game.world_size = rank, world_size

    class Save(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 5:
                trainer.save_checkpoint(Path(folder, "a.ckpt"))

    many: dict[str, Any] = {"strategy": "ddp", "devices": world_size} if world_size > 1 else {}
    trainer = tiny_trainer(STEPS, callbacks=[faults, Save()], num_sanity_val_steps=0, default_root_dir=folder, **many)
    data = loader(fault, rank, world_size, shares, at_fault=at_fault)
    try:
        trainer.fit(game, data, DataLoader(tiny_points(8), 8))
    except ArithmeticError:
        time.sleep(45)  # the fit has ended, and the process lives on
        raise
    weights = torch.cat([p.detach().flatten().double() for p in game.parameters()])
    torch.save({"weights": weights, "skipped": game.game.skipped}, Path(folder, f"{rank}.pt"))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
