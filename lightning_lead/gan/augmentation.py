"""Augmentations of what the discriminator sees, reals and fakes alike, through which the generator is differentiated.

A discriminator that sees few reals learns them by heart; augmented ones it cannot. The generator does not learn to draw
augmented samples as long as it is possible to tell from many of them what they looked like before.

References: Zhao, Liu, Lin, Zhu and Han, "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020,
section 3 (`DiffAugment`); Karras, Aittala, Hellsten, Laine, Lehtinen and Aila, "Training Generative Adversarial
Networks with Limited Data", NeurIPS 2020, section 3 (`AdaptiveAugment`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive
from lightning_lead._errors import ConfigurationError

__all__ = ["AdaptiveAugment", "DiffAugment", "adaptive_parts", "check_augment"]


@final
class DiffAugment(nn.Module):
    """Colour, translation and cutout, drawn for each image by torch's global generator.

        colour       x + b, then saturation and contrast around the means by factors s and c;
                     b ~ U[−½, ½], s ~ U[0, 2], c ~ U[½, 3/2]
        translation  by up to an eighth of each side, zeros moving in
        cutout       a rectangle of half of each side set to zero

    Args:
        policy: some of "color", "translation" and "cutout", in the order in which they are applied.

    Raises:
        ConfigurationError: another policy; at the first batch, samples that are no images.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> images = torch.ones(2, 1, 8, 8)
        >>> DiffAugment(["cutout"])(images).mean((1, 2, 3)) < 1
        tensor([True, True])
    """

    def __init__(self, policy: Sequence[str] = ("color", "translation", "cutout")) -> None:
        check_arguments(DiffAugment, locals())
        super().__init__()
        known = {"color": _coloured, "translation": _translated, "cutout": _cut}
        unknown = [name for name in policy if name not in known] if not isinstance(policy, str) else [policy]
        if unknown or not policy:
            raise ConfigurationError(
                f"Cannot augment by this policy; pass a list of some of {', '.join(known)} (got {policy!r})"
            )
        self.policy = tuple(policy)
        self._steps = [known[name] for name in policy]

    def extra_repr(self) -> str:
        """Show the policy."""
        return repr(list(self.policy))

    def forward(self, images: Tensor) -> Tensor:
        """Return augmented images.

        Args:
            images: (n, channels, height, width).
        """
        if images.ndim != 4:
            raise ConfigurationError(
                "Cannot augment samples that are no images; pass (n, channels, height, width) "
                f"(got {tuple(images.shape)})"
            )
        for step in self._steps:
            images = step(images)
        return images


def _drawn(images: Tensor, low: float, high: float) -> Tensor:
    """(n, 1, 1, 1), uniform."""
    return torch.rand(len(images), 1, 1, 1, device=images.device, dtype=images.dtype) * (high - low) + low


def _coloured(images: Tensor) -> Tensor:
    images = images + _drawn(images, -0.5, 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * _drawn(images, 0.0, 2.0)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * _drawn(images, 0.5, 1.5)


def _translated(images: Tensor) -> Tensor:
    count, _, height, width = images.shape
    reach = [max(1, round(side / 8)) for side in (height, width)]
    padded = pad(images, (reach[1], reach[1], reach[0], reach[0]))
    # pixel (i, j) of the result is pixel (i + a, j + b) of the padded image
    rows, columns = (
        torch.randint(0, 2 * far + 1, (count, 1), device=images.device) + torch.arange(side, device=images.device)
        for far, side in zip(reach, (height, width), strict=True)
    )
    each = torch.arange(count, device=images.device)[:, None, None]
    return padded[each, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def _cut(images: Tensor) -> Tensor:
    count, _, height, width = images.shape
    keep = torch.ones(count, height, width, dtype=torch.bool, device=images.device)
    inside = []
    for side in (height, width):
        size = max(1, side // 2)
        # the rectangle may stick out, as in the paper: pixels at the sides are cut out about half as often
        first = torch.randint(0, side + 1, (count, 1), device=images.device) - size // 2
        place = torch.arange(side, device=images.device)
        inside.append((place >= first) & (place < first + size))
    keep &= ~(inside[0][:, :, None] & inside[1][:, None, :])
    return images * keep[:, None].to(images.dtype)


@final
class AdaptiveAugment(nn.Module):
    """An augmentation of each sample with probability p, which follows how sure the discriminator is of the reals.

        r = E[sign D(x)] over `interval` game steps;   p ← p ± reals / images,   + where r > target

    r is 0 where D cannot tell and 1 where it has learned all reals by heart; several logits of a sample count alike.
    What it counts is in buffers of whole numbers: checkpoints have them, all ranks adapt alike, and no precision rounds
    them.

    Args:
        augment: samples -> samples; default `DiffAugment()`.
        target: of r, in (−1, 1).
        images: reals after which p could have risen from 0 to 1, ≥ 1.
        interval: game steps between adaptations, ≥ 1.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> augment = AdaptiveAugment(nn.Identity(), images=100, interval=1)
        >>> augment.observe(torch.ones(20, 3))
        >>> augment.adapt()
        >>> augment.probability
        tensor(0.2000)
    """

    raised: Tensor  # p·images
    signs: Tensor  # Σ sign D(x), over all logits
    logits: Tensor
    reals: Tensor

    def __init__(
        self, augment: nn.Module | None = None, *, target: float = 0.6, images: int = 500_000, interval: int = 4
    ) -> None:
        check_arguments(AdaptiveAugment, locals(), but=("augment",))
        super().__init__()
        check_positive(images=images, interval=interval)
        if not -1 < target < 1:
            raise ConfigurationError(f"Cannot hold the mean sign of D at target={target}; pass one in (−1, 1), as 0.6")
        self.augment = check_augment(augment) or DiffAugment()
        self.target, self.images, self.interval = target, images, interval
        for name in ("raised", "signs", "logits", "reals"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))

    @property
    def probability(self) -> Tensor:
        """p, (), float32."""
        return self.raised.float() / self.images

    def forward(self, samples: Tensor) -> Tensor:
        """Return the samples, each augmented or not.

        Args:
            samples: (n, ...).
        """
        chosen = torch.rand(len(samples), device=samples.device) < self.probability
        return torch.where(chosen.reshape(-1, *[1] * (samples.dim() - 1)), self.augment(samples), samples)

    def observe(self, real_logits: Tensor) -> None:
        """Count the signs of D at reals; in a replay buffers stay, so none is counted twice."""
        self.signs += real_logits.detach().sign().sum().long()
        self.logits += real_logits.numel()
        self.reals += len(real_logits)

    def adapt(self, total: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        """Move p, and begin to count anew.

        Args:
            total: sums a tensor over ranks.
        """
        signs, logits, reals = total(torch.stack([self.signs, self.logits, self.reals]))
        up = signs > self.target * logits
        self.raised.add_(torch.where(up, reals, -reals)).clamp_(0, self.images)
        for count in (self.signs, self.logits, self.reals):
            count.zero_()


def adaptive_parts(augment: Any) -> list[AdaptiveAugment]:
    """Return every `AdaptiveAugment` of an augmentation, also inside of another module.

    Args:
        augment: a module, a function or None.
    """
    modules = augment.modules() if isinstance(augment, nn.Module) else []
    return [module for module in modules if isinstance(module, AdaptiveAugment)]


def check_augment(augment: Any) -> Any:
    """Refuse what cannot be applied to samples."""
    if augment is not None and not (
        isinstance(augment, nn.Module) or (callable(augment) and not isinstance(augment, type))
    ):
        raise ConfigurationError(
            "Cannot augment by this object; pass DiffAugment(), AdaptiveAugment(), another module or function of "
            f"samples, or None (got {augment!r})"
        )
    if isinstance(augment, nn.Module) and any(p.requires_grad for p in augment.parameters()):
        raise ConfigurationError(
            "Cannot augment by a module that has parameters to train because it belongs to no player; freeze them, or "
            f"make it a part of the discriminator (got {type(augment).__name__})"
        )
    return augment
