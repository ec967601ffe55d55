"""Run on every rank as under torchrun: trains each configuration for some game steps and writes what came out.

python -m torch.distributed.run --nproc-per-node 2 tests/parallel/ranks.py OUTPUT
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.utils.checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))
from negative_controls import stop_reductions
from pairs import pairwise
from pytorch_lightning.plugins import MixedPrecision
from tiny import tiny_gan, tiny_loader, tiny_networks, tiny_points, tiny_trainer
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_lead import GaussiansDataModule, LeadGANModule, LEADStrategy
from lightning_lead.engine._loss_scale import LossScale
from lightning_lead.engine.named_rules import find_game
from lightning_lead.objectives import R1
from lightning_lead.training import _turn_oracles

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"
STEPS, BATCH = 5, 24  # an epoch has four
AHEAD: dict[str, Any] = {"coupling": "auto", "cross": "extrapolated"}  # one gradient, and the optimizer's momentum
UNEVEN = {2: [9, 3], 4: [6, 1, 2, 3]}
CONFIGURATIONS = {
    f"{name} n={n} accumulate={k}": {"optimizer": name, "discriminator_steps": n, "accumulate": k}
    for name, n, k in pairwise(["adam", "sgd"], [1, 3], [1, 2])
} | {
    "own form": {"game": {"form": "own"}},
    "difference n=3": {"game": {"cross": "difference"}, "discriminator_steps": 3},
    "simultaneous": {"game": {"play": "simultaneous"}},
    "clip": {"clip": 0.05},
    "larger generator batch": {"generator_batch_factor": 2},
    "R1": {"penalty": R1(weight=3.0), "accumulate": 2},
    "extrapolated n=3 accumulate=2": {"game": AHEAD, "discriminator_steps": 3, "accumulate": 2},
    "extrapolated simultaneous": {"game": AHEAD | {"play": "simultaneous"}, "optimizer": "sgd"},
    "extrapolated through reentrant checkpoints": {"game": AHEAD, "discriminator_steps": 2, "checkpointed": True},
}


class JointNoise(LeadGANModule):
    """Draws the latents of the joint batch on every rank, and takes this rank's share, as the loader does."""

    world_size = 1
    rank = 0
    draws = 0

    def sample_latents(self, n: int) -> torch.Tensor:
        self.draws += 1
        generator = torch.Generator().manual_seed(self.draws)
        joint = torch.randn(n * self.world_size, self.latent_dim, generator=generator, dtype=torch.float64)
        return joint[self.rank :: self.world_size].to(next(self.generator.parameters()).dtype)


class Checkpointed(torch.nn.Sequential):
    """Forgets its activations in the way that only `backward()` gets through."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=True)


def networks_of(*, checkpointed: bool) -> tuple[torch.nn.Module, torch.nn.Module]:
    networks = tiny_networks()
    for seed, network in enumerate(networks if checkpointed else ()):
        torch.manual_seed(seed)
        network.insert(2, Checkpointed(torch.nn.Linear(6, 6), torch.nn.Tanh()).double())
    return networks


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.3),
    "adam": lambda groups: torch.optim.Adam(groups, betas=(0.5, 0.9)),
}


def train(
    *,
    world_size: int,
    rank: int,
    optimizer: str = "adam",
    game: Any = None,
    generator_batch_factor: int = 0,
    nodes: int = 1,
    steps: int = STEPS,
    checkpointed: bool = False,
    **settings: Any,
) -> LeadGANModule:
    share = BATCH // world_size
    model = JointNoise(
        *networks_of(checkpointed=checkpointed),
        game=LEADStrategy(**({"coupling": 1.0} | (game or {}))),
        optimizer=OPTIMIZERS[optimizer],
        generator_batch_size=generator_batch_factor * share or None,
        generator_lr=0.02,
        discriminator_lr=0.02,
        **settings,
    )
    model.world_size, model.rank = world_size, rank
    strategy = "ddp" if world_size > 1 else "auto"
    trainer = tiny_trainer(steps, strategy=strategy, devices=world_size // nodes, num_nodes=nodes)
    trainer.fit(model, tiny_loader(share, world_size=world_size, rank=rank))
    assert trainer.global_step == steps
    return model


def weights(model: LeadGANModule) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


class CountBytes:
    """Counts what all_reduce carries, by size of the tensor."""

    def __init__(self) -> None:
        self.bytes, self.calls = 0, 0

    def __enter__(self) -> CountBytes:
        self._original = torch.distributed.all_reduce

        def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if tensor.is_floating_point():  # Lightning compares loader lengths once, as integers
                self.bytes += tensor.numel() * tensor.element_size()
                self.calls += 1
            return self._original(tensor, *args, **kwargs)

        torch.distributed.all_reduce = counted
        return self

    def __exit__(self, *_: object) -> None:
        torch.distributed.all_reduce = self._original


def documented_reductions() -> dict[str, str]:
    """The table of the docs: game -> all-reduces per game step, as an expression in n and iterations."""
    rows = re.findall(r"^\| (`[A-Z].*?`) \| ([^|`]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {game: count.replace("×", "*") for games, count in rows for game in re.findall(r"`(.+?)`", games)}


class Counting(JointNoise):
    """Keeps what each game step has asked of the other ranks, and how many iterations its solve took."""

    def __init__(self, *args: Any, counted: CountBytes, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.counted, self.calls, self.iterations = counted, [0], []

    def log_game_step(self, record: Any, notes: Any) -> None:
        self.calls.append(self.counted.calls)
        self.iterations.append(int(notes.get("solver/iterations", 0)))


def reductions(world_size: int, rank: int) -> list[tuple[str, int, list[int], list[int]]]:
    """(game, n, all-reduces of each game step, iterations of its solve) for every game of the table.

    Of the games in alternating play, every other one has n = 1 on two ranks and n = 2 on four; the others vice versa.
    """
    found = []
    alternating = [name for name in documented_reductions() if find_game(name).play == "alternating"]
    for name in documented_reductions():
        n = 1 + (alternating.index(name) + world_size // 2) % 2 if name in alternating else 1
        with CountBytes() as counted:
            model = Counting(*tiny_networks(), game=name, discriminator_steps=n, counted=counted)
            model.world_size, model.rank = world_size, rank
            loader = tiny_loader(BATCH // world_size, world_size=world_size, rank=rank)
            tiny_trainer(3, strategy="ddp", devices=world_size).fit(model, loader)
        calls = [after - before for before, after in itertools.pairwise(model.calls)]
        found.append((name, n, calls, model.iterations))
    return found


class Spoilt(JointNoise):
    """In the fourth game step the losses of some ranks are not numbers; keeps the weights after every step."""

    only_first = False  # of the losses in that step: the others are
    scale: float | None = None

    def __init__(self, *args: Any, where: tuple[int, ...], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.where, self.path, self.looks = where, [], 0

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.scale is not None:
            self.game.loss_scale = LossScale(init_scale=self.scale)

    def game_turns(self, batch: Any) -> Any:
        self.looks = 0
        return super().game_turns(batch)

    def _factor(self) -> float:
        self.looks += 1
        spoilt = self.trainer.global_step == 3 and self.rank in self.where and not (self.only_first and self.looks > 1)
        return float("nan") if spoilt else 1.0

    def generator_loss(self, fake_logits: torch.Tensor) -> torch.Tensor:
        return super().generator_loss(fake_logits) * self._factor()

    def discriminator_loss(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        return super().discriminator_loss(real_logits, fake_logits) * self._factor()

    def on_train_batch_end(self, *_: Any) -> None:
        self.path.append(weights(self))


def spoilt(world_size: int, rank: int, where: tuple[int, ...], scale: float | None = None) -> dict[str, Any]:
    """The weights after each of five game steps, how many turns were skipped, and the loss scales at the end."""
    model = Spoilt(*tiny_networks(), where=where, optimizer=OPTIMIZERS["adam"])
    model.world_size, model.rank, model.scale = world_size, rank, scale
    loader = tiny_loader(BATCH // world_size, world_size=world_size, rank=rank)
    tiny_trainer(5, strategy="ddp" if world_size > 1 else "auto", devices=world_size).fit(model, loader)
    scales = [] if scale is None else [model.game.loss_scale.of([player]) for player in model.players()]
    return {"path": torch.stack(model.path), "skipped": model.game.skipped, "scales": scales}


def half(world_size: int, rank: int) -> dict[str, Any]:
    """The weights and the loss scales of a run in fp16, which overflows at first."""
    model = JointNoise(*tiny_networks(dtype=torch.float32), game=LEADStrategy(1.0), optimizer=OPTIMIZERS["adam"])
    model.world_size, model.rank = world_size, rank
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**20))
    data = TensorDataset(tiny_points(dtype=torch.float32))
    sampler = DistributedSampler(data, num_replicas=world_size, rank=rank, shuffle=False)
    strategy = "ddp" if world_size > 1 else "auto"
    trainer = tiny_trainer(20, strategy=strategy, devices=world_size, plugins=[plugin])
    trainer.fit(model, DataLoader(data, BATCH // world_size, sampler=sampler))
    return {"weights": weights(model), "scale": model.game.loss_scale.state_dict(), "skipped": model.game.skipped}


def spoilt_inner_turn(world_size: int, rank: int) -> dict[str, Any]:
    """The same where the first of two discriminator turns is spoilt, on rank 0."""
    settings = {
        "discriminator_steps": 2,
        "generator_lr": 0.02,
        "discriminator_lr": 0.02,
        "optimizer": OPTIMIZERS["adam"],
    }
    game = LEADStrategy(2.0, cross="extrapolated")
    model = Spoilt(*tiny_networks(), where=(0,), game=game, **settings)
    model.only_first, model.world_size, model.rank = True, world_size, rank
    loader = tiny_loader(BATCH // world_size, world_size=world_size, rank=rank)
    tiny_trainer(5, strategy="ddp" if world_size > 1 else "auto", devices=world_size).fit(model, loader)
    return {"path": torch.stack(model.path), "skipped": model.game.skipped}


def uneven(rank: int, shares: list[int]) -> torch.Tensor:
    """One SGD game step where ranks have batches of different sizes; with one share, the joint batch on one process."""
    start, world_size = sum(shares[:rank]), len(shares)
    model = UnevenNoise(*tiny_networks(), optimizer=OPTIMIZERS["sgd"], generator_lr=0.02, discriminator_lr=0.02)
    model.start, model.total = start, sum(shares)
    points = tiny_points(12)[start : start + shares[rank]]
    trainer = tiny_trainer(1, strategy="ddp" if world_size > 1 else "auto", devices=world_size)
    trainer.fit(model, DataLoader(TensorDataset(points), len(points)))
    return weights(model)


class UnevenNoise(LeadGANModule):
    start, total, draws = 0, 12, 0

    def sample_latents(self, n: int) -> torch.Tensor:
        self.draws += 1
        generator = torch.Generator().manual_seed(self.draws)
        return torch.randn(self.total, 3, generator=generator, dtype=torch.float64)[self.start : self.start + n]


def main(output: str) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    result: dict[str, Any] = {"weights": {}}
    result["bytes"], result["calls"] = {}, {}
    for name, settings in CONFIGURATIONS.items():
        with CountBytes() as counted:
            model = train(world_size=world_size, rank=rank, **settings)
        result["weights"][name], result["bytes"][name], result["calls"][name] = (
            weights(model),
            counted.bytes,
            counted.calls,
        )
    result["uneven"] = uneven(rank, UNEVEN[world_size])
    result["lopsided"] = lopsided(rank, world_size)
    result["dropped"] = dropped(rank, world_size)
    result["buffers"] = drifted_buffers(rank, world_size)
    result["reductions"] = reductions(world_size, rank)
    everybody = tuple(range(world_size))
    result["spoilt"] = {where: spoilt(world_size, rank, where) for where in ((), (1,), everybody)}
    result["lifted"] = spoilt(world_size, rank, (1,), scale=2.0**10)
    result["half"] = half(world_size, rank)
    result["spoilt inner turn"] = spoilt_inner_turn(world_size, rank)
    result["whole"], result["resumed"] = resumed(world_size, rank, output)

    stop_reductions(_turn_oracles)  # the negative control
    result["unreduced"] = weights(train(world_size=world_size, rank=rank))
    torch.save(result, f"{output}.{rank}")


def lopsided(rank: int, world_size: int) -> torch.Tensor:
    """Samplers that look equal, and a batch size that is not the same on every rank."""
    model = UnevenNoise(*tiny_networks(), optimizer=OPTIMIZERS["sgd"], generator_lr=0.02, discriminator_lr=0.02)
    sizes = [1, 3, 3, 3][:world_size]
    model.start, model.total = sum(sizes[:rank]), sum(sizes)
    points = TensorDataset(tiny_points(12)[model.start : model.start + sizes[rank]])
    loader = DataLoader(points, sizes[rank], sampler=DistributedSampler(points, num_replicas=1, rank=0, shuffle=False))
    tiny_trainer(1, strategy="ddp", devices=world_size).fit(model, loader)
    return weights(model)


def dropped(rank: int, world_size: int) -> torch.Tensor:
    """The same batches by loaders that look alike, of which the first rank's drops samples while it collates."""
    model = UnevenNoise(*tiny_networks(), optimizer=OPTIMIZERS["sgd"], generator_lr=0.02, discriminator_lr=0.02)
    sizes = [1, 3, 3, 3][:world_size]
    model.start, model.total = sum(sizes[:rank]), sum(sizes)
    points = [*tiny_points(12)[model.start : model.start + sizes[rank]], *[None] * (3 - sizes[rank])]
    loader = DataLoader(
        points,
        3,
        sampler=DistributedSampler(points, num_replicas=1, rank=0, shuffle=False),
        collate_fn=lambda samples: torch.stack([sample for sample in samples if sample is not None]),
    )
    tiny_trainer(1, strategy="ddp", devices=world_size).fit(model, loader)
    return weights(model)


def drifted_buffers(rank: int, world_size: int) -> dict[str, torch.Tensor]:
    """Running statistics before validation, in the checkpoint, and what they were just before."""
    seen: dict[str, torch.Tensor] = {}

    from pytorch_lightning import Callback

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, model: Any, *_: Any) -> None:
            seen["drifted"] = model.generator[1].running_mean.clone()

        def on_validation_epoch_start(self, trainer: Any, model: Any) -> None:
            seen["validation"] = model.generator[1].running_mean.clone()

    model = tiny_gan(batch_norm=True)
    trainer = tiny_trainer(4, strategy="ddp", devices=world_size, callbacks=[Look()], num_sanity_val_steps=0)
    loader = tiny_loader(BATCH // world_size, world_size=world_size, rank=rank)
    trainer.fit(model, loader, loader)
    model.generator[1].running_mean.add_(rank)
    checkpoint = trainer._checkpoint_connector.dump_checkpoint()
    seen["checkpoint"] = checkpoint["state_dict"]["generator.1.running_mean"].clone()
    return seen


def resumed(world_size: int, rank: int, output: str) -> list[torch.Tensor]:
    """The end of a run, and of one that was resumed after its third game step; noise is the ranks' own."""
    ends, path = [], f"{output}.ckpt"
    for ckpt in (None, path):
        model = tiny_gan(batch_norm=True)
        trainer = tiny_trainer(6, strategy="ddp", devices=world_size)
        if ckpt is None:
            model.on_train_batch_end = lambda *_, t=trainer: t.save_checkpoint(path) if t.global_step == 3 else None
        torch.manual_seed(1 if ckpt is None else 2)
        data = GaussiansDataModule(num_points=24 * world_size * 6, batch_size=24)
        double = model.unpack_batch
        model.unpack_batch = lambda batch, unpack=double: (unpack(batch)[0].double(), None)
        trainer.fit(model, data, ckpt_path=ckpt)
        ends.append(weights(model))
    return ends


if __name__ == "__main__":
    main(sys.argv[1])
