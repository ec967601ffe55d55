"""Relativistic losses: a fake is to look more real than the reals do, so both players' losses see both logits.

    objective              L_D                                              L_G
    relativistic_pairing   E[softplus(t − r)]                               E[softplus(r − t)]
    relativistic_average   E[softplus(t̄ − r)] + E[softplus(t − r̄)]          E[softplus(r̄ − t)] + E[softplus(r − t̄)]

r and t are the logits of reals and fakes, E the mean over them, r̄ = E[r] and t̄ = E[t]. In a pair each fake has its own
real, in the order of the batch. The averages are those of a micro-batch on one rank: accumulation and more ranks make
them of fewer samples.

References: Jolicoeur-Martineau, "The relativistic discriminator: a key element missing from standard GAN", ICLR 2019,
sections 4.1 and 4.2; Huang et al., "The GAN is dead; long live the GAN! A Modern GAN Baseline", NeurIPS 2024, equation
1 (pairing, with R1 and R2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from torch.nn.functional import softplus

from lightning_lead._errors import ConfigurationError

__all__ = ["RelativisticAverage", "RelativisticPairing"]


@final
@dataclass(frozen=True)
class RelativisticPairing:
    """L_D = E[softplus(t − r)],  L_G = E[softplus(r − t)], of pairs; R3GAN's loss, which wants R1 and R2.

    Example:
        >>> import torch
        >>> RelativisticPairing().generator_loss(torch.tensor([5.0]), torch.tensor([5.0])).item()  # log 2
        0.6931471824645996
    """

    zero_sum: ClassVar[bool] = False
    separable: ClassVar[bool] = False

    def generator_loss(self, fake_logits: Tensor, real_logits: Tensor) -> Tensor:
        """E[softplus(r − t)]."""
        return softplus(_paired(real_logits, fake_logits)).mean()

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """E[softplus(t − r)]."""
        return softplus(-_paired(real_logits, fake_logits)).mean()


@final
@dataclass(frozen=True)
class RelativisticAverage:
    """L_D = E[softplus(t̄ − r)] + E[softplus(t − r̄)], and L_G with the places of r and t exchanged; ESRGAN's loss.

    Example:
        >>> import torch
        >>> real, fake = torch.tensor([2.0, 4.0]), torch.tensor([1.0])
        >>> loss = RelativisticAverage()
        >>> torch.equal(loss.generator_loss(fake, real), loss.discriminator_loss(fake, real))
        True
    """

    zero_sum: ClassVar[bool] = False
    separable: ClassVar[bool] = False

    def generator_loss(self, fake_logits: Tensor, real_logits: Tensor) -> Tensor:
        """E[softplus(r̄ − t)] + E[softplus(r − t̄)]."""
        return self.discriminator_loss(fake_logits, real_logits)

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """E[softplus(t̄ − r)] + E[softplus(t − r̄)]."""
        of_reals = softplus(fake_logits.mean() - real_logits).mean()
        return of_reals + softplus(fake_logits - real_logits.mean()).mean()


def _paired(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """r − t, pair by pair."""
    if real_logits.shape != fake_logits.shape:
        raise ConfigurationError(
            "Cannot pair fakes with reals because there are not as many; leave generator_batch_size out, or take "
            "objective='relativistic_average' "
            f"(got logits of reals {tuple(real_logits.shape)} and of fakes {tuple(fake_logits.shape)})"
        )
    return real_logits - fake_logits
