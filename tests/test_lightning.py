"""Lightning under either of its names: which one is in use, and what happens where both are."""

from __future__ import annotations

import ast
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from interpreters import run_after

import lightning_lead
from lightning_lead import ConfigurationError, LeadGANModule, LeadMixin, LeadModule, _lightning

ROOT = Path(lightning_lead.__file__).parent
BOTH = all(find_spec(name) is not None for name in ("lightning", "pytorch_lightning"))
needs_both = pytest.mark.skipif(not BOTH, reason="needs both packages of Lightning")


def choice(monkeypatch: pytest.MonkeyPatch, *, wish: str = "", imported: list[str], installed: list[str]) -> str:
    monkeypatch.setenv("LIGHTNING_LEAD_LIGHTNING", wish)
    monkeypatch.setattr(_lightning, "sys", SimpleNamespace(modules=dict.fromkeys(["torch", *imported])))
    monkeypatch.setattr(_lightning, "find_spec", lambda name: name if name in installed else None)
    return _lightning.lightning_name.__wrapped__()


OLD, NEW = "pytorch_lightning", "lightning.pytorch"


@pytest.mark.parametrize(
    ("wish", "imported", "installed", "found"),
    [
        ("", [], [OLD], OLD),
        ("", [], ["lightning"], NEW),
        ("", [], ["lightning", OLD], OLD),
        ("", [NEW], ["lightning", OLD], NEW),
        ("", [OLD], ["lightning", OLD], OLD),
        ("", [NEW, OLD], ["lightning", OLD], NEW),
        ("", [OLD, NEW], ["lightning", OLD], OLD),
        ("", ["lightning.fabric"], ["lightning", OLD], OLD),
        ("lightning", [OLD], ["lightning", OLD], NEW),
        (OLD, [NEW], ["lightning", OLD], OLD),
    ],
)
def test_the_wish_comes_first_then_what_is_imported_then_what_is_installed(
    wish, imported, installed, found, monkeypatch
):
    assert choice(monkeypatch, wish=wish, imported=imported, installed=installed) == found


def test_without_either_the_error_says_what_to_install(monkeypatch):
    with pytest.raises(ConfigurationError, match="pip install pytorch-lightning, or pip install lightning"):
        choice(monkeypatch, imported=[], installed=[])


@pytest.mark.parametrize("wish", ["Lightning", "lightning.pytorch", "pl"])
def test_an_unknown_wish_is_an_error(wish, monkeypatch):
    with pytest.raises(ConfigurationError, match=rf"LIGHTNING_LEAD_LIGHTNING='{wish}'.*pytorch_lightning, lightning"):
        choice(monkeypatch, wish=wish, imported=[], installed=[OLD])


def test_one_module_alone_imports_lightning():
    importing = set()
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if any(name.split(".")[0] in ("lightning", "pytorch_lightning", "lightning_fabric") for name in names):
                importing.add(file.name)
    assert importing == {"_lightning.py"}


def test_every_name_is_found_and_is_of_the_package_in_use():
    for name in _lightning.__all__:
        assert getattr(_lightning, name) is not None
    assert issubclass(LeadMixin, pl.LightningModule)
    assert pl.Trainer is _lightning.Trainer
    with pytest.raises(AttributeError, match="no attribute 'Fabric'"):
        _lightning.Fabric  # noqa: B018


@pytest.mark.parametrize("base", [LeadMixin, LeadModule, LeadGANModule])
def test_a_class_of_both_packages_is_refused(base):
    mine = _lightning.lightning_name()
    other = NEW if mine == OLD else OLD
    foreign = type("LightningModule", (torch.nn.Module,), {"__module__": f"{other}.core.module"})
    told = rf"Cannot build GAN .* {other}\.LightningModule, .* uses {mine}; import {other} before"
    with pytest.raises(ConfigurationError, match=told):
        type("GAN", (base, foreign), {})


SCRIPT = """
{imports}
from lightning_lead import GeneratorEMA, LeadGANModule, LeadMixin, LEADStrategy
import torch
from torch import nn

class Saddle(LeadMixin, {lightning}.LightningModule):
    def __init__(self):
        super().__init__(game=LEADStrategy(0.5))
        self.x, self.y = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    def players(self):
        return {{"x": [self.x], "y": [self.y]}}
    def player_losses(self, batch):
        return {{"x": (self.x * self.y).sum(), "y": -(self.x * self.y).sum()}}
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

quiet = dict(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False)
gan = LeadGANModule(nn.Linear(2, 2), nn.Linear(2, 1), latent_dim=2)
{lightning}.Trainer(**quiet).fit(Saddle(), torch.utils.data.DataLoader(torch.zeros(8, 1), 2))
trainer = {lightning}.Trainer(**quiet, callbacks=[GeneratorEMA(halflife_images=9)])
trainer.fit(gan, torch.utils.data.DataLoader(torch.zeros(8, 2), 2))
print("trained")
"""


@needs_both
@pytest.mark.parametrize(
    ("imports", "lightning", "wish"),
    [
        ("import lightning as L", "L", ""),
        ("import pytorch_lightning as pl", "pl", ""),
        ("import lightning_lead.rules\nimport lightning as L", "L", ""),  # which needs no Lightning
        ("import pytorch_lightning\nimport lightning as L", "L", "lightning"),
    ],
)
def test_modules_of_either_package_train(imports, lightning, wish):
    script = SCRIPT.format(imports=imports, lightning=lightning)
    done = run_python(script, wish)
    assert done.returncode == 0, done.stderr
    assert "trained" in done.stdout


@needs_both
def test_a_mixture_says_which_is_which():
    script = SCRIPT.format(imports="from lightning_lead import LeadModule\nimport lightning as L", lightning="L")
    done = run_python(script, "pytorch_lightning")
    assert done.returncode != 0
    assert "it derives from lightning.pytorch.LightningModule, and lightning_lead uses pytorch_lightning" in done.stderr


def run_python(script: str, wish: str) -> subprocess.CompletedProcess[str]:
    """After torch and torchmetrics, which know neither package."""
    return run_after(["torch", "torchmetrics"], script, env=os.environ | {"LIGHTNING_LEAD_LIGHTNING": wish})
