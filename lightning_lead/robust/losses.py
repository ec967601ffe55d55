"""Losses of a network on attacked images, and of its attack: cross-entropy, TRADES and MART.

With p = softmax f(x), q = softmax f(x'), x' = x + δ, and means over the batch:

    cross-entropy   L_network = CE(q, y)                                        L_attack = −CE(q, y)
    TRADES          L_network = CE(p, y) + β·KL(p ‖ q)                          L_attack = −KL(p ‖ q)
    MART            L_network = BCE(q, y) + λ·mean[KL(p ‖ q)·(1 − p_y)]         L_attack = −CE(q, y)
                    BCE(q, y) = −log q_y − log(1 − max_{k≠y} q_k)

The cross-entropy's game is zero-sum. In the other two the attack maximises a part of what the network minimises.

References: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, equation 2.1;
Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy" (TRADES), ICML 2019, section 3.3;
Wang et al., "Improving Adversarial Robustness Requires Revisiting Misclassified Examples" (MART), ICLR 2020.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import require_number
from lightning_lead._errors import ConfigurationError

__all__ = ["MART", "TRADES", "AbstractRobustLoss", "CrossEntropy", "robust_loss"]

Logits = Callable[[Tensor], Tensor]
"""Images (n, …) -> logits (n, K)."""


class AbstractRobustLoss(abc.ABC):
    """Both players' losses; each is a method of its own, so that the one that is not wanted is not computed.

    Attributes:
        start: width of a normal start of δ that the paper asks for, in the units of the images; None for the attack's
            own start.

    Example:
        >>> class Margin(AbstractRobustLoss):
        ...     def network_loss(self, network, images, perturbed, labels):
        ...         return torch.nn.functional.multi_margin_loss(network(perturbed), labels)
        ...     def attack_loss(self, network, images, perturbed, labels):
        ...         return -self.network_loss(network, images, perturbed, labels)
        >>> Margin().start is None
        True
    """

    start: float | None = None

    @abc.abstractmethod
    def network_loss(self, network: Logits, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar that the network minimises, a mean over the batch.

        Args:
            network: images -> logits.
            images: (n, …), as they are in the data.
            perturbed: the same with the attack.
            labels: (n,) int64.
        """

    @abc.abstractmethod
    def attack_loss(self, network: Logits, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar that the attack minimises, a mean over the batch.

        Args:
            network: images -> logits.
            images: (n, …), as they are in the data.
            perturbed: the same with the attack.
            labels: (n,) int64.
        """


@final
class CrossEntropy(AbstractRobustLoss):
    """Cross-entropy of attacked images, which one player minimises and the other maximises.

    Args:
        label_smoothing: share of the label's weight that all classes share, in [0, 1].

    Raises:
        ConfigurationError: a share out of its range.

    Example:
        >>> x, y = torch.eye(3), torch.arange(3)
        >>> loss = CrossEntropy().network_loss(lambda images: 5 * images, x, x, y)
        >>> round(loss.item(), 4), CrossEntropy().attack_loss(lambda images: 5 * images, x, x, y).item() == -loss.item()
        (0.0134, True)
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        check_arguments(CrossEntropy, locals())
        why = "it is the share of the label's weight that all classes share"
        require_number("label_smoothing", label_smoothing, low=0.0, high=1.0, why=why)
        self.label_smoothing = label_smoothing

    def network_loss(self, network: Logits, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        """CE(f(x'), y)."""
        return cross_entropy(network(perturbed), labels, label_smoothing=self.label_smoothing)

    def attack_loss(self, network: Logits, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        """−CE(f(x'), y)."""
        return -self.network_loss(network, images, perturbed, labels)


@final
class TRADES(AbstractRobustLoss):
    """Cross-entropy of clean images, and β times the distance between the predictions for clean and attacked ones.

    The attack maximises the distance alone. At δ = 0 its gradient is zero, so δ starts as 0.001·N(0, 1), as in the
    authors' code.

    Args:
        beta: weight of the distance, ≥ 0; the paper's 1/λ.

    Raises:
        ConfigurationError: a weight out of its range.

    Example:
        >>> x, y = torch.eye(3), torch.arange(3)
        >>> TRADES(beta=6.0).attack_loss(lambda images: 5 * images, x, x, y).item()
        -0.0
    """

    start = 0.001

    def __init__(self, *, beta: float = 6.0) -> None:
        check_arguments(TRADES, locals())
        require_number("beta", beta, low=0.0, high=float("inf"), why="it weighs a loss")
        self.beta = beta

    def network_loss(self, network: Logits, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        """CE(f(x), y) + β·KL(f(x) ‖ f(x'))."""
        clean = network(images)
        return cross_entropy(clean, labels) + self.beta * _divergence(clean, network(perturbed)).mean()

    def attack_loss(self, network: Logits, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        """−KL(f(x) ‖ f(x'))."""
        return -_divergence(network(images), network(perturbed)).mean()


@final
class MART(AbstractRobustLoss):
    """Boosted cross-entropy of attacked images, and a distance that weighs misclassified clean images more.

    Args:
        weight: λ of the distance, ≥ 0.

    Raises:
        ConfigurationError: a weight out of its range.

    Example:
        >>> x, y = torch.eye(3), torch.arange(3)
        >>> round(MART(weight=5.0).network_loss(lambda images: 5 * images, x, x, y).item(), 4)
        0.0201
    """

    def __init__(self, *, weight: float = 5.0) -> None:
        check_arguments(MART, locals())
        require_number("weight", weight, low=0.0, high=float("inf"), why="it weighs a loss")
        self.weight = weight

    def network_loss(self, network: Logits, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        """BCE(f(x'), y) + λ·mean[KL(f(x) ‖ f(x'))·(1 − p_y)]."""
        clean, attacked = network(images), network(perturbed)
        wrong = 1 - clean.softmax(1).gather(1, labels[:, None]).squeeze(1)
        return _boosted(attacked, labels) + self.weight * (_divergence(clean, attacked) * wrong).mean()

    def attack_loss(self, network: Logits, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        """−CE(f(x'), y)."""
        return -cross_entropy(network(perturbed), labels)


_BY_NAME: dict[str, Callable[[], AbstractRobustLoss]] = {"cross_entropy": CrossEntropy, "trades": TRADES, "mart": MART}


def robust_loss(loss: AbstractRobustLoss | str) -> AbstractRobustLoss:
    """Return a loss by its name, with the paper's weight, or the object that it is already.

    Args:
        loss: "cross_entropy", "trades" or "mart", or an object.

    Raises:
        ConfigurationError: an unknown name.

    Example:
        >>> robust_loss("trades").beta
        6.0
    """
    if isinstance(loss, AbstractRobustLoss):
        return loss
    if loss not in _BY_NAME:
        raise ConfigurationError(
            f"Cannot train by the loss {loss!r} because it is not known; pass one of {', '.join(_BY_NAME)}, or an "
            "AbstractRobustLoss"
        )
    return _BY_NAME[loss]()


def _divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """KL(softmax clean ‖ softmax attacked) of each sample, (n,)."""
    return kl_div(log_softmax(attacked, 1), log_softmax(clean, 1), reduction="none", log_target=True).sum(1)


def _boosted(logits: Tensor, labels: Tensor) -> Tensor:
    """−log q_y − log(1 − max_{k≠y} q_k), a mean over samples.

    1 − q_k is summed from the other classes: a difference from 1 would be zero where the network is sure.
    """
    logs = log_softmax(logits, 1)
    own = torch.zeros_like(logs, dtype=torch.bool).scatter(1, labels[:, None], True)
    runner_up = logs.masked_fill(own, -torch.inf).argmax(1, keepdim=True)
    others = torch.logsumexp(logs.scatter(1, runner_up, -torch.inf), 1)
    return -(logs.gather(1, labels[:, None]).squeeze(1) + others).mean()
