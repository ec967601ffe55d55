"""Attacks on images in [0, 1], by name: two of this package, and those of pyautoattack, an extra."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_lead._errors import ConfigurationError
from lightning_lead.robust.sign_descent import sample_norms

__all__ = ["ATTACKS", "LIBRARY", "Spec", "attack_images", "is_installed", "keeping_trace"]

LIBRARY = "pyautoattack"
_NORMS = {"linf": "Linf", "l2": "L2"}


class Spec(NamedTuple):
    """An attack: whose it is, and how long it goes on."""

    library: str
    kind: str
    steps: int
    unit: str | None = "steps"  # what its number counts; None where it has none
    least_classes: int = 2

    def settings(self, epsilon: float, restarts: int) -> dict[str, Any]:
        """Return the entries of the protocol; lengths in the units of ε."""
        if self.kind == "fgsm":
            return {"steps": 1, "step_size": epsilon, "random_start": False, "restarts": 1}
        if self.kind == "pgd":
            return {"steps": self.steps, "step_size": 2.5 * epsilon / self.steps, "restarts": restarts}
        if self.kind == "autoattack":
            return {"version": "standard", "attacks": ["apgd-ce", "apgd-t", "fab-t", "square"], "restarts": 1}
        return {str(self.unit): self.steps, "restarts": restarts}

    def check_classes(self, name: str, classes: int) -> None:
        """Refuse an attack whose loss compares more logits than there are."""
        if classes < self.least_classes:
            raise ConfigurationError(
                f"Cannot attack by {name!r} because its loss compares {self.least_classes} logits; use apgd-ce or "
                f"square (got {classes} classes)"
            )


ATTACKS = {
    "fgsm": Spec("own", "fgsm", 1, None),
    "pgd": Spec("own", "pgd", 20),
    "apgd-ce": Spec(LIBRARY, "apgd-ce", 100),
    "apgd-dlr": Spec(LIBRARY, "apgd-dlr", 100, least_classes=3),
    "apgd-t": Spec(LIBRARY, "apgd-t", 100, least_classes=4),
    "fab-t": Spec(LIBRARY, "fab-t", 100),
    "square": Spec(LIBRARY, "square", 5000, "queries"),
    "autoattack": Spec(LIBRARY, "autoattack", 0, None, least_classes=4),
}


def is_installed() -> bool:
    """Return True if the extra is there."""
    return find_spec(LIBRARY) is not None


def attack_images(
    spec: Spec,
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    norm: str,
    restarts: int,
    seed: int,
    classes: int,
) -> Tensor:
    """Return attacked images of x, (n, …) in [0, 1]; draws come from torch's generator or from `seed`."""
    if spec.kind == "fgsm":
        return _descend(network, x, y, torch.zeros_like(x), epsilon, norm, steps=1, step_size=epsilon)
    if spec.kind == "pgd":
        found, step_size = x, 2.5 * epsilon / spec.steps
        for _ in range(restarts):
            start = _random_start(x, epsilon, norm)
            attacked = _descend(network, x, y, start, epsilon, norm, steps=spec.steps, step_size=step_size)
            fooled = network(attacked).argmax(1) != y
            found = torch.where(fooled.view(-1, *[1] * (x.ndim - 1)), attacked, found)
        return found.detach()
    return _BUILDERS[spec.kind](
        network,
        {"eps": epsilon, "norm": _NORMS[norm], "seed": seed, "device": x.device},
        {"steps": spec.steps, "restarts": restarts, "targets": min(9, classes - 1)},
    )(x, y)


def _random_start(x: Tensor, epsilon: float, norm: str) -> Tensor:
    if norm == "linf":
        return torch.empty_like(x).uniform_(-epsilon, epsilon)
    drawn = torch.randn_like(x)
    return epsilon * torch.rand_like(sample_norms(drawn)) * drawn / sample_norms(drawn)


def _descend(
    network: nn.Module, x: Tensor, y: Tensor, delta: Tensor, epsilon: float, norm: str, *, steps: int, step_size: float
) -> Tensor:
    """x + δ after steps of steepest ascent of the cross-entropy, each projected."""

    def projected(delta: Tensor) -> Tensor:
        if norm == "linf":
            delta = delta.clamp(-epsilon, epsilon)
        else:
            delta = delta * (epsilon / sample_norms(delta).clamp(min=epsilon))
        return (x + delta).clamp(0, 1) - x

    delta = projected(delta)
    for _ in range(steps):
        delta.requires_grad_()
        (slope,) = torch.autograd.grad(cross_entropy(network(x + delta), y, reduction="sum"), delta)
        unit = slope.sign() if norm == "linf" else slope / sample_norms(slope).clamp(min=1e-12)
        delta = projected((delta + step_size * unit).detach())
    return (x + delta).clamp(0, 1)


# ---- pyautoattack ----------------------------------------------------------------------------------------------------

Attack = Callable[[Tensor, Tensor], Tensor]


def _apgd(network: nn.Module, common: dict[str, Any], own: dict[str, Any], *, loss: str) -> Attack:
    from pyautoattack.autopgd_base import APGDAttack

    log = logging.getLogger("auto-attack")
    attack = APGDAttack(network, n_iter=own["steps"], n_restarts=own["restarts"], loss=loss, logger=log, **common)
    perturb: Attack = attack.perturb
    return perturb


def _apgd_targeted(network: nn.Module, common: dict[str, Any], own: dict[str, Any]) -> Attack:
    from pyautoattack.autopgd_base import APGDAttack_targeted

    settings = {"n_iter": own["steps"], "n_restarts": own["restarts"], "n_target_classes": own["targets"]}
    attack = APGDAttack_targeted(network, logger=logging.getLogger("auto-attack"), **settings, **common)
    perturb: Attack = attack.perturb
    return perturb


def _fab(network: nn.Module, common: dict[str, Any], own: dict[str, Any]) -> Attack:
    from pyautoattack.fab_pt import FABAttack_PT

    settings = {"n_iter": own["steps"], "n_restarts": own["restarts"], "n_target_classes": own["targets"]}
    attack = FABAttack_PT(network, targeted=True, verbose=False, **settings, **common)
    perturb: Attack = attack.perturb
    return perturb


def _square(network: nn.Module, common: dict[str, Any], own: dict[str, Any]) -> Attack:
    from pyautoattack.square import SquareAttack

    settings = {"n_queries": own["steps"], "n_restarts": own["restarts"], "p_init": 0.8, "resc_schedule": False}
    perturb: Attack = SquareAttack(network, verbose=False, **settings, **common).perturb
    return perturb


def _ensemble(network: nn.Module, common: dict[str, Any], own: dict[str, Any]) -> Attack:
    from pyautoattack import AutoAttack

    ensemble = AutoAttack(network, version="standard", **common)
    ensemble.verbose = False
    ensemble.fab.n_target_classes = ensemble.apgd_targeted.n_target_classes = own["targets"]

    def attack(x: Tensor, y: Tensor) -> Tensor:
        with keeping_trace():
            found: Tensor = ensemble.run_standard_evaluation(x, y, batch_size=len(x))[0]
        return found

    return attack


@contextmanager
def keeping_trace() -> Iterator[None]:
    """The ensemble traces a forward, and afterwards switches off whatever traced before it, as a debugger does."""
    before = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(before)


_BUILDERS: dict[str, Callable[[nn.Module, dict[str, Any], dict[str, Any]], Attack]] = {
    "apgd-ce": lambda *given: _apgd(*given, loss="ce"),
    "apgd-dlr": lambda *given: _apgd(*given, loss="dlr"),
    "apgd-t": _apgd_targeted,
    "fab-t": _fab,
    "square": _square,
    "autoattack": _ensemble,
}
