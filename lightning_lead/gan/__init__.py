"""GANs as games: the problem without a trainer, the module with one, and the average of the generator."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as in _EXPORTS, where type checkers and editors can see them
    from lightning_lead.gan.batch import GANBatch
    from lightning_lead.gan.ema import GeneratorEMA
    from lightning_lead.gan.module import LeadGANModule
    from lightning_lead.gan.problem import GANProblem

__all__ = ["GANBatch", "GANProblem", "GeneratorEMA", "LeadGANModule"]

_EXPORTS = {  # name -> the module that it is loaded from, on first use
    "GANBatch": "lightning_lead.gan.batch",
    "GANProblem": "lightning_lead.gan.problem",
    "GeneratorEMA": "lightning_lead.gan.ema",
    "LeadGANModule": "lightning_lead.gan.module",
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = globals()[name] = getattr(import_module(_EXPORTS[name]), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
