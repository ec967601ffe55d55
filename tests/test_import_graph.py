"""The import graph has no cycle, imports for type checking included, and some rooms may not import others.

The edges are read from the syntax trees, so an import inside of a function counts as well. A room is a package, or a
module directly under `lightning_lead`.
"""

import ast
import functools
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from test_imports import loaded_modules

import lightning_lead

ROOT = Path(lightning_lead.__file__).parent
NAME = "lightning_lead"

LIGHTNING = {"_lightning", "lightning", "lightning_fabric", "pytorch_lightning", "torchmetrics"}
COMMANDS = {"cli", "compare", "evaluate", "recipe"}
# room -> what none of its imports may be: other rooms, or libraries. Cycles are forbidden everywhere.
FORBIDDEN = {
    "calculus": {*LIGHTNING, *COMMANDS, "engine", "rules", "games", "gan", "training"},
    "rules": {*LIGHTNING, *COMMANDS, "engine", "games", "gan", "training", "torchvision"},
    "constraints": {*LIGHTNING, *COMMANDS, "calculus", "rules", "engine", "training"},
    "games": {*LIGHTNING, *COMMANDS, "rules", "engine"},
    "objectives": {*LIGHTNING, *COMMANDS, "calculus", "rules", "engine", "gan"},
    "networks": {*LIGHTNING, *COMMANDS, "calculus", "rules", "engine", "gan", "features"},
    "engine": {*LIGHTNING, *COMMANDS, "gan", "training", "analysis", "physics", "checkpoints", "callbacks"},
    "training": {*COMMANDS, "gan", "callbacks", "metrics", "analysis", "physics"},
    "gan": {*COMMANDS, "callbacks", "metrics", "features", "data", "analysis", "physics"},
    "domains": {*COMMANDS, "gan", "callbacks", "metrics", "features", "data", "analysis", "physics"},
    "robust": {*COMMANDS, "callbacks", "metrics", "features", "data", "analysis", "physics", "gan"},
    "metrics": {*COMMANDS, "gan", "training", "engine", "callbacks", "_lightning"},
    "callbacks": {*COMMANDS},
    "fetch": {*LIGHTNING, *COMMANDS},
}


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for file in sorted(root.rglob("*.py")):
        parts = [NAME, *file.relative_to(root).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def targets(file: Path, known: Mapping[str, Path], package: str) -> Iterator[str]:
    """What a file imports: modules of the package by their names, and other libraries by their first part."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            prefix = ".".join(part for part in (base, node.module) if part)
            names = [f"{prefix}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] != NAME:
                yield name.split(".")[0]
                continue
            first = name.split(".")[1]
            lazy = lightning_lead._EXPORTS.get(first)
            if lazy is not None:
                yield lazy
            else:
                yield name if name in known else name.rpartition(".")[0]


def graph(root: Path) -> dict[str, set[str]]:
    """Module -> what it imports. The top of the package loads everything lazily, and is no part of a cycle."""
    known = modules(root)
    edges = {}
    for name, file in known.items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        edges[name] = {target for target in targets(file, known, package) if target not in (name, NAME)}
    edges.pop(NAME, None)
    # a package that hands out names of its own modules is no cycle with them
    return {name: {t for t in found if not t.startswith(f"{name}.")} for name, found in edges.items()}


def room(name: str) -> str:
    """The package or module under the top that a name belongs to; other libraries are their own."""
    parts = name.split(".")
    return parts[1] if parts[0] == NAME and len(parts) > 1 else parts[0]


def rooms(edges: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Room -> rooms and libraries that it imports."""
    found: dict[str, set[str]] = {}
    for name, imported in edges.items():
        found.setdefault(room(name), set()).update(room(target) for target in imported)
    return {name: imported - {name} for name, imported in found.items()}


def cycle(edges: Mapping[str, set[str]]) -> list[str]:
    """One cycle, or nothing."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@functools.cache
def own_graph() -> dict[str, set[str]]:
    """Of the package itself."""
    return graph(ROOT)


def test_modules_and_rooms_have_no_cycle() -> None:
    edges = own_graph()
    assert len(edges) > 100
    assert cycle(edges) == []
    assert cycle(rooms(edges)) == []


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_room_imports_nothing_that_it_may_not(name: str) -> None:
    assert rooms(own_graph())[name] & FORBIDDEN[name] == set()


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("rules/bad.py", "from lightning_lead.engine.strategy import GameStrategy"),
        ("rules/bad.py", "from lightning_lead import GameStrategy"),
        ("rules/bad.py", "def f():\n    import lightning_lead.cli"),
        ("rules/bad.py", "from ..engine import step"),
        ("rules/bad.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lightning_lead import cli"),
        ("calculus/bad.py", "import pytorch_lightning"),
        ("metrics/bad.py", "from lightning_lead._lightning import Trainer"),
    ],
)
def test_the_checker_finds_a_bad_import(tmp_path: Path, file: str, source: str) -> None:
    for name in ("_lightning.py", "engine/strategy.py", "engine/step.py", "engine/__init__.py", "cli.py", file):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source if name == file else "")
    name = file.split("/")[0]
    assert rooms(graph(tmp_path))[name] & FORBIDDEN[name]


def test_the_checker_finds_a_cycle_that_is_for_type_checking_alone(tmp_path: Path) -> None:
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lightning_lead.{} import x"
    (tmp_path / "a.py").write_text(hidden.format("b"))
    (tmp_path / "b.py").write_text("from lightning_lead.a import y")
    assert set(cycle(graph(tmp_path))) == {"lightning_lead.a", "lightning_lead.b"}


@pytest.mark.parametrize(("name", "budget"), [("LEADStrategy", 42), ("GeneratorEMA", 70)])
def test_a_name_loads_few_modules(name: str, budget: int) -> None:
    assert len(loaded_modules(f"from lightning_lead import {name}")) < budget


def test_what_knows_torch_alone_loads_without_lightning() -> None:
    heavy = {*LIGHTNING, "torchvision", "sklearn", "scipy", "jsonargparse", "PIL"}
    lower = ("calculus", "rules", "games", "objectives", "networks", "engine")
    assert loaded_modules("\n".join(f"import lightning_lead.{name}" for name in lower), heavy) == []
    assert loaded_modules("from lightning_lead import GeneratorEMA", {"pytorch_lightning", "lightning"})
