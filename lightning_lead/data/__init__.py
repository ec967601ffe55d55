"""Data modules for images and for mixtures of Gaussians, and the loader that resumes in mid-epoch."""

from lightning_lead.data.cifar10 import CIFAR10DataModule
from lightning_lead.data.digits import DigitsDataModule
from lightning_lead.data.gaussians import GaussiansDataModule, ModeCoverage, modes_covered
from lightning_lead.data.loader import EpochSampler, ResumableDataLoader

__all__ = [
    "CIFAR10DataModule",
    "DigitsDataModule",
    "GaussiansDataModule",
    "ModeCoverage",
    "modes_covered",
    "ResumableDataLoader",
    "EpochSampler",
]
