"""GANs as games: the problem without a trainer, the module with one, and the average of the generator."""

from typing import TYPE_CHECKING, Any

from lightning_lead._lazy import lazy_attributes

if TYPE_CHECKING:  # the same names as below, where type checkers and editors can see them
    from lightning_lead.gan._batch import GANBatch
    from lightning_lead.gan._problem import GANProblem
    from lightning_lead.gan.adversarial import AdversarialModule
    from lightning_lead.gan.augmentation import AdaptiveAugment, DiffAugment
    from lightning_lead.gan.ema import GeneratorEMA
    from lightning_lead.gan.module import LeadGANModule

__all__ = [
    "AdaptiveAugment",
    "AdversarialModule",
    "DiffAugment",
    "GANBatch",
    "GANProblem",
    "GeneratorEMA",
    "LeadGANModule",
]

__getattr__: Any = lazy_attributes(
    __name__,
    {
        ".adversarial": "AdversarialModule",
        ".augmentation": "AdaptiveAugment DiffAugment",
        ".ema": "GeneratorEMA",
        ".module": "LeadGANModule",
        "._batch": "GANBatch",
        "._problem": "GANProblem",
    },
)
