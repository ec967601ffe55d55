"""Imports only go down: floors 0 to 2 know torch alone, and nothing below floor 4 knows Lightning.

The edges are read from the syntax trees, so an import inside a function counts as well; imports under `TYPE_CHECKING`
cost nothing at run time and may point anywhere.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightning_lead

ROOT = Path(lightning_lead.__file__).parent
NAME = "lightning_lead"

# Component (a package or a module directly under lightning_lead) -> floor.
FLOORS = {
    "__init__": 0,
    "_deprecation": 0,
    "_errors": 0,
    "_hashing": 0,
    "_files": 0,
    "_checks": 0,
    "_images": 0,
    "_typing": 0,
    "calculus": 1,
    "fetch": 1,
    "rules": 2,
    "games": 2,
    "features": 2,
    "networks": 2,
    "objectives": 2,
    "analysis": 3,
    "reduction": 4,
    "probe": 4,
    "strategy": 4,
    "systems": 4,
    "checkpoints": 4,
    "turns": 4,
    "evaluation": 4,
    "game_step": 4,
    "mixin": 4,
    "module": 4,
    "gan": 4,
    "metrics": 4,
    "callbacks": 4,
    "data": 4,
    "cli": 5,
    "recipe": 5,
    "compare": 5,
    "evaluate": 5,
}
# On one floor the components stand apart, except for these (importer, imported): the order in which floor 4 is built.
NEIGHBOURS = {
    ("strategy", "reduction"),
    ("systems", "strategy"),
    ("mixin", "strategy"),
    ("mixin", "systems"),
    ("mixin", "reduction"),
    ("mixin", "probe"),
    ("mixin", "checkpoints"),
    ("mixin", "turns"),
    ("mixin", "evaluation"),
    ("mixin", "game_step"),
    ("game_step", "turns"),
    ("evaluation", "turns"),
    ("module", "mixin"),
    ("module", "strategy"),
    ("gan", "turns"),
    ("gan", "evaluation"),
    ("gan", "probe"),
    ("gan", "module"),
    ("gan", "strategy"),
    ("gan", "callbacks"),
    ("callbacks", "data"),
    ("callbacks", "metrics"),
    ("metrics", "callbacks"),  # its extractor, which is on the move
    ("callbacks", "checkpoints"),
    ("cli", "recipe"),
    ("cli", "compare"),
    ("cli", "evaluate"),
    ("compare", "recipe"),
    ("compare", "evaluate"),
    ("evaluate", "recipe"),
}
# Besides torch and the standard library, a floor may use:
ALLOWED = {0: set(), 1: set(), 2: set(), 3: {"scipy", "numpy"}}
# and a component, inside its functions or in a module that one loads, as tests/fetch/test_archives.py and
# test_lower_floors_load_without_lightning show:
ALSO = {
    "fetch": {"filelock", "numpy", "PIL", "torchvision", "tqdm"},
    "features": {"torch_fidelity", "torchvision"},
    "_images": {"torchvision"},
}


def imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements that run, at any depth; what stands under `if TYPE_CHECKING` is passed over."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for branch in node.orelse:
                yield from imports(ast.Module([branch], []))
        else:
            yield from imports(node)


def targets(file: Path, root: Path) -> Iterator[str]:
    """Absolute dotted names that a file imports, `from a import b` given as "a.b"."""
    package = [NAME, *file.relative_to(root).parent.parts]
    for node in imports(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            continue
        base = package[: len(package) - node.level + 1] if node.level else []
        prefix = ".".join([*base, *([node.module] if node.module else [])])
        yield from (f"{prefix}.{alias.name}" for alias in node.names)


def component(dotted: str) -> str:
    """Component that an absolute name inside the package belongs to, lazy exports resolved."""
    parts = dotted.split(".")
    if len(parts) == 1:
        return "__init__"
    where = lightning_lead._EXPORTS.get(parts[1])
    if where is not None:
        return where.split(".")[1]
    return parts[1] if parts[1] in FLOORS else "__init__"


def violations(root: Path) -> list[str]:
    """Every import of the tree that goes up, sideways, or out to what its floor may not use."""
    found = []
    for file in sorted(root.rglob("*.py")):
        here = file.relative_to(root).parts[0].removesuffix(".py")
        if here not in FLOORS:
            found.append(f"{file.relative_to(root)}: {here} has no floor; give it one in FLOORS")
            continue
        for target in targets(file, root):
            top = target.split(".")[0]
            if top == NAME:
                there = component(target)
                up = FLOORS[there] > FLOORS[here]
                sideways = FLOORS[there] == FLOORS[here] > 0 and there != here and (here, there) not in NEIGHBOURS
                if up or sideways:
                    found.append(f"{file.relative_to(root)}: {here} may not import {target}")
            elif top not in {*sys.stdlib_module_names, "torch"} | ALLOWED.get(FLOORS[here], {top}) | ALSO.get(
                here, set()
            ):
                found.append(f"{file.relative_to(root)}: floor {FLOORS[here]} may not import {target}")
    return found


def test_imports_only_go_down() -> None:
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("rules/bad.py", "from lightning_lead.strategy import GameStrategy", "rules may not import"),
        ("rules/bad.py", "from lightning_lead import GameStrategy", "rules may not import"),
        ("rules/bad.py", "from lightning_lead import games", "rules may not import"),
        ("rules/bad.py", "from ..networks import mlp", "rules may not import"),
        ("rules/bad.py", "def f():\n    import lightning_lead.cli", "rules may not import"),
        ("calculus/deep/bad.py", "from ...rules import lead", "calculus may not import"),
        ("calculus/bad.py", "import pytorch_lightning", "floor 1 may not import"),
        ("fetch/bad.py", "import scipy", "floor 1 may not import"),
        ("features/bad.py", "try:\n    import numpy\nexcept ImportError:\n    pass", "floor 2 may not import"),
        ("rules/bad.py", "import torchvision", "floor 2 may not import"),
        ("_errors.py", "from lightning_lead.calculus import players", "_errors may not import"),
        ("strategy.py", "from lightning_lead.gan import LeadGANModule", "strategy may not import"),
        ("gan/bad.py", "from lightning_lead.cli import main", "gan may not import"),
        ("helpers.py", "", "helpers has no floor"),
    ],
)
def test_the_checker_finds_a_bad_import(tmp_path: Path, file: str, source: str, complaint: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    assert [complaint in message for message in violations(tmp_path)] == [True]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("rules/good.py", "import math, torch.nn\nfrom lightning_lead.calculus import players\nfrom .base import x"),
        ("rules/good.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lightning_lead import cli"),
        ("rules/good.py", "from lightning_lead import ConfigurationError, __version__"),
        ("fetch/good.py", "def f():\n    import numpy"),
        ("analysis/good.py", "import scipy.linalg"),
        ("features/good.py", "from torchvision.models import inception"),
        ("gan/good.py", "import pytorch_lightning\nfrom lightning_lead.module import LeadModule"),
    ],
)
def test_the_checker_lets_a_good_import_pass(tmp_path: Path, file: str, source: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    assert violations(tmp_path) == []


def test_lower_floors_load_without_lightning() -> None:
    lower = [name for name, floor in FLOORS.items() if floor <= 2 and (ROOT / name / "__init__.py").is_file()]
    assert {"calculus", "rules", "games"} <= set(lower)
    heavy = ["pytorch_lightning", "lightning_fabric", "torchmetrics", "torchvision", "sklearn", "scipy", "jsonargparse"]
    heavy += ["PIL"]
    script = (
        f"import sys, {', '.join(f'{NAME}.{name}' for name in lower)}\n"
        f"print([name for name in {heavy!r} if name in sys.modules])\n"
        f"import {NAME}\n{NAME}.LeadModule\n"  # the control: this one does need Lightning
        "print('pytorch_lightning' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[]", "True"]
