"""SignDescent: the steps of attacks, of one length whatever the gradient's.

    ℓ∞:  δ ← δ − η·sign g                      ℓ2:  δ ← δ − η·g/‖g‖,   per sample or of the whole tensor

Both are the steepest descent under the norm in which the attack is bounded. A sample without a gradient stays.

Reference: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, section 2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, final

import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_rates
from lightning_lead._errors import ConfigurationError

__all__ = ["SignDescent", "check_norm", "sample_norms"]


@final
class SignDescent(torch.optim.Optimizer):
    """Moves parameters by steps of length `lr` in the largest entry or in the Euclidean norm.

    Args:
        params: parameters, or groups of them.
        lr: length of a step, > 0, in the units of the parameters; a group may have its own.
        norm: "linf" for signs, "l2" for normalised gradients.
        per_sample: with "l2", normalise each row of a parameter by itself; else each parameter as a whole.

    Raises:
        ConfigurationError: a length out of its range, or an unknown norm.

    Example:
        >>> delta = torch.nn.Parameter(torch.zeros(2))
        >>> delta.grad = torch.tensor([3.0, -4.0])
        >>> SignDescent([delta], lr=0.5).step()
        >>> delta.tolist()
        [-0.5, 0.5]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        *,
        norm: Literal["linf", "l2"] = "linf",
        per_sample: bool = False,
    ) -> None:
        check_arguments(SignDescent, locals())
        check_rates(lr=float(lr))
        check_norm(norm)
        # rules that set their coupling by an optimizer's momentum read that there is none
        super().__init__(params, {"lr": lr, "norm": norm, "per_sample": per_sample, "momentum": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move each parameter that has a gradient.

        Args:
            closure: evaluates a loss, which is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    unit = _unit(parameter.grad, group["norm"], per_sample=group["per_sample"])
                    parameter.sub_(group["lr"] * unit)
        return loss


def check_norm(norm: str) -> None:
    """Refuse a norm that attacks are not bounded in here."""
    if norm not in ("linf", "l2"):
        raise ConfigurationError(
            f"Cannot bound a perturbation by the norm {norm!r} because it is not known; pass 'linf' or 'l2'"
        )


def sample_norms(rows: Tensor) -> Tensor:
    """Return the Euclidean norm of each sample, shaped (n, 1, …) so that samples can be divided by it."""
    norms: Tensor = torch.linalg.vector_norm(rows.flatten(1), dim=1)
    return norms.view(-1, *[1] * (rows.ndim - 1))


def _unit(gradient: Tensor, norm: str, *, per_sample: bool) -> Tensor:
    if norm == "linf":
        return gradient.sign()
    size: Tensor = sample_norms(gradient) if per_sample else gradient.norm()
    unit: Tensor = gradient / size.where(size > 0, torch.ones_like(size))
    return unit
