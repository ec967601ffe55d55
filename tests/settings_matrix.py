"""Tries every rule under every Trainer setting, and prints what becomes of it as the table of docs/refusals.md.

    python tests/settings_matrix.py [--write]

A cell is one fit of a few game steps of a tiny GAN; "yes" if it trains, "no" if it is refused by name.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from tiny import TinyGenerator, tiny_points
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_lead import ConfigurationError, DifferentiationError, LeadGANModule
from lightning_lead.engine.named_rules import game_names

PAGE = Path(__file__).parents[1] / "docs" / "refusals.md"
BEGIN, END = "<!-- settings matrix -->\n", "<!-- end of the settings matrix -->\n"

FORMS = {
    "LEAD, exact": "LEAD(coupling=1.0)",
    "LEAD, exact, own form": "LEAD(coupling=1.0, form='own')",
    "LEAD, difference": "LEAD(coupling=1.0, cross='difference')",
    "LEAD, extrapolated": "LEAD(coupling=1.0, cross='extrapolated')",
    "LEAD, auto": "LEAD(coupling=1.0, cross='auto')",
    "ODEGAN, regularised": "ODEGAN(regularization=0.01)",
    "ODEGAN": "ODEGAN(regularization=0.0)",
}
GAMES = {name: name for name in game_names() if name not in ("LEAD", "ODEGAN")} | FORMS


class Checkpointed(nn.Sequential):
    """Forgets its activations."""

    reentrant = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + checkpoint(super().forward, x, use_reentrant=self.reentrant)


class Reentrant(Checkpointed):
    """Forgets them in the way that only `backward()` gets through."""

    reentrant = True


def networks(middle: Callable[..., nn.Module] = nn.Sequential) -> tuple[nn.Module, nn.Module]:
    """Both networks, in float32."""
    torch.manual_seed(5)
    layers = [middle(nn.Linear(6, 6), nn.Tanh()) for _ in range(2)]
    generator = TinyGenerator(nn.Linear(3, 6), layers[0], nn.Linear(6, 2))
    return generator, nn.Sequential(nn.Linear(2, 6), layers[1], nn.Linear(6, 1))


def compiled() -> tuple[nn.Module, nn.Module]:
    """Both networks, compiled in place; without code of their own, which a refusal does not depend on."""
    found = networks()
    for network in found:
        network.compile(backend="eager")
    return found


def sgd(groups: Any) -> torch.optim.Optimizer:
    """The optimizer that every rule takes, in every precision."""
    return torch.optim.SGD(groups)


def _half() -> dict[str, Any]:
    return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))]}


SETTINGS: dict[str, tuple[Callable[[], tuple[nn.Module, nn.Module]], Callable[[], dict[str, Any]]]] = {
    "`32-true`": (networks, dict),
    "`bf16-mixed`": (networks, lambda: {"precision": "bf16-mixed"}),
    "`16-mixed`": (networks, _half),
    "`bf16-true`": (networks, lambda: {"precision": "bf16-true"}),
    "`16-true`": (networks, lambda: {"precision": "16-true"}),
    "compiled": (compiled, dict),
    "checkpointed": (lambda: networks(Checkpointed), dict),
    "reentrant": (lambda: networks(Reentrant), dict),
}


def outcome(game: str, precision: str, kind: str | None = None) -> str:
    """Return "yes" or "no", or raise what is no refusal.

    Args:
        game: as `game=` takes it.
        precision: a setting.
        kind: another one, whose networks are played.
    """
    make, trainer = SETTINGS[kind or precision][0], SETTINGS[precision][1]
    settings = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False} | trainer()
    module = LeadGANModule(*make(), game=game, optimizer=sgd, generator_lr=0.1, discriminator_lr=0.1)
    before = torch.cat([p.detach().reshape(-1).float() for p in module.parameters()])
    data = DataLoader(TensorDataset(tiny_points(48, dtype=torch.float32)), 24)
    try:
        # in fp16 the first turns may overflow, which halves the scale
        pl.Trainer(max_steps=8 if "16-true" in precision else 2, **settings).fit(module, data)
    except (ConfigurationError, DifferentiationError):
        return "no"
    after = torch.cat([p.detach().reshape(-1).float() for p in module.parameters()])
    skipped = module.game.skipped > 6 if "16-true" in precision else module.game.skipped
    if not torch.isfinite(after).all() or torch.equal(before, after) or skipped:
        raise AssertionError(f"{game} under {precision} ({kind}) neither trains nor is refused")
    return "yes"


def rows(games: Iterable[str] = GAMES, settings: Iterable[str] = tuple(SETTINGS)) -> dict[str, list[str]]:
    """Return label -> an outcome per setting."""
    return {label: [outcome(GAMES[label], setting) for setting in settings] for label in games}


def table(found: dict[str, list[str]]) -> str:
    """Return outcomes in Markdown; rules that agree share a row."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for label, cells in found.items():
        alike.setdefault(tuple(cells), []).append(label)
    lines = ["| | " + " | ".join(SETTINGS) + " |", "|---" * (len(SETTINGS) + 1) + "|"]
    lines += ["| " + " | ".join(["; ".join(labels), *cells]) + " |" for cells, labels in alike.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel("ERROR")
    found = table(rows())
    if not options.write:
        print(found)
        return
    text = PAGE.read_text(encoding="utf-8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    PAGE.write_text(text[:begin] + found + text[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
