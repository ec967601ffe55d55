"""Run by `make wheel-test` in an environment that holds the built wheel: is everything a user needs inside it?"""

import sys
from importlib import import_module, metadata
from pathlib import Path

import torch

import lightning_lead


def main() -> None:
    root = Path(lightning_lead.__file__).parent
    assert root.is_relative_to(sys.prefix), f"imported from {root}, not from the wheel in {sys.prefix}"
    assert metadata.version("lightning-lead") == lightning_lead.__version__
    assert (root / "py.typed").is_file(), "py.typed is missing: type checkers would ignore the annotations"
    weights = sorted((root / "features" / "weights").glob("*.pt"))
    assert weights, "the weights of the digits classifier are missing"
    for file in weights:
        torch.load(file, weights_only=True)

    for name in lightning_lead.__all__:
        getattr(lightning_lead, name)
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root.parent).with_suffix("").parts
        import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


if __name__ == "__main__":
    main()
