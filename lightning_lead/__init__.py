"""Train GANs and other two-player games with LEAD under PyTorch Lightning.

The names below are loaded on first use (PEP 562), so `import lightning_lead.rules` costs torch and nothing more:
Lightning is imported only when something that needs it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_lead._errors import CheckpointMismatchError, ConfigurationError, DifferentiationError, DivergenceError

if TYPE_CHECKING:  # the same names as in _EXPORTS and _SUBPACKAGES, where type checkers and editors can see them
    from lightning_lead import (
        analysis,
        calculus,
        callbacks,
        checkpoints,
        compare,
        constraints,
        data,
        domains,
        engine,
        evaluate,
        features,
        fetch,
        games,
        gan,
        metrics,
        networks,
        objectives,
        physics,
        pretrained,
        robust,
        rules,
        training,
    )
    from lightning_lead.callbacks import (
        GenerativeMetrics,
        ImageWriter,
        ModeCounter,
        PairedMetrics,
        RobustAccuracy,
        SampleGrid,
        SegmentCheckpoint,
        Throughput,
    )
    from lightning_lead.checkpoints import CompactCheckpointIO
    from lightning_lead.data import (
        CIFAR10DataModule,
        ColouredDigitsDataModule,
        DigitsDataModule,
        GaussiansDataModule,
        ImageFolderDataModule,
        LinearSEMDataModule,
        MoonsDataModule,
        ShiftedDigitsDataModule,
        STL10DataModule,
    )
    from lightning_lead.domains import (
        DANNModule,
        DomainAccuracy,
        ERMModule,
        GroupDROModule,
        IRMGamesModule,
        IRMv1Module,
    )
    from lightning_lead.engine.lead_strategy import LEADStrategy
    from lightning_lead.engine.strategy import GameStrategy
    from lightning_lead.engine.turns import Turn
    from lightning_lead.gan._batch import GANBatch
    from lightning_lead.gan.adversarial import AdversarialModule
    from lightning_lead.gan.ema import GeneratorEMA
    from lightning_lead.gan.module import LeadGANModule
    from lightning_lead.pretrained import load_generator
    from lightning_lead.robust.module import RobustModule
    from lightning_lead.training.mixin import LeadMixin
    from lightning_lead.training.module import LeadModule

__version__ = "0.1.0"

__all__ = [
    # training
    "LEADStrategy",
    "GameStrategy",
    "LeadGANModule",
    "AdversarialModule",
    "RobustModule",
    "LeadModule",
    "LeadMixin",
    "DANNModule",
    "GroupDROModule",
    "IRMGamesModule",
    "IRMv1Module",
    "ERMModule",
    "GANBatch",
    "Turn",
    # around it
    "GenerativeMetrics",
    "SampleGrid",
    "GeneratorEMA",
    "ImageWriter",
    "ModeCounter",
    "PairedMetrics",
    "DomainAccuracy",
    "RobustAccuracy",
    "SegmentCheckpoint",
    "Throughput",
    "CompactCheckpointIO",
    "CIFAR10DataModule",
    "STL10DataModule",
    "ImageFolderDataModule",
    "DigitsDataModule",
    "GaussiansDataModule",
    "ColouredDigitsDataModule",
    "ShiftedDigitsDataModule",
    "MoonsDataModule",
    "LinearSEMDataModule",
    "load_generator",
    # errors
    "ConfigurationError",
    "DifferentiationError",
    "DivergenceError",
    "CheckpointMismatchError",
    # packages
    "analysis",
    "calculus",
    "callbacks",
    "checkpoints",
    "compare",
    "constraints",
    "data",
    "domains",
    "engine",
    "evaluate",
    "features",
    "fetch",
    "games",
    "gan",
    "metrics",
    "networks",
    "objectives",
    "physics",
    "pretrained",
    "robust",
    "rules",
    "training",
    "__version__",
]

_EXPORTS = {  # name -> the module that it is loaded from
    "LEADStrategy": "lightning_lead.engine.lead_strategy",
    "GameStrategy": "lightning_lead.engine.strategy",
    "AdversarialModule": "lightning_lead.gan.adversarial",
    "LeadGANModule": "lightning_lead.gan.module",
    "GANBatch": "lightning_lead.gan._batch",
    "RobustModule": "lightning_lead.robust.module",
    "Turn": "lightning_lead.engine.turns",
    "LeadModule": "lightning_lead.training.module",
    "LeadMixin": "lightning_lead.training.mixin",
    "DANNModule": "lightning_lead.domains",
    "GroupDROModule": "lightning_lead.domains",
    "IRMGamesModule": "lightning_lead.domains",
    "IRMv1Module": "lightning_lead.domains",
    "ERMModule": "lightning_lead.domains",
    "DomainAccuracy": "lightning_lead.domains",
    "GenerativeMetrics": "lightning_lead.callbacks",
    "SampleGrid": "lightning_lead.callbacks",
    "GeneratorEMA": "lightning_lead.gan.ema",
    "ImageWriter": "lightning_lead.callbacks",
    "ModeCounter": "lightning_lead.callbacks",
    "PairedMetrics": "lightning_lead.callbacks",
    "RobustAccuracy": "lightning_lead.callbacks",
    "SegmentCheckpoint": "lightning_lead.callbacks",
    "Throughput": "lightning_lead.callbacks",
    "CompactCheckpointIO": "lightning_lead.checkpoints",
    "CIFAR10DataModule": "lightning_lead.data",
    "STL10DataModule": "lightning_lead.data",
    "ImageFolderDataModule": "lightning_lead.data",
    "DigitsDataModule": "lightning_lead.data",
    "GaussiansDataModule": "lightning_lead.data",
    "ColouredDigitsDataModule": "lightning_lead.data",
    "ShiftedDigitsDataModule": "lightning_lead.data",
    "MoonsDataModule": "lightning_lead.data",
    "LinearSEMDataModule": "lightning_lead.data",
    "load_generator": "lightning_lead.pretrained",
}
_SUBPACKAGES = (
    "analysis",
    "calculus",
    "callbacks",
    "checkpoints",
    "compare",
    "constraints",
    "data",
    "domains",
    "engine",
    "evaluate",
    "features",
    "fetch",
    "games",
    "gan",
    "metrics",
    "networks",
    "objectives",
    "physics",
    "pretrained",
    "robust",
    "rules",
    "training",
)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(import_module(_EXPORTS[name]), name)
        globals()[name] = value  # later look-ups skip this function
        return value
    if name in _SUBPACKAGES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
