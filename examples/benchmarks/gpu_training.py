"""Segments of CIFAR-10 by momentum: the recipe cifar10_sngan32, shortened, with another β₁, and its scores.

A run has `game_steps` steps, over which the rates fall to 0, in bf16 with channels last and fused Adam. A segment ends
with the part's seconds; the next call goes on from its checkpoint. FID and KID are of 10,000 samples against the
training images, halfway and at the end.
"""

from __future__ import annotations

import json
import logging
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from gpu_freight import INCEPTION, ROUNDED
from gpu_parts import Bench
from gpu_steps import FORMS, use_tf32
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from lightning_lead import (
    CIFAR10DataModule,
    CompactCheckpointIO,
    GenerativeMetrics,
    LeadGANModule,
    LEADStrategy,
    SegmentCheckpoint,
    Throughput,
    networks,
)
from lightning_lead._errors import ConfigurationError
from lightning_lead.fetch import find_cifar10, find_inception
from lightning_lead.fetch._store import home, install

__all__ = ["BETAS", "made_up_images", "play", "reference"]

BETAS = (0.0, 0.5, 0.8)
RECIPE = Path(__file__).parents[1] / "recipes" / "cifar10_sngan32.yaml"
SAMPLES = 10_000
SCORING = 12.0  # seconds that the last score may take


class Colours(nn.Module):
    """Mean colours of a 4 × 4 grid, 48 features: a score where Inception is not at hand, comparable with no other."""

    num_features = 48

    def forward(self, images: Tensor) -> Tensor:
        return adaptive_avg_pool2d(images.float(), 4).flatten(1)


def features(bench: Bench) -> tuple[nn.Module | str, str]:
    """Return the feature network of the scores, and what the record says of it."""
    try:
        import torch_fidelity  # noqa: F401
    except ImportError:
        layers = False
    else:
        layers = True
    if bench.dry or find_inception() is None or not layers:
        return Colours(), "mean colours of 4 × 4 fields: Inception was not at hand; no FID of other papers"
    manifest = json.loads((home() / INCEPTION / "manifest.json").read_text(encoding="utf-8"))
    rounded = f", {ROUNDED}" if "rounded" in manifest else ""
    return "inception:channels_last", f"Inception of 2015-12-05{rounded}"


def made_up_images(store: Path) -> None:
    """Write pictures of noise in place of CIFAR-10, for a dry run."""
    folder, made = store / "cifar10", store / "made"
    if find_cifar10(folder) is None:
        folder.mkdir(parents=True, exist_ok=True)
        made.mkdir(exist_ok=True)
        drawn = np.random.default_rng(0)
        for split, count in (("train", 80), ("test", 10)):
            np.save(made / f"{split}_images.npy", drawn.integers(0, 256, (count, 3, 32, 32), np.uint8))
            np.save(made / f"{split}_labels.npy", drawn.integers(0, 10, count))
        names = [path.name for path in sorted(made.iterdir())]
        install(made, folder, names, {"name": "cifar10", "source": "noise"})
        made.rmdir()


def play(bench: Bench, form: str, beta: float, *, folder: str = "", game_steps: int | None = None) -> str:
    """Play one segment of one run, from its checkpoint if there is one."""
    if find_cifar10() is None:
        bench.tell({"waits_for": "CIFAR-10: lightning-lead fetch cifar10, or --take the parts of --pack"})
        return "waiting"
    steps, at = game_steps or bench.game_steps, bench.output / "training" / (folder or f"{form} {beta:g}")
    if (at / "segment.json").is_file():
        begun = json.loads((at / "segment.json").read_text(encoding="utf-8"))["max_steps"]
        if begun != steps:  # the rates fall over all steps, so a run cannot change its length on the way
            raise ConfigurationError(
                f"Cannot go on with {at} because it is a run of {begun} game steps; use --game-steps {begun}, or begin "
                f"it anew by --again (got {steps})"
            )
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel("ERROR")
    cuda = bench.device == "cuda"
    seed_everything(0, verbose=False)
    with use_tf32(True):
        extractor, said = features(bench)
        module, data = _module(bench, form, beta, steps), _data(bench)
        metrics = GenerativeMetrics(
            extractor,
            every_n_steps=max(1, steps // 2),
            num_samples=64 if bench.dry else SAMPLES,
            batch_size=64 if bench.dry else 500,
            metrics=["fid", "kid"],
            kid_subset_size=32 if bench.dry else 1000,
        )
        minutes = 1e-6 if bench.dry else max(10.0, bench.left - SCORING) / 60
        segment = SegmentCheckpoint(
            str(at), minutes=minutes, every_minutes=1.0, check_every_n_steps=1 if bench.dry else 10, generator="float16"
        )
        speed = Throughput(every_n_steps=2 if bench.dry else 50)
        trainer = Trainer(
            max_steps=steps,
            accelerator="gpu" if cuda else "cpu",
            devices=1,
            precision="bf16-mixed",
            callbacks=[metrics, segment, speed],
            plugins=[CompactCheckpointIO()],
            benchmark=cuda,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            default_root_dir=at,
        )
        last = segment.last if segment.last.is_file() else None
        trainer.fit(module, data, ckpt_path=last)
    record = json.loads((at / "segment.json").read_text(encoding="utf-8"))
    found = {"folder": at.name, "form": form, "beta1": beta, "features": said, "samples": metrics.scorer.num_samples}
    keys = ("global_step", "max_steps", "steps_of_segment", "seconds_of_segment", "ended_by")
    found |= {key: record[key] for key in keys}
    found |= {
        "reals_per_second": speed.latest.get("images_per_second"),
        "checkpoint_bytes": segment.last.stat().st_size,
    }
    bench.tell(found | {"scores": {str(score["step"]): score["values"] for score in metrics.history}})
    return "done" if record["finished"] else "unfinished"


def reference(bench: Bench) -> str:
    """Pass the reals through the feature network once, so that no run pays for it, and score an untrained generator."""
    return play(bench, "plain", 0.0, folder="reference", game_steps=1)


def _module(bench: Bench, form: str, beta: float, steps: int) -> LeadGANModule:
    recipe: dict[str, Any] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["model"]
    built = []
    for player in ("generator", "discriminator"):
        settings = recipe[player]["init_args"] | ({"width": 4} if bench.dry else {})
        built.append(getattr(networks, recipe[player]["class_path"].rsplit(".", 1)[-1])(**settings))
    adam = recipe["optimizer"]["init_args"] | {"fused": bench.device == "cuda"}
    adam["betas"] = (beta, adam["betas"][1])
    falls = recipe["scheduler"]["init_args"] | {"total_iters": steps}
    return LeadGANModule(
        *built,
        objective=recipe["objective"],
        discriminator_steps=1 if bench.dry else recipe["discriminator_steps"],
        generator_batch_size=2 if bench.dry else recipe["generator_batch_size"],
        game=LEADStrategy(**FORMS[form]),
        optimizer=partial(torch.optim.Adam, **adam),
        generator_lr=recipe["generator_lr"],
        discriminator_lr=recipe["discriminator_lr"],
        scheduler=partial(torch.optim.lr_scheduler.LinearLR, **falls),
        channels_last=True,
    )


def _data(bench: Bench) -> CIFAR10DataModule:
    recipe: dict[str, Any] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["data"]["init_args"]
    return CIFAR10DataModule(
        **(recipe | {"on_device": bench.device == "cuda"} | ({"batch_size": 2} if bench.dry else {}))
    )
