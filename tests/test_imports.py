"""What an import loads, counted in modules; seconds would be those of a machine."""

import functools
import subprocess
import sys

import pytest

TORCH = {"torch", "numpy"}  # numpy comes with torch
LIGHTNING = {"lightning", "lightning_fabric", "pytorch_lightning", "torchmetrics"}
HEAVY = TORCH | LIGHTNING | {"jsonargparse", "matplotlib", "PIL", "scipy", "sklearn", "torchvision"}


def loaded_modules(code: str, packages: set[str] | None = None) -> list[str]:
    """Run code in a new interpreter; return what it has loaded of some packages, by default of this one."""
    packages = packages or {"lightning_lead"}
    return sorted(name for name in _all_modules(code) if name.partition(".")[0] in packages)


@functools.cache
def _all_modules(code: str) -> list[str]:
    script = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return result.stdout.splitlines()


@pytest.mark.parametrize(
    ("code", "budget", "allowed"),
    [
        ("import lightning_lead", 3, set()),
        ("import lightning_lead.cli", 5, set()),
        ("import lightning_lead.rules", 4, set()),
        ("from lightning_lead.rules import LEAD", 40, TORCH),
        ("from lightning_lead import LEADStrategy", 39, TORCH),
    ],
)
def test_an_import_stays_within_its_budget(code: str, budget: int, allowed: set[str]) -> None:
    loaded = loaded_modules(code, HEAVY | {"lightning_lead"})
    assert {name.partition(".")[0] for name in loaded} - {"lightning_lead"} <= allowed
    own = [name for name in loaded if name.partition(".")[0] == "lightning_lead"]
    assert len(own) <= budget, "\n".join(own)


def test_modules_are_counted_when_they_are_loaded() -> None:
    """The control: the counts above are not those of an interpreter that hides its modules."""
    assert loaded_modules("from lightning_lead.rules import LEAD", {"torch"})
    assert loaded_modules("import lightning_lead; lightning_lead.LeadModule", LIGHTNING)
    own = loaded_modules("import lightning_lead")
    assert own[0] == "lightning_lead"
    assert len(own) < len(loaded_modules("import lightning_lead.games"))
