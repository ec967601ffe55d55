"""Let tests and examples, which import `pytorch_lightning`, run where only the package `lightning` is installed.

`make test-lightning` puts this into its environment, where every process loads it. The package itself needs none of it:
there, `import pytorch_lightning` means `lightning.pytorch`, the very same modules.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType

ALIASES = {"pytorch_lightning": "lightning.pytorch", "lightning_fabric": "lightning.fabric"}


class Alias(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Find a module of the one name as that of the other."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Answer for the aliases, and for the modules below them."""
        if fullname.partition(".")[0] not in ALIASES:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Import the module by its own name."""
        package, dot, rest = spec.name.partition(".")
        module = importlib.import_module(ALIASES[package] + dot + rest)
        spec.loader_state = module.__spec__  # which the import that is under way replaces
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own name back; it has run already."""
        spec = module.__spec__
        if spec is not None and spec.loader is self:
            module.__spec__ = spec.loader_state


os.environ.setdefault("LIGHTNING_LEAD_LIGHTNING", "lightning")
sys.meta_path.insert(0, Alias())
