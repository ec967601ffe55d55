"""What stands under "Example:" in a docstring is code, as what stands under "Examples:" is: a section of its own."""

from __future__ import annotations

from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Rename the section before docstrings are parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Of every class, function and module."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
