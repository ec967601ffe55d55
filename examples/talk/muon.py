"""Muon on a GAN: plain play, the optimistic rule, and LEAD's extrapolated form at several couplings.

    python examples/talk/muon.py [--output runs/talk] [--seeds 0 1 2] [--fast]

Eight Gaussians, the networks of `recipes/gaussians.yaml`. `torch.optim.Muon` moves the weights between hidden layers,
and Adam with β₁ of the same momentum the first and last layers and the biases, so that a player has one momentum β. The
law's coupling is lag + ½, with a lag of β/(1 − β), of Nesterov's momentum β²/(1 − β): at β = 0.95 it is 19.5 and 18.55.
Prints modes and good samples at the end and the median step at which all eight modes are first there, as a table in
Markdown. Kept runs are not made again. Needs torch 2.9 for Muon.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from drawing import parser_of
from pytorch_lightning import Trainer, seed_everything
from training import quiet

from lightning_lead import DivergenceError, LeadGANModule, ModeCounter
from lightning_lead._files import write_json
from lightning_lead.data import GaussiansDataModule
from lightning_lead.networks import MLPDiscriminator, MLPGenerator

RATES = (3e-4, 1e-3, 3e-3)
EIGHT = 8


class Setting(NamedTuple):
    """A cell of the table."""

    optimizer: str  # "Muon" or "Adam"
    momentum: float
    nesterov: bool
    game: str
    rate: float

    @property
    def law(self) -> float:
        """The coupling that makes up for the momentum, and for half a step more."""
        lag = self.momentum / (1 - self.momentum)
        return lag * (self.momentum if self.nesterov else 1.0) + 0.5


class MuonGAN(LeadGANModule):
    """A GAN of fully connected networks, whose hidden weights are moved by Muon."""

    def __init__(self, setting: Setting, *networks: Any, **settings: Any) -> None:
        super().__init__(*networks, **settings)
        self.setting = setting

    def configure_optimizers(self) -> Any:
        """Muon for square weights of hidden layers, Adam for the rest; a group per player in both."""
        chosen = self.setting
        hidden, rest = [], []
        for name, parameters in self.players().items():
            own = list(parameters)
            inner = [p for p in own if chosen.optimizer == "Muon" and p.dim() == 2 and p.shape[0] == p.shape[1]]
            taken = {id(p) for p in inner}
            hidden.append({"params": inner, "name": name})
            rest.append({"params": [p for p in own if id(p) not in taken], "name": name})
        adam = torch.optim.Adam(rest, lr=chosen.rate, betas=(chosen.momentum, 0.99))
        if chosen.optimizer == "Adam":
            return adam
        # this scale makes a step as long as Adam's, so that one learning rate fits both
        muon = torch.optim.Muon(
            hidden,
            lr=chosen.rate,
            weight_decay=0.0,
            momentum=chosen.momentum,
            nesterov=chosen.nesterov,
            adjust_lr_fn="match_rms_adamw",
        )
        return [muon, adam]


def history(setting: Setting, seed: int, steps: int, every: int, folder: Path) -> list[dict[str, Any]]:
    """Modes and good samples along a run, which is made if it is not in the folder; empty if it diverged."""
    name = re.sub(r"[^a-zA-Z0-9.=]+", "-", f"{'-'.join(map(str, setting))}-{steps}-seed{seed}")
    path = folder / f"{name}.json"
    if not path.is_file():
        seed_everything(seed, verbose=False)
        generator = MLPGenerator(latent_dim=16, width=128)
        module = MuonGAN(setting, generator, MLPDiscriminator(width=128), game=setting.game)
        counter = ModeCounter(every_n_steps=every)
        off: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(
            max_steps=steps,
            accelerator="cpu",
            callbacks=[counter],
            enable_checkpointing=False,
            log_every_n_steps=250,
            **off,
        )
        found: list[dict[str, Any]] = []
        try:
            trainer.fit(module, GaussiansDataModule(batch_size=128, std=0.1))
            found = counter.history
        except DivergenceError as error:
            print(error)
        write_json(path, {"setting": setting._asdict(), "seed": seed, "history": found})
        print(path, found[-1]["values"] if found else "diverged", flush=True)
    kept: list[dict[str, Any]] = json.loads(path.read_text())["history"]
    return kept


def rows() -> dict[str, list[Setting]]:
    """Label -> a setting per learning rate."""
    found = {}
    for optimizer, momentum, nesterov in (
        ("Adam", 0.5, False),
        ("Adam", 0.95, False),
        ("Muon", 0.5, False),
        ("Muon", 0.95, False),
        ("Muon", 0.95, True),
    ):
        law = Setting(optimizer, momentum, nesterov, "", 0.0).law
        games = {"plain play": "AlternatingGDA", "optimistic rule": "OptimisticAdam"}
        couplings = (1.5, 5.0, law) if optimizer == "Muon" and momentum > 0.5 else (law,)
        for a in couplings:
            games[f"extrapolated, a = {a:.4g}"] = f"LEAD(coupling={a:.6g}, cross='extrapolated')"
        if optimizer == "Muon" and momentum > 0.5:
            games[f"exact, a = {law:.4g}"] = f"LEAD(coupling={law:.6g})"
        for label, game in games.items():
            which = f"{optimizer} {momentum:g}{', Nesterov' if nesterov else ''}: {label}"
            found[which] = [Setting(optimizer, momentum, nesterov, game, rate) for rate in RATES]
    return found


def cell(histories: Sequence[list[dict[str, Any]]]) -> str:
    """Modes and the share of good samples at the end, and when all modes are first there."""
    ends = [h[-1]["values"] if h else {"modes": 0.0, "high_quality": 0.0} for h in histories]
    firsts = [next((r["step"] for r in h if r["values"]["modes"] >= EIGHT), math.inf) for h in histories]
    first = statistics.median(firsts)
    modes = statistics.fmean(end["modes"] for end in ends)
    good = statistics.fmean(end["high_quality"] for end in ends)
    return f"{modes:.1f}, {good:.2f}, {f'{first:,.0f}' if math.isfinite(first) else '–'}"


def main() -> None:
    """Play, and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    quiet()
    steps, every, folder, table = 1250, 50, options.output / "muon", rows()
    if options.fast:
        steps, every, folder, options.seeds = 4, 2, options.output / "muon_fast", [0]
        table = {label: settings[:1] for label, settings in table.items() if "0.95" in label}
    folder.mkdir(parents=True, exist_ok=True)
    histories = {  # seed by seed, so that an early look compares all
        (setting, seed): history(setting, seed, steps, every, folder)
        for seed in options.seeds
        for settings in table.values()
        for setting in settings
    }
    rates = [f"rate {setting.rate:g}" for setting in next(iter(table.values()))]
    print("| modes, good samples, all eight first there | " + " | ".join(rates) + " |")
    print("|---" * (1 + len(rates)) + "|")
    for label, settings in table.items():
        cells = [cell([histories[setting, seed] for seed in options.seeds]) for setting in settings]
        print("| " + " | ".join([label, *cells]) + " |")


if __name__ == "__main__":
    main()
