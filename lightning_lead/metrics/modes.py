"""Modes that a generator finds, where the classes of a classifier are the modes of the data.

    modes = #{k : n_k > 0},   mode_kl = Σ_k q_k log(q_k / p_k),   q_k = n_k / N

n_k of the N samples are seen as class k; p_k = 1/K, as the data have every class equally often.

References: Metz et al., "Unrolled Generative Adversarial Networks", ICLR 2017, section 3.3.1 (both, with 26,000 samples
of stacked MNIST for its K = 1,000 classes); Huang et al., "The GAN is dead; long live the GAN!", NeurIPS 2024, table 1.
"""

from __future__ import annotations

import math
from typing import final

import torch

from lightning_lead.metrics.base import ImageSet, Score

__all__ = ["Modes"]


@final
class Modes(Score):
    """The number of classes that samples fall into, and the divergence of their shares from even ones, in nats.

    It needs an extractor with a classifier of the images' own classes, as `StackedDigitsClassifier`. Both depend on the
    number of samples: take several per class, and compare what was counted with the same number.

    Example:
        >>> logits = torch.tensor([[9.0, 0.0], [9.0, 0.0]])
        >>> {name: round(value, 4) for name, value in Modes().compute(ImageSet(), ImageSet(logits=logits)).items()}
        {'modes': 1.0, 'mode_kl': 0.6931}
    """

    names = ("modes", "mode_kl")
    needs = ("logits",)
    keywords = ("modes",)

    def compute(self, reals: ImageSet, fakes: ImageSet) -> dict[str, float]:
        """Count the predicted classes."""
        classes = fakes.logits.shape[1]
        counts = torch.bincount(fakes.logits.argmax(dim=1), minlength=classes)
        shares = counts.double() / counts.sum()
        # KL(q ‖ 1/K) = log K − H(q)
        divergence = math.log(classes) - torch.special.entr(shares).sum()
        return {"modes": float((counts > 0).sum()), "mode_kl": float(divergence)}
