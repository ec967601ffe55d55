"""Run on every rank as under torchrun: games on parameters that FSDP2 shards, and what came out.

python -m torch.distributed.run --nproc-per-node 2 tests/parallel/sharded.py OUTPUT
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from pytorch_lightning.strategies import ModelParallelStrategy
from tiny import TinyGenerator, tiny_loader, tiny_points, tiny_trainer
from torch.utils.data import DataLoader, TensorDataset

from lightning_lead import CompactCheckpointIO, GeneratorEMA, LeadGANModule, LEADStrategy
from lightning_lead._errors import ConfigurationError
from lightning_lead._sharding import is_sharded, local_part, map_tensors, whole
from lightning_lead.callbacks.generator_file import save_generator
from lightning_lead.constraints import Box
from lightning_lead.engine import _rule_memory
from lightning_lead.engine._loss_scale import LossScale
from lightning_lead.engine.named_rules import find_game, game_names
from lightning_lead.gan._sampling import generate
from lightning_lead.objectives import R1, R2
from lightning_lead.training import _turn_oracles

STEPS, SAVED, BATCH = 5, 3, 24
UNEVEN = {2: [9, 3], 4: [6, 1, 2, 3]}
AHEAD = "LEAD(cross='extrapolated')"
OFFLOADED = "LEAD(cross='extrapolated', offload=True)"


def backwards(groups: Any, eps: float = 1e-8) -> torch.optim.Optimizer:
    """An optimizer that holds its parameters in another order than the module does, several of them of one shape."""
    turned = [{**group, "params": list(group["params"])[::-1]} for group in groups]
    return torch.optim.Adam(turned, betas=(0.5, 0.9), eps=eps)


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {"game": "AlternatingGDA"},
    "plain, clip, n=2, by layers": {"game": "AlternatingGDA", "clip": 0.05, "discriminator_steps": 2, "layers": True},
    "extrapolated, clip, n=2": {"game": OFFLOADED, "clip": 0.05, "discriminator_steps": 2},
    "OptimisticAdam, clip, n=2": {"game": "OptimisticAdam(offload=True)", "clip": 0.05, "discriminator_steps": 2},
}
RESUMED = list(CONFIGURATIONS)[1:]
SINGLE = {"dtype": torch.float32, "optimizer": partial(backwards, eps=1e-4)}
"""Where a gradient is of the size of rounding, a smaller ε would make whole steps of the difference."""
CONFIGURATIONS |= {f"{name}, float32": CONFIGURATIONS[name] | SINGLE for name in RESUMED}
MORE: dict[str, dict[str, Any]] = {  # on two ranks
    "extrapolated, penalties, accumulate=2, by layers": {
        "game": AHEAD,
        "penalty": [R1(weight=3.0), R2(weight=1.0)],
        "accumulate": 2,
        "layers": True,
    },
    "difference, accumulate=2": {"game": LEADStrategy(1.0, cross="difference", cross_fraction=0.5), "accumulate": 2},
    "ExtraAdam, penalty": {"game": "ExtraAdam", "penalty": R1(weight=3.0)},
}


def allowed_games() -> dict[str, dict[str, Any]]:
    """Every game by name that differentiates once."""
    found = {"ODEGAN(scheme='rk4', regularization=0)": {"optimizer": torch.optim.SGD}}
    for name in game_names():
        needs = find_game(name).rule.needs
        if not (needs.second_order or needs.zero_sum):
            found[name] = {"optimizer": torch.optim.SGD} if needs.requires_sgd else {}
    return found


def networks(dtype: torch.dtype, width: int = 64) -> tuple[nn.Module, nn.Module]:
    """Wide enough to be divided by four, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        middle = lambda: [nn.Linear(width, width), nn.Tanh()]  # noqa: E731
        generator = TinyGenerator(nn.Linear(3, width), nn.Tanh(), *middle(), nn.Linear(width, 2))
        discriminator = nn.Sequential(nn.Linear(2, width), nn.Tanh(), *middle(), nn.Linear(width, 1))
    return generator.to(dtype), discriminator.to(dtype)


class Sharded(LeadGANModule):
    """Draws the latents of the joint batch on every rank, by game step, and takes this rank's share."""

    world_size, rank, draws, layers, spoilt = 1, 0, 0, False, False
    start, total = 0, 0  # of an uneven share

    def configure_model(self) -> None:
        if self.world_size > 1:
            from torch.distributed.fsdp import fully_shard

            mesh = self.device_mesh["data_parallel"]
            for network in (self.generator, self.discriminator):
                for layer in network if self.layers else ():
                    if isinstance(layer, nn.Linear):
                        fully_shard(layer, mesh=mesh)
                fully_shard(network, mesh=mesh)

    def game_turns(self, batch: Any) -> Any:
        self.draws = 0
        return super().game_turns(batch)

    def sample_latents(self, n: int) -> torch.Tensor:
        self.draws += 1
        generator = torch.Generator().manual_seed(100 * self.global_step + self.draws)
        if self.total:
            return self._as_weights(torch.randn(self.total, 3, generator=generator))[self.start : self.start + n]
        joint = torch.randn(n * self.world_size, 3, generator=generator)
        return self._as_weights(joint)[self.rank :: self.world_size]

    def _as_weights(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(next(self.generator.parameters()).dtype)

    def unpack_batch(self, batch: Any) -> Any:
        return self._as_weights(batch[0]), None

    def generator_loss(self, fake_logits: torch.Tensor) -> torch.Tensor:
        spoils = self.spoilt and self.global_step == 3
        return super().generator_loss(fake_logits) * (float("nan") if spoils else 1.0)


def make(
    world_size: int,
    rank: int,
    *,
    kind: Any = Sharded,
    layers: bool = False,
    folder: bool = False,
    steps: int = STEPS,
    callbacks: Any = (),
    mesh: tuple[int, int] | None = None,
    plugins: Any = (),
    optimizer: Any = backwards,
    dtype: torch.dtype = torch.float64,
    **settings: Any,
) -> tuple[Sharded, Any]:
    model = kind(*networks(dtype), optimizer=optimizer, generator_lr=0.02, discriminator_lr=0.02, **settings)
    model.world_size, model.rank, model.layers = world_size, rank, layers
    strategy: Any = "auto"
    if world_size > 1:
        strategy = ModelParallelStrategy(*(mesh or (world_size, 1)), save_distributed_checkpoint=folder)
    return model, tiny_trainer(
        steps, strategy=strategy, devices=world_size, callbacks=list(callbacks), plugins=list(plugins)
    )


def train(
    world_size: int, rank: int, *, save: str | None = None, resume: str | None = None, **settings: Any
) -> dict[str, Any]:
    """The weights and the average at the end, the bytes that this rank has held, and how many tensors are offloaded."""
    ema = GeneratorEMA(halflife_images=50.0)
    model, trainer = make(world_size, rank, callbacks=[ema], **settings)
    if save is not None:
        model.on_train_batch_end = lambda *_: trainer.save_checkpoint(save) if trainer.global_step == SAVED else None
    torch.manual_seed(0 if resume is None else 1)
    trainer.fit(
        model, tiny_loader(BATCH // world_size, world_size=world_size, rank=rank, count=BATCH), ckpt_path=resume
    )
    assert trainer.global_step == settings.get("steps", STEPS)
    offloaded: list[Any] = []
    map_tensors(offloaded.append, model.game._memory, _rule_memory._Kept)
    found = {"weights": weights(model), "average": averages(ema), "bytes": held_bytes(model, ema)}
    return found | {"offloaded": len(offloaded)}


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([whole(p.detach()).reshape(-1) for p in model.parameters()])


def averages(ema: GeneratorEMA) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in ema.state_dict()["average"].values()])


def held_bytes(model: Sharded, ema: GeneratorEMA) -> dict[str, int]:
    """Bytes of this rank's parts: parameters, what the rule remembers, what optimizers keep, the average."""
    counted: Counter[str] = Counter()

    def count(what: str) -> Any:
        def add(tensor: torch.Tensor) -> torch.Tensor:
            part = local_part(tensor)
            counted[what] += part.numel() * part.element_size()
            return tensor

        return add

    map_tensors(count("parameters"), [p.detach() for p in model.parameters()])
    map_tensors(count("rule"), model.game.state)
    map_tensors(count("optimizer"), [dict(o.state[p]) for o in model.trainer.optimizers for p in o.state])
    map_tensors(count("average"), ema._average)
    return dict(counted)


def uneven(rank: int, shares: list[int]) -> torch.Tensor:
    """One game step where ranks have batches of different sizes; with one share, the joint batch on one process."""
    model, trainer = make(len(shares), rank, game="AlternatingGDA", steps=1, optimizer=torch.optim.SGD)
    model.start, model.total = sum(shares[:rank]), sum(shares)
    points = tiny_points(12)[model.start : model.start + shares[rank]]
    trainer.fit(model, DataLoader(TensorDataset(points), len(points)))
    return weights(model)


def spoilt(world_size: int, rank: int, where: tuple[int, ...]) -> dict[str, Any]:
    """The weights after each step of a run in which the generator's fourth turn is no number on some ranks."""
    model, trainer = make(world_size, rank, game=AHEAD)
    model.spoilt, path = rank in where, []
    model.on_train_batch_end = lambda *_: path.append(weights(model))
    trainer.fit(model, tiny_loader(BATCH // world_size, world_size=world_size, rank=rank, count=BATCH))
    return {"path": torch.stack(path), "skipped": model.game.skipped}


class Scaled(Sharded):
    """Has a loss scale, as fp16 has."""

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.game.loss_scale = LossScale(init_scale=1024.0)


class OneSharded(Sharded):
    """Shards the generator alone."""

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        fully_shard(self.generator, mesh=self.device_mesh["data_parallel"])


class BothInOne(Sharded):
    """Shards both networks as one."""

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        fully_shard(self, mesh=self.device_mesh["data_parallel"])


class InSets(Sharded):
    def constraints(self) -> Any:
        return {"generator": Box(-1.0, 1.0)}


class SavesInLoss(Sharded):
    def generator_loss(self, fake_logits: torch.Tensor) -> torch.Tensor:
        self.trainer.save_checkpoint("never")
        return super().generator_loss(fake_logits)


def refusals(world_size: int, rank: int, output: str) -> dict[str, str]:
    """What is refused -> the message."""
    trials: dict[str, dict[str, Any]] = {
        "exact": {"game": "LEAD"},
        "consensus": {"game": "ConsensusOptimization", "optimizer": torch.optim.SGD},
        "one network": {"game": AHEAD, "kind": OneSharded},
        "both in one": {"game": AHEAD, "kind": BothInOne},
        "tensor parallel": {"game": AHEAD, "mesh": (1, world_size)},
        "compact files": {"game": AHEAD, "plugins": [CompactCheckpointIO()]},
        "sets": {"game": AHEAD, "kind": InSets},
        "in a loss": {"game": AHEAD, "kind": SavesInLoss},
    }
    found = {name: _refusal(lambda s=settings: train(world_size, rank, **s)) for name, settings in trials.items()}
    warm = {"game": AHEAD, "discriminator_warmup": 9, "folder": True, "steps": SAVED}
    found["not moved"] = _refusal(lambda: train(world_size, rank, save=f"{output}.warm", **warm))
    ema = GeneratorEMA(halflife_images=50.0)
    model, trainer = make(world_size, rank, game=AHEAD, steps=1, callbacks=[ema])
    trainer.fit(model, tiny_loader(BATCH // world_size, world_size=world_size, rank=rank, count=BATCH))
    found["samples"] = _refusal(lambda: list(generate(model, 4, seed=0, batch_size=4)))
    found["average"] = _refusal(lambda: ema.average(model))
    found["generator's file"] = _refusal(lambda: save_generator(f"{output}.pt", model))
    return found


def _refusal(tried: Any) -> str:
    try:
        tried()
    except ConfigurationError as error:
        return str(error)
    return "nothing was refused"


class CountReductions:
    """Counts reduce-scatters, by whichever of its names torch's FSDP calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __enter__(self) -> CountReductions:
        names = ("reduce_scatter_single", "reduce_scatter_tensor")
        name = next(name for name in names if hasattr(torch.distributed, name))
        self._kept = name, getattr(torch.distributed, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return self._kept[1](*args, **kwargs)

        setattr(torch.distributed, name, counted)
        return self

    def __exit__(self, *_: object) -> None:
        setattr(torch.distributed, *self._kept)


def main(output: str) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    _rule_memory._stays = lambda tensor: not is_sharded(tensor)  # the processor stands for the device
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    result: dict[str, Any] = {"runs": {}, "reductions": {}}
    for name, settings in (CONFIGURATIONS | (MORE if world_size == 2 else {})).items():
        if name == "difference, accumulate=2":
            settings = settings | {"kind": Scaled}
        with CountReductions() as counted:
            saved = f"{output}.{name}.ckpt" if name in RESUMED else None
            result["runs"][name] = train(world_size, rank, save=saved, **settings)
        result["reductions"][name] = counted.calls
    for name in RESUMED:
        settings = CONFIGURATIONS[name]
        for kind, path in (("file", f"{output}.{name}.ckpt"), ("file of one process", f"{output}.one.{name}.ckpt")):
            result["runs"][f"{name} from a {kind}"] = train(world_size, rank, resume=path, **settings)
    name, folder = RESUMED[2], f"{output}.folder"
    train(world_size, rank, save=folder, folder=True, **(CONFIGURATIONS[name] | {"steps": SAVED}))
    result["runs"][f"{name} from a folder"] = train(
        world_size, rank, resume=folder, folder=True, **CONFIGURATIONS[name]
    )
    if world_size == 2:
        for name, settings in allowed_games().items():
            result["runs"][name] = train(world_size, rank, game=name, steps=2, **settings)
        result["refusals"] = refusals(world_size, rank, output)
    result["spoilt"] = {where: spoilt(world_size, rank, where) for where in ((), (1,))}
    result["uneven"] = uneven(rank, UNEVEN[world_size])

    mock.patch.object(_turn_oracles, "weight_of_rank", return_value=torch.ones(())).start()  # the negative control
    result["unweighed"] = uneven(rank, UNEVEN[world_size])
    torch.save(result, f"{output}.{rank}")


if __name__ == "__main__":
    main(sys.argv[1])
