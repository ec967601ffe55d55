"""Data modules for images, mixtures of Gaussians and several domains, and the loader that resumes in mid-epoch."""

from lightning_lead.data._domain_base import AbstractDomainDataModule, DomainSamples
from lightning_lead.data.cifar10 import CIFAR10DataModule
from lightning_lead.data.coloured_digits import ColouredDigitsDataModule
from lightning_lead.data.digits import DigitsDataModule
from lightning_lead.data.gaussians import GaussiansDataModule, ModeCoverage, modes_covered
from lightning_lead.data.image_folder import ImageFolderDataModule
from lightning_lead.data.linear_sem import LinearSEMDataModule
from lightning_lead.data.loader import EpochSampler, ResumableDataLoader
from lightning_lead.data.moons import MoonsDataModule
from lightning_lead.data.shifted_digits import ShiftedDigitsDataModule
from lightning_lead.data.stacked_digits import StackedDigitsDataModule
from lightning_lead.data.stl10 import STL10DataModule

__all__ = [
    "CIFAR10DataModule",
    "STL10DataModule",
    "ImageFolderDataModule",
    "DigitsDataModule",
    "StackedDigitsDataModule",
    "GaussiansDataModule",
    "ColouredDigitsDataModule",
    "ShiftedDigitsDataModule",
    "MoonsDataModule",
    "LinearSEMDataModule",
    "AbstractDomainDataModule",
    "DomainSamples",
    "ModeCoverage",
    "modes_covered",
    "ResumableDataLoader",
    "EpochSampler",
]
