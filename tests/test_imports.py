"""What an import loads, counted in modules; seconds would be those of a machine."""

import functools

import pytest
from interpreters import run_after

TORCH = {"torch", "numpy"}  # numpy comes with torch
LIGHTNING = {"lightning", "lightning_fabric", "pytorch_lightning", "torchmetrics"}
HEAVY = TORCH | LIGHTNING | {"jsonargparse", "matplotlib", "PIL", "scipy", "sklearn", "torchvision"}


def loaded_modules(code: str, packages: set[str] | None = None, *, after_torch: bool = True) -> list[str]:
    """What an interpreter has loaded of some packages when it has run some code.

    Args:
        code: to run.
        packages: their names; default this one.
        after_torch: whether torch is there already, so that it is found whatever the code imports.
    """
    packages = packages or {"lightning_lead"}
    return sorted(name for name in _all_modules(code, after_torch) if name.partition(".")[0] in packages)


@functools.cache
def _all_modules(code: str, after_torch: bool) -> list[str]:
    script = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')"
    result = run_after(["torch"] if after_torch else [], script)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.parametrize(
    ("code", "budget", "allowed"),
    [
        ("import lightning_lead", 3, set()),
        ("import lightning_lead.cli", 5, set()),
        ("import lightning_lead.rules", 4, set()),
        ("from lightning_lead.rules import LEAD", 40, TORCH),
        ("from lightning_lead import LEADStrategy", 41, TORCH),
    ],
)
def test_an_import_stays_within_its_budget(code: str, budget: int, allowed: set[str]) -> None:
    loaded = loaded_modules(code, HEAVY | {"lightning_lead"}, after_torch="torch" in allowed)
    assert {name.partition(".")[0] for name in loaded} - {"lightning_lead"} <= allowed
    own = [name for name in loaded if name.partition(".")[0] == "lightning_lead"]
    assert len(own) <= budget, "\n".join(own)


def test_modules_are_counted_when_they_are_loaded() -> None:
    """The control: the counts above are not those of an interpreter that hides its modules."""
    assert loaded_modules("import lightning_lead.rules; lightning_lead.rules.LEAD", {"torch"}, after_torch=False)
    assert loaded_modules("from lightning_lead import GeneratorEMA", LIGHTNING)
    own = loaded_modules("import lightning_lead", after_torch=False)
    assert own[0] == "lightning_lead"
    assert len(own) < len(loaded_modules("import lightning_lead.games"))
