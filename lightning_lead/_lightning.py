"""Lightning by either of its names: the package `lightning`, or the package `pytorch_lightning` of the same release.

Their classes are different ones, so a Trainer of the one takes no module of the other. This package uses one of them
throughout, chosen when a name below is first asked for: what `LIGHTNING_LEAD_LIGHTNING` says; or else the package that
is imported already, of both the first; or else the one that is installed, of both `pytorch_lightning`. No other module
imports either.
"""

from __future__ import annotations

import functools
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lightning_lead._errors import ConfigurationError

if TYPE_CHECKING:  # the same names as below, where type checkers and editors can see them
    from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
    from pytorch_lightning.callbacks import (
        BasePredictionWriter,
        BatchSizeFinder,
        EarlyStopping,
        LearningRateFinder,
        ModelCheckpoint,
        StochasticWeightAveraging,
        WeightAveraging,
    )
    from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, LRSchedulerCallable, OptimizerCallable
    from pytorch_lightning.loggers import TensorBoardLogger
    from pytorch_lightning.plugins.io import TorchCheckpointIO
    from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
    from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
    from pytorch_lightning.utilities.data import extract_batch_size

    lightning_version: str

__all__ = [
    "BasePredictionWriter",
    "BatchSizeFinder",
    "Callback",
    "DeepSpeedStrategy",
    "EarlyStopping",
    "FSDPStrategy",
    "LRSchedulerCallable",
    "LearningRateFinder",
    "LightningArgumentParser",
    "LightningCLI",
    "LightningDataModule",
    "LightningModule",
    "ModelCheckpoint",
    "ModelParallelStrategy",
    "OptimizerCallable",
    "StochasticWeightAveraging",
    "TensorBoardLogger",
    "TorchCheckpointIO",
    "Trainer",
    "WeightAveraging",
    "extract_batch_size",
    "lightning_name",
    "lightning_version",
    "rank_zero_info",
    "rank_zero_warn",
    "refuse_mixture",
]

VARIABLE = "LIGHTNING_LEAD_LIGHTNING"
PACKAGES = {"pytorch_lightning": "pytorch_lightning", "lightning": "lightning.pytorch"}

_HOMES = {
    "": "Callback LightningDataModule LightningModule Trainer",
    ".callbacks": "BasePredictionWriter BatchSizeFinder EarlyStopping LearningRateFinder ModelCheckpoint "
    "StochasticWeightAveraging WeightAveraging",
    ".cli": "LightningArgumentParser LightningCLI LRSchedulerCallable OptimizerCallable",
    ".loggers": "TensorBoardLogger",
    ".plugins.io": "TorchCheckpointIO",
    ".strategies": "DeepSpeedStrategy FSDPStrategy ModelParallelStrategy",
    ".utilities": "rank_zero_info rank_zero_warn",
    ".utilities.data": "extract_batch_size",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


@functools.cache
def lightning_name() -> str:
    """The package in use, "pytorch_lightning" or "lightning.pytorch"; the same one from the first call on.

    Raises:
        ConfigurationError: neither is installed, or the environment names another.
    """
    wish = os.environ.get(VARIABLE)
    if wish:
        if wish not in PACKAGES:
            raise ConfigurationError(f"Cannot use {VARIABLE}={wish!r}; set it to one of {', '.join(PACKAGES)}")
        return PACKAGES[wish]
    imported = [name for name in sys.modules if name in PACKAGES.values()]  # in the order of their imports
    if imported:
        return imported[0]
    for package, name in PACKAGES.items():
        if find_spec(package) is not None:
            return name
    raise ConfigurationError(
        "Cannot find Lightning; install it: pip install pytorch-lightning, or pip install lightning"
    )


def refuse_mixture(cls: type) -> None:
    """Refuse a class that derives from both packages' `LightningModule`, with a ConfigurationError."""
    mine = lightning_name()
    (other,) = set(PACKAGES.values()) - {mine}
    if any(base.__module__.startswith(f"{other}.") for base in cls.__mro__):
        package = next(package for package, name in PACKAGES.items() if name == other)
        raise ConfigurationError(
            f"Cannot build {cls.__name__} because it derives from {other}.LightningModule, and lightning_lead uses "
            f"{mine}; import {other} before lightning_lead, or set {VARIABLE}={package}, or use {mine} throughout"
        )


def __getattr__(name: str) -> Any:
    if name == "lightning_version":
        value = import_module(lightning_name()).__version__
    elif name in _HOME_OF:
        value = getattr(import_module(lightning_name() + _HOME_OF[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # later look-ups skip this function
    return value
