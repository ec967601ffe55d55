"""Losses of single samples, and their means over groups.

    one logit       log(1 + exp(−(2y − 1) f))        several logits  −log softmax(f)_y        squared  (f − y)²

A sample without a label, −1, has loss 0 and is not counted.

A mean over a group is a sum over its samples in the joint batch, of all ranks and micro-batches, through their number:

    ℓ_g = Σ_b Σ_{i in g of b} ℓ_i / N_g,      so that part b of n_b samples has   (N / n_b) Σ_i ℓ_i / N_g

which averages over parts, by their sizes, to ℓ_g. A mean over the group in each part would not, where the parts hold
different shares of it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from lightning_lead._errors import ConfigurationError

__all__ = ["JointCounts", "LossKind", "group_means", "labelled_mean", "predicted_classes", "sample_losses"]

LossKind = Literal["classification", "squared"]


class JointCounts(NamedTuple):
    """Numbers of samples in the joint batch of a game step."""

    samples: Tensor  # N, a scalar
    labelled: Tensor  # a scalar
    of_groups: Tensor  # N_g, (num_groups,)


def sample_losses(outputs: Tensor, labels: Tensor, kind: LossKind) -> Tensor:
    """Return the loss of each sample, (n,).

    Args:
        outputs: (n, k) logits, of which one alone is that of class 1 of two; or (n,) or (n, 1).
        labels: (n,).
        kind: "classification" or "squared".
    """
    single = outputs.dim() == 1 or (outputs.dim() == 2 and outputs.shape[1] == 1)
    if outputs.dim() not in (1, 2) or len(outputs) != len(labels):
        raise ConfigurationError(
            f"Cannot compare outputs with labels because they are not one row per sample; return ({len(labels)}, "
            f"classes) from the network (got {tuple(outputs.shape)})"
        )
    if single:
        outputs = outputs.reshape(-1)
    if kind == "squared":
        if not single:
            raise ConfigurationError(
                f"Cannot take a squared error because there is one number per sample; return ({len(labels)}, 1) from "
                f"the network (got {tuple(outputs.shape)})"
            )
        return (outputs - labels.to(outputs.dtype)).square()
    if single:
        wanted = labels.clamp(min=0).to(outputs.dtype)
        known = (labels >= 0).to(outputs.dtype)
        return binary_cross_entropy_with_logits(outputs, wanted, reduction="none") * known
    return cross_entropy(outputs, labels, reduction="none", ignore_index=-1)


def labelled_mean(losses: Tensor, labels: Tensor, counts: JointCounts | None) -> Tensor:
    """Return the mean over the samples that have a label, 0 where there are none.

    Args:
        losses: (n,).
        labels: (n,), −1 for none.
        counts: of the joint batch that these samples are a part of; None if they are all.
    """
    known = counts.labelled if counts is not None else (labels >= 0).sum()
    return losses.sum() * _share(losses, counts) / known.clamp(min=1)


def group_means(losses: Tensor, groups: Tensor, num_groups: int, counts: JointCounts | None) -> Tensor:
    """Return the mean loss of each group, (num_groups,); 0 for one without samples, as in Sagawa et al.'s code.

    Args:
        losses: (n,).
        groups: (n,).
        num_groups: groups are in [0, num_groups).
        counts: of the joint batch that these samples are a part of; None if they are all.
    """
    members = one_hot(groups, num_groups).to(losses.dtype)  # no reading on the host, as a mask would need
    of_groups = members.sum(0) if counts is None else counts.of_groups.to(losses.dtype)
    return losses @ members * _share(losses, counts) / of_groups.clamp(min=1)


def _share(losses: Tensor, counts: JointCounts | None) -> Tensor | float:
    """N / n of a part of the joint batch; of a rank without samples the number does not matter."""
    return 1.0 if counts is None else counts.samples.to(losses.dtype) / max(1, len(losses))


def predicted_classes(outputs: Tensor) -> Tensor:
    """Return the class (n,) of the largest logit, or by the sign of a single one; −1 where a logit is NaN."""
    if outputs.dim() == 1 or outputs.shape[1] == 1:
        outputs = outputs.reshape(-1, 1)
        found = (outputs[:, 0] > 0).to(torch.int64)
    else:
        found = outputs.argmax(1)
    return found.where(~outputs.isnan().any(1), -1)
