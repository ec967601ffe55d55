"""Coloured digits: the colour of a digit foretells its label well in training, and badly in the test environment.

    ỹ = 1 of digits below 5, else 0          y = ỹ, flipped with probability 0.25
    z = y, flipped with probability e        e = 0.2 and 0.1 in training, 0.9 in the test environment
    image (2, h, w): the digit in channel z, and 0 in the other one

The colour is right in 80 and 90 % of training, the shape in 75 %, and in the test environment the colour in 10 %.
"Environment 90 %" elsewhere is e = 0.1 here.

Reference: Arjovsky, Bottou, Gulrajani and Lopez-Paz, "Invariant Risk Minimization", 2019, section 5.2. There digits
below 5 are called 0 and the colours red and green; the names of classes and channels make no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import require_number
from lightning_lead._errors import ConfigurationError, first_line
from lightning_lead.data._domain_base import AbstractDomainDataModule, DomainSamples, check_domain_names, generator_of
from lightning_lead.data.digits import DigitsDataModule
from lightning_lead.fetch import home

__all__ = ["ColouredDigitsDataModule"]

_TEST = {"digits": 597, "mnist": 10_000}  # images of the test environment, out of 1,797 and 60,000
_CLASSES = (0, 1)


@final
class ColouredDigitsDataModule(AbstractDomainDataModule):
    """Batches (images, labels, groups) of digits in two colours, the training environments in equal shares.

    Images are float32 (n, 2, h, w) in [0, 1], labels int64 (n,) 0 or 1, groups int64 (n,) numbers of `domains`. No
    image is in two environments. The test environment is held out.

    Args:
        flips: of each training environment, the share of colours that are not the label's, each in [0, 1].
        test_flip: the same of the test environment, another one.
        label_noise: share of labels that are not the digit's, in [0, 0.5).
        grey: leave the colour out, one channel: what an oracle would look at.
        groups: "environments"; or "label_colour", four groups of all training samples as they come, in which a few
            have the other colour than their label's, as `GroupDROModule` asks for.
        source: "digits", scikit-learn's of 8 × 8 pixels, of which 597 are the test environment; or "mnist",
            torchvision's, every second pixel of every second row (14 × 14), of which 10,000 are the test environment.
        root: torchvision's folder, of "mnist"; default that of `lightning-lead fetch mnist`.
        download: let torchvision fetch MNIST if it is not there.
        copies: of each image, each with noise and colour of its own, ≥ 1. Ten make up for the few digits there are: of
            several copies an image's label cannot be learned by heart. All copies of an image are in the same part.
        batch_size: samples per training batch and rank, divided by the environments; None for all, as in the paper.
        validation: share of each training domain that is kept for selection, in [0, 0.9].
        seed: of environments, noise, colours, parts and order, ≥ 0.
        num_workers: loader processes, ≥ 0.

    Attributes:
        domains: training domains, as "flip0.2", or "label0_colour1"; then the one that is `held_out`.
        image_shape: (2, 8, 8) or (2, 14, 14); one channel if grey.
        image_range: (0.0, 1.0).
        num_groups: the number of training domains.
        num_classes: 2.

    Raises:
        ConfigurationError: a setting out of its range, one training environment alone, a test environment that is among
            them, or no data.

    Example:
        >>> digits = ColouredDigitsDataModule(batch_size=200)
        >>> images, labels, groups = next(iter(digits.train_dataloader()))
        >>> images.shape, digits.domains, groups.bincount().tolist()
        (torch.Size([200, 2, 8, 8]), ('flip0.2', 'flip0.1', 'flip0.9'), [100, 100])
    """

    image_range: tuple[float, float] = (0.0, 1.0)
    num_classes: int = 2

    def __init__(
        self,
        *,
        flips: Sequence[float] = (0.2, 0.1),
        test_flip: float = 0.9,
        label_noise: float = 0.25,
        grey: bool = False,
        groups: Literal["environments", "label_colour"] = "environments",
        source: Literal["digits", "mnist"] = "digits",
        root: str | None = None,
        download: bool = False,
        copies: int = 1,
        batch_size: int | None = None,
        validation: float = 0.2,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        check_arguments(ColouredDigitsDataModule, locals())
        share = "it is the share of colours that are not the label's"
        self.flips = tuple(require_number("flips", flip, low=0.0, high=1.0, why=share) for flip in flips)
        self.test_flip = require_number("test_flip", test_flip, low=0.0, high=1.0, why=share)
        training, held_out = [f"flip{flip:g}" for flip in self.flips], f"flip{self.test_flip:g}"
        merged = groups == "label_colour"
        check_domain_names("ColouredDigitsDataModule", [*training, "another"] if merged else training, held_out)
        if merged:
            training = [f"label{label}_colour{colour}" for label in _CLASSES for colour in _CLASSES]
        super().__init__(
            domains=(*training, held_out),
            held_out=held_out,
            batch_size=batch_size,
            validation=validation,
            seed=seed,
            num_workers=num_workers,
            shares="natural" if merged else "equal",
            copies=copies,
        )
        why = "it is the share of wrong labels, and at a half they would tell nothing"
        self.label_noise = require_number("label_noise", label_noise, low=-1e-9, high=0.5, why=why, closed=False)
        if merged and copies != 1:
            raise ConfigurationError(
                "Cannot build ColouredDigitsDataModule because copies of an image would be in several groups, and in "
                f"both parts of them; pass copies=1, or groups='environments' (got {copies})"
            )
        self.grey, self.groups, self.source, self.download = grey, groups, source, download
        self.root = str(home() / "mnist") if root is None else root
        side = 8 if source == "digits" else 14
        self.image_shape = (1 if grey else 2, side, side)

    def prepare_data(self) -> None:
        """Fetch MNIST if that is asked for; Lightning calls this on one process per node."""
        if self.source == "mnist" and self.download:
            self._mnist(download=True)

    def load(self) -> Sequence[DomainSamples]:
        """Coloured images and noisy labels of each domain."""
        images, digits = self._images()
        order = torch.randperm(len(images), generator=generator_of(f"images/{self.seed}"))
        rest, test = order[: -_TEST[self.source]], order[-_TEST[self.source] :]
        shares = [rest[k :: len(self.flips)] for k in range(len(self.flips))]
        made = [self._coloured(images[rows], digits[rows], e) for rows, e in zip(shares, self.flips, strict=True)]
        (held_out, _) = self._coloured(images[test], digits[test], self.test_flip)
        if self.groups == "environments":
            return [*(samples for samples, _ in made), held_out]
        pictures, labels = (torch.cat(columns) for columns in zip(*(samples for samples, _ in made), strict=True))
        group = 2 * labels + torch.cat([colours for _, colours in made])
        return [*(DomainSamples(pictures[group == k], labels[group == k]) for k in range(4)), held_out]

    def _coloured(self, images: Tensor, digits: Tensor, flip: float) -> tuple[DomainSamples, Tensor]:
        """Return the samples of an environment, and their colours; copies stand side by side."""
        drawn = generator_of(f"colours/{self.seed}/{flip!r}")
        images, shapes = (column.repeat_interleave(self.copies, 0) for column in (images, (digits < 5).long()))
        labels = shapes ^ (torch.rand(len(shapes), generator=drawn) < self.label_noise).long()
        colours = labels ^ (torch.rand(len(shapes), generator=drawn) < flip).long()
        channels = [images] if self.grey else [images * (colours == z)[:, None, None] for z in _CLASSES]
        return DomainSamples(torch.stack(channels, dim=1), labels), colours

    def _images(self) -> tuple[Tensor, Tensor]:
        """Grey images (n, h, w) in [0, 1] and digits (n,)."""
        if self.source == "digits":
            images, digits = DigitsDataModule().tensors()
            return (images.squeeze(1) + 1) / 2, digits
        return self._mnist(download=False)

    def _mnist(self, *, download: bool) -> tuple[Tensor, Tensor]:
        from torchvision.datasets import MNIST

        try:
            found = MNIST(str(self.root), train=True, download=download)
        except RuntimeError as error:
            raise ConfigurationError(
                f"Cannot find MNIST in {self.root}; run `lightning-lead fetch mnist`, or pass download=True or another "
                f"root (got {first_line(error)})"
            ) from error
        return found.data[:, ::2, ::2].float() / 255, found.targets
