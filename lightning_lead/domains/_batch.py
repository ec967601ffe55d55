"""The batch of every module here: inputs, labels, and the number of the domain that each sample is of."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError

__all__ = ["DomainBatch", "check_batch", "domain_batch"]

_FORMAT = "(inputs, labels, groups), three tensors of one length"


class DomainBatch(NamedTuple):
    """Samples of several domains.

    Example:
        >>> batch = DomainBatch(torch.zeros(2, 4), torch.tensor([1, -1]), torch.tensor([0, 1]))
        >>> batch.groups.tolist()
        [0, 1]
    """

    inputs: Tensor  # (n, ...)
    labels: Tensor  # (n,): int64 classes, −1 where there is no label; or floats for regression
    groups: Tensor  # (n,): int64, the number of the domain or group, from 0


def domain_batch(batch: Any) -> DomainBatch:
    """Return a batch with names for its parts; refuse another form, by shapes alone."""
    if isinstance(batch, (list, tuple)) and len(batch) == 2:
        raise ConfigurationError(
            "Cannot tell which domain each sample is of because the batch holds no groups; let the loader yield "
            f"{_FORMAT} (got two parts)"
        )
    tensors = isinstance(batch, (list, tuple)) and len(batch) == 3 and all(isinstance(part, Tensor) for part in batch)
    if not tensors or len({len(part) for part in batch}) != 1:
        got = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in batch]
        raise ConfigurationError(f"Cannot read the batch; let the loader yield {_FORMAT} (got {got})")
    return DomainBatch(*batch)


def check_batch(batch: Any, *, num_groups: int, classes: bool, unlabelled: bool) -> None:
    """Refuse groups out of range, and labels of another kind or missing.

    Args:
        batch: as the loader yields it.
        num_groups: groups are in [0, num_groups).
        classes: labels are classes; otherwise numbers.
        unlabelled: some may be −1.

    Raises:
        ConfigurationError: one of these.

    Example:
        >>> batch = torch.zeros(2, 4), torch.tensor([0, 1]), torch.tensor([0, 2])
        >>> check_batch(batch, num_groups=2, classes=True, unlabelled=False)
        Traceback (most recent call last):
        lightning_lead._errors.ConfigurationError: Cannot use groups because each is one of 0 to 1; number the domains
        so, or set the module's number of them (got 0 to 2)
    """
    _, labels, groups = domain_batch(batch)
    if groups.dtype != torch.int64 or groups.dim() != 1:
        raise ConfigurationError(
            "Cannot use groups because they number the domains; pass int64 of shape (n,) (got "
            f"{groups.dtype} of shape {tuple(groups.shape)})"
        )
    low, high = int(groups.min()), int(groups.max())
    if low < 0 or high >= num_groups:
        raise ConfigurationError(
            f"Cannot use groups because each is one of 0 to {num_groups - 1}; number the domains so, or set the "
            f"module's number of them (got {low} to {high})"
        )
    if not classes:
        if not labels.is_floating_point():
            raise ConfigurationError(
                f"Cannot take a squared error of classes; pass targets as floats, or loss='classification' (got "
                f"{labels.dtype})"
            )
        return
    if labels.dtype != torch.int64 or labels.dim() != 1:
        raise ConfigurationError(
            "Cannot use labels because they number the classes; pass int64 of shape (n,), −1 for no label, or "
            f"loss='squared' for numbers (got {labels.dtype} of shape {tuple(labels.shape)})"
        )
    least, most = int(labels.min()), int(labels.max())
    if least < -1 or (least < 0 and not unlabelled) or most < 0:
        what = "each is a class, or −1 for none, and some are classes" if unlabelled else "each sample needs one"
        raise ConfigurationError(f"Cannot use labels because {what}; number the classes from 0 (got {least} to {most})")
