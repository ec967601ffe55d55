"""Compare two checkouts bit by bit: weights of games after some steps, resumed ones, scores, and configurations.

    python tests/golden.py COMMIT       (or: make golden OLD=COMMIT)

Both checkouts run on this machine, one after the other; bits belong to a machine, so none are stored. The games are
played through the exported names alone, which no change of the inside may touch.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ROOT = Path(__file__).resolve().parents[1]
STEPS, RESUMED_AFTER, SEED = 12, 6, 3

# name -> (networks, settings of the module). Each rule is played once more below, with its defaults.
GAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "exact, batch norm, by structure": ("dcgan", {"game": "LEAD(coupling=1.0)"}),
    "exact, smooth": ("mlp", {"game": "LEAD(coupling=1.0)", "objective": "wasserstein"}),
    "exact, spectral norm, n = 2": (
        "sngan",
        {"game": "LEAD(coupling=0.5)", "discriminator_steps": 2, "objective": "hinge"},
    ),
    "own form": ("dcgan", {"game": "LEAD(coupling=0.5, form='own')"}),
    "difference": ("dcgan", {"game": "LEAD(coupling=0.5, cross='difference')"}),
    "difference, shared latents": ("dcgan", {"game": "LEAD(coupling=0.5, cross='difference')", "shared_latents": True}),
    "extrapolated": ("dcgan", {"game": "LEAD(coupling=2.0, cross='extrapolated')"}),
    "extrapolated, n = 2": ("sngan", {"game": "LEAD(cross='extrapolated')", "discriminator_steps": 2}),
    "auto": ("dcgan", {"game": "LEAD(coupling=1.0, cross='auto', check_every=3)"}),
    "fraction of the batch": ("dcgan", {"game": "LEAD(coupling=0.5, cross_fraction=0.5)"}),
    "R1": ("mlp", {"game": "LEAD(coupling=0.5)", "penalty": "R1"}),
    "WGAN-GP": ("mlp", {"game": "LEAD(coupling=0.5)", "penalty": "WGANGP", "objective": "wasserstein"}),
    "clip and accumulation": ("dcgan", {"game": "LEAD(coupling=0.5)", "clip": 0.1, "accumulate": 2}),
    "accumulation, difference": ("mlp", {"game": "LEAD(coupling=0.5, cross='difference')", "accumulate": 4}),
    "simultaneous": ("dcgan", {"game": "LEAD(coupling=0.5, play='simultaneous')"}),
    "simultaneous plain play": ("dcgan", {"game": "SimultaneousGDA"}),
    "simultaneous difference": ("mlp", {"game": "LEAD(coupling=0.5, cross='difference', play='simultaneous')"}),
    "conditional": ("conditional sngan", {"game": "LEAD(coupling=0.5)"}),
    "conditional, extrapolated": ("conditional sngan", {"game": "LEAD(coupling=0.5, cross='extrapolated')"}),
    "more fakes": ("dcgan", {"game": "LEAD(coupling=0.5)", "generator_batch_size": 16}),
    "channels last": ("dcgan", {"game": "LEAD(coupling=0.5)", "channels_last": True}),
    "wrapped": ("mlp", {"game": "LookaheadMinmax(steps=3, inner=LEAD(coupling=0.5))"}),
    "two ranks, exact": ("dcgan", {"game": "LEAD(coupling=0.5)", "ranks": 2}),
    "two ranks, extrapolated": ("dcgan", {"game": "LEAD(coupling=0.5, cross='extrapolated')", "ranks": 2}),
    "two ranks, n = 2, plain": ("dcgan", {"game": "AlternatingGDA", "discriminator_steps": 2, "ranks": 2}),
}


def main() -> int:
    """Record both checkouts, then say what differs; the exit status is 1 if anything does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", help="the commit to compare this checkout with")
    parser.add_argument("--only", default="", help="games, scores and recipes whose names contain this")
    parser.add_argument("--record", nargs=2, metavar=("FILE", "OLD_RUNS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.record:
        file, old_runs = arguments.record
        Path(file).write_text(json.dumps(record(arguments.only, Path(file).parent, Path(old_runs)), indent=1))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "old"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), arguments.old], check=True)
        try:
            records = []
            for name, root in (("before", tree), ("after", ROOT)):
                runs = Path(folder) / name
                runs.mkdir()
                command = [sys.executable, __file__, arguments.old, "--only", arguments.only]
                environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
                command += ["--record", str(runs / "record.json"), str(Path(folder) / "before")]
                subprocess.run(command, check=True, cwd=root, env=environment)
                records.append(json.loads((runs / "record.json").read_text()))
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
    return report(*records)


def report(before: dict[str, str], after: dict[str, str]) -> int:
    """Print what differs and how much there was to compare."""
    names = sorted(before.keys() | after.keys())
    differing = [name for name in names if before.get(name) != after.get(name)]
    for name in differing:
        print(f"{name}:\n  before {before.get(name, 'not there')}\n  after  {after.get(name, 'not there')}")
    failed = [name for name in names if after.get(name, "").startswith("failed")]
    # a run that was cut in two must end where the whole one did
    failed += [name for name in names if name.startswith("resumed") and after.get(name) != after.get("game" + name[7:])]
    for name in failed:
        print(f"{name}: {after.get(name)}")
    print(f"golden: {len(names) - len(differing)} of {len(names)} are the same bit by bit; {len(failed)} failed")
    return 1 if differing or failed or not names else 0


def record(only: str, runs: Path, old_runs: Path) -> dict[str, str]:
    """Fingerprints of whatever this checkout makes, name -> text."""
    warnings.simplefilter("ignore")
    import lightning_lead

    print(f"golden: recording {Path(lightning_lead.__file__).parent}", flush=True)
    found: dict[str, str] = {}
    for name, make in cases(runs, old_runs):
        if only not in name:
            continue
        try:
            found[name] = make()
        except Exception as error:  # one side may fail where the other does not, and that is a difference
            found[name] = f"failed: {type(error).__name__}: {error}"
    return found


def cases(runs: Path, old_runs: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """Everything that is compared."""
    import lightning_lead
    from lightning_lead import rules

    games = dict(GAMES)
    for name in rules.__all__:
        if hasattr(getattr(rules, name), "direction") and name != "AbstractGameRule":
            games[f"rule {name}"] = ("mlp", {"game": name})
    for name, (networks, settings) in games.items():
        file = f"{name}.ckpt"
        yield f"game: {name}", lambda n=networks, s=settings, f=runs / file: play(n, s, save=f)  # type: ignore[misc]
        # written before, resumed after: the checkpoints of the other checkout must go on
        yield f"resumed: {name}", lambda n=networks, s=settings, f=old_runs / file: play(n, s, resume=f)  # type: ignore[misc]
    for extractor in ("digits", "torchvision", "inception"):
        yield f"scores: {extractor}", lambda e=extractor: score(e)  # type: ignore[misc]
    for recipe in sorted((Path(lightning_lead.__file__).parents[1] / "examples" / "recipes").glob("*.yaml")):
        if not recipe.stem.endswith("_games"):
            yield f"config: {recipe.stem}", lambda r=recipe: config(r)  # type: ignore[misc]


# ---- games -----------------------------------------------------------------------------------------------------------


def build(networks: str, settings: dict[str, Any]) -> tuple[pl.LightningModule, DataLoader[Any]]:
    """A module and its data, the same in both checkouts."""
    from lightning_lead import LeadGANModule, objectives
    from lightning_lead import networks as nets
    from lightning_lead.data import ResumableDataLoader

    torch.manual_seed(SEED)
    pair: tuple[nn.Module, nn.Module]
    if networks == "mlp":
        pair = nets.MLPGenerator(latent_dim=4, width=8), nets.MLPDiscriminator(width=8)
        real = torch.randn(96, 2)
    elif networks == "dcgan":
        images: dict[str, Any] = {"channels": 1, "image_size": 8, "width": 4}
        pair = nets.DCGANGenerator(latent_dim=8, **images), nets.DCGANDiscriminator(**images)
        real = torch.randn(96, 1, 8, 8).tanh()
    else:
        classes = {"num_classes": 3} if networks == "conditional sngan" else {}
        pair = nets.SNGANGenerator(latent_dim=8, width=8, **classes), nets.SNGANDiscriminator(width=4, **classes)
        real = torch.randn(96, 3, 32, 32).tanh()
    labels = torch.arange(96) % 3
    settings = {key: value for key, value in settings.items() if key != "ranks"}
    if penalty := settings.get("penalty"):
        settings["penalty"] = getattr(objectives, penalty)(weight=1.0)
    module = LeadGANModule(*pair, generator_lr=2e-3, discriminator_lr=2e-3, **settings)
    return module, ResumableDataLoader(TensorDataset(real, labels), 8, shuffle=True)


class Keep(pl.Callback):
    """Save after some steps, and keep what was logged last."""

    def __init__(self, file: Path | None) -> None:
        self.file, self.logged = file, {}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.logged = {key: float(value) for key, value in sorted(trainer.logged_metrics.items())}
        if trainer.global_step == RESUMED_AFTER and self.file is not None:
            trainer.save_checkpoint(self.file)


def play(networks: str, settings: dict[str, Any], *, save: Path | None = None, resume: Path | None = None) -> str:
    """The hash of the weights, buffers, states and logged numbers after the steps of one game."""
    module, loader = build(networks, settings)
    ranks = settings.get("ranks", 1)
    keep = Keep(save)
    trainer = silent_trainer(
        devices=ranks,
        strategy="ddp_fork" if ranks > 1 else "auto",
        max_steps=STEPS,
        callbacks=[keep],
        log_every_n_steps=2,
    )
    with quiet():
        trainer.fit(module, loader, ckpt_path=resume)
    states = {"weights": module.state_dict()}
    if ranks == 1:  # with more of them, the rest stays in the processes
        memory = [optimizer.state_dict()["state"] for optimizer in trainer.optimizers]
        states |= {"rule": module.game.state_dict(), "optimizer": memory, "logged": keep.logged}
    return ", ".join(f"{name} {fingerprint(state)}" for name, state in states.items())


def fingerprint(state: Any) -> str:
    """The hash of nested containers of tensors and numbers, by content."""
    total = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            total.update(f"{value.dtype} {tuple(value.shape)}".encode())
            total.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                total.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        else:
            total.update(repr(value).encode())

    add(state)
    return total.hexdigest()[:16]


def silent_trainer(**settings: Any) -> pl.Trainer:
    """A Trainer on the CPU that writes nothing."""
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with quiet():
        return pl.Trainer(accelerator="cpu", **off, **settings)


# ---- scores and configurations ---------------------------------------------------------------------------------------


def score(extractor: str) -> str:
    """All scores of an untrained generator of images through one extractor, to the last bit."""
    from lightning_lead import GenerativeMetrics, LeadGANModule, networks

    torch.manual_seed(SEED)
    if extractor == "inception":
        home = os.environ.get("LIGHTNING_LEAD_HOME") or Path.home() / ".cache" / "lightning-lead"
        if not any(Path(home).rglob("*inception*")):
            return "no weights on this machine"
        network: Any = "inception"
    elif extractor == "digits":
        network = "digits"
    else:
        network = networks.TorchvisionFeatures("resnet18", weights=None)
    channels = 1 if extractor == "digits" else 3
    generator = networks.DCGANGenerator(latent_dim=8, channels=channels, image_size=8, width=4)
    discriminator = networks.DCGANDiscriminator(channels=channels, image_size=8, width=4)
    metrics = ["kid", "prdc", "memorization"] + (["fid"] if extractor == "digits" else [])
    callback = GenerativeMetrics(
        network,
        num_samples=160,
        batch_size=40,
        metrics=metrics,
        kid_subsets=5,
        kid_subset_size=50,
        reference=torch.rand(160, channels, 8, 8) * 2 - 1,
        cache=False,
    )
    trainer = silent_trainer(devices=1, callbacks=[callback], default_root_dir=tempfile.mkdtemp())
    module = LeadGANModule(generator, discriminator)
    with quiet():
        trainer.validate(module, DataLoader(torch.zeros(4, channels, 8, 8)), verbose=False)
    values = {k: float(v).hex() for k, v in sorted(trainer.callback_metrics.items())}
    return json.dumps(values) if values else "failed: no score"


def config(recipe: Path) -> str:
    """What `fit --print_config` prints for a recipe."""
    from lightning_lead.cli import command

    printed = io.StringIO()
    arguments, sys.argv = sys.argv, ["lightning-lead", "fit", "--config", str(recipe), "--print_config"]
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            command()
    finally:
        sys.argv = arguments
    return printed.getvalue() or "failed: nothing was printed"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the banners of a Trainer."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)


if __name__ == "__main__":
    sys.exit(main())
