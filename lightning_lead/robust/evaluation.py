"""AttackSuite: the accuracy of a classifier under attacks that others keep, with the protocol of each number.

    robust accuracy = share of images x with  argmax f(x) = y  and  argmax f(x') = y,   x' the attack's image

    fgsm, pgd                                         of this package, for a look during training
    apgd-ce, apgd-dlr, apgd-t, fab-t, square          pyautoattack, by the authors of AutoAttack
    autoattack                                        the same library's standard ensemble, for the number to report

Attacks compute in float32 on images in [0, 1], whatever the range and the dtype of the network's own are. What an
attack returns is looked at here: an image outside of its ball or of the range is an error, and the network itself tells
who is right.

References: Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
Attacks", ICML 2020 (AutoAttack); Andriushchenko et al., "Square Attack", ECCV 2020; Madry et al., "Towards Deep
Learning Models Resistant to Adversarial Attacks", ICLR 2018 (PGD).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from lightning_lead import __version__
from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive, check_range
from lightning_lead._distributed import combine, shared_blocks
from lightning_lead._errors import ConfigurationError
from lightning_lead.calculus._float32 import plain_computation
from lightning_lead.calculus._rng import mix_seed, private_rng
from lightning_lead.calculus.replay import frozen_buffers
from lightning_lead.robust._unit_attacks import ATTACKS, LIBRARY, Spec, attack_images, is_installed
from lightning_lead.robust.sample_attacks import check_epsilon
from lightning_lead.robust.sign_descent import check_norm, sample_norms

__all__ = ["AttackSuite"]

OtherAttack = Callable[[nn.Module, Tensor, Tensor, float], Tensor]
"""(network, images in [0, 1], labels, ε in the same units) -> attacked images."""


@final
class AttackSuite:
    """Attacks by name, and the accuracies that they leave a classifier.

    A name may carry a number: steps of `pgd-20` and `apgd-ce-50`, queries of `square-1000`.

    Args:
        attacks: names; without numbers `pgd` has 20 steps, those of pyautoattack have its own.
        epsilon: largest size of a perturbation, > 0, in the units of the images.
        norm: "linf" or "l2".
        value_range: lowest and highest value of an image.
        restarts: of each attack but the standard ensemble and FGSM, ≥ 1.
        batch_size: images that are attacked together, ≥ 1; part of the protocol, as it decides the random numbers.
        seed: of all random starts, ≥ 0.
        others: name -> (network, images in [0, 1], labels, ε in the same units) -> attacked images, as a function
            around an attack of another library.

    Raises:
        ConfigurationError: an unknown attack, a setting out of its range, or pyautoattack is not installed.

    Example:
        >>> suite = AttackSuite(["fgsm", "pgd-5"], epsilon=0.5)
        >>> network = nn.Linear(2, 2, bias=False)
        >>> _ = network.weight.data.copy_(torch.eye(2))
        >>> images, labels = torch.tensor([[0.2, 0.0], [-1.0, 1.0]]), torch.tensor([0, 1])
        >>> suite.measure(network, images, labels)
        {'robust_accuracy/fgsm': 0.5, 'robust_accuracy/pgd-5': 0.5, 'clean_accuracy': 1.0}
    """

    def __init__(
        self,
        attacks: Sequence[str] = ("pgd-20",),
        *,
        epsilon: float,
        norm: Literal["linf", "l2"] = "linf",
        value_range: tuple[float, float] = (-1.0, 1.0),
        restarts: int = 1,
        batch_size: int = 250,
        seed: int = 0,
        others: Mapping[str, OtherAttack] | None = None,
    ) -> None:
        check_arguments(AttackSuite, locals())
        check_positive(restarts=restarts, batch_size=batch_size)
        if seed < 0:
            raise ConfigurationError(f"Cannot seed the attacks; pass an integer ≥ 0 (got seed={seed})")
        check_norm(norm)
        self.epsilon, self.norm, self.value_range = check_epsilon(epsilon), norm, check_range(value_range)
        self.restarts, self.batch_size, self.seed = restarts, batch_size, seed
        self._specs = {name: _spec(name) for name in attacks}
        self._others = dict(others or {})
        if not self._specs and not self._others:
            raise ConfigurationError(f"Cannot attack without an attack; pass some of {', '.join(ATTACKS)}")
        if twice := self._others.keys() & self._specs.keys():
            raise ConfigurationError(f"Cannot tell attacks apart that have one name; rename those of others= ({twice})")
        foreign = [name for name, spec in self._specs.items() if spec.library == LIBRARY]
        if foreign and not is_installed():
            raise ConfigurationError(
                f"Cannot attack by {', '.join(foreign)} because {LIBRARY}, which has it, is not installed; run "
                "`pip install 'lightning-lead[robust]'`, or use pgd"
            )

    @property
    def names(self) -> list[str]:
        """The names of the accuracies, that on the images as they are at the end."""
        return [f"robust_accuracy/{name}" for name in (*self._specs, *self._others)] + ["clean_accuracy"]

    def protocol(self, num_samples: int) -> dict[str, Any]:
        """Return everything that decides the numbers but the network and the data, in plain types.

        Args:
            num_samples: images that are attacked, on all ranks together.
        """
        attacks: dict[str, Any] = {}
        for name, spec in self._specs.items():
            own = spec.library != LIBRARY
            attacks[name] = {
                "library": f"lightning-lead {__version__}" if own else f"{LIBRARY} {version(LIBRARY)}",
                **spec.settings(self.epsilon, self.restarts),
            }
        for name, attack in self._others.items():
            library = getattr(attack, "__module__", type(attack).__module__)
            attacks[name] = {"library": f"{library}.{getattr(attack, '__qualname__', type(attack).__qualname__)}"}
        low, high = self.value_range
        return {
            "attacks": attacks,
            "epsilon": self.epsilon,
            "norm": self.norm,
            "value_range": [low, high],
            "num_samples": num_samples,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "network_mode": "eval",
        }

    def measure(self, network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
        """Return name -> accuracy; ranks share the images, and all get the same.

        The network is in eval mode meanwhile, and afterwards as it was. The numbers do not depend on how many ranks
        there are: which images are attacked together, and by which random numbers, follows from their order.

        Args:
            network: images (n, …) -> logits (n, K); of the device that its parameters are on.
            images: (N, …), the same on every rank.
            labels: (N,) int64.

        Raises:
            ConfigurationError: no images, images outside of the range, logits that are none, or an attack that breaks
                its bounds.
        """
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        images, labels = images.detach(), labels.detach()
        _check_data(images, labels, self.value_range)
        with plain_computation(device), _at_rest(network):
            counts = torch.zeros(len(self.names), dtype=torch.int64, device=device)
            unit = _UnitNetwork(network, self.value_range)
            for block in shared_blocks(len(images), self.batch_size):
                # copies: what a validation loader makes in inference mode takes no gradient
                x, y = unit.entering(images[block].to(device, copy=True)), labels[block].to(device, copy=True)
                counts += self._correct(unit, x, y, mix_seed(self.seed, block.start) % 2**32)
        return {name: int(n) / len(images) for name, n in zip(self.names, combine(counts).tolist(), strict=True)}

    def _correct(self, unit: _UnitNetwork, x: Tensor, y: Tensor, seed: int) -> Tensor:
        """Count those that are right under each attack, and without one."""
        logits = unit(x)
        if logits.ndim != 2 or len(logits) != len(x) or int(y.max()) >= logits.shape[1]:
            raise ConfigurationError(
                "Cannot tell who is right because the network returns no logits of each class; make it return (n, K), "
                f"K > {int(y.max())} (got {tuple(logits.shape)} for {len(x)} images)"
            )
        clean = _answers(logits) == y
        found = [clean & right for right in self._right(unit, x, y, seed, classes=logits.shape[1])]
        return torch.stack([*found, clean]).sum(1)

    def _right(self, unit: _UnitNetwork, x: Tensor, y: Tensor, seed: int, *, classes: int) -> Iterator[Tensor]:
        """Yield, for each attack, which of the attacked images are still classified as what they are."""
        epsilon = self.epsilon / unit.width
        settings: dict[str, Any] = {
            "epsilon": epsilon,
            "norm": self.norm,
            "restarts": self.restarts,
            "seed": seed,
            "classes": classes,
        }
        for name in (*self._specs, *self._others):
            given = unit, x.clone(), y.clone()
            with private_rng(seed, x.device), torch.enable_grad():
                if name in self._others:
                    attacked = self._others[name](*given, epsilon)
                else:
                    self._specs[name].check_classes(name, classes)
                    attacked = attack_images(self._specs[name], *given, **settings)
            _check_bounds(name, x, attacked, epsilon, self.norm)
            yield _answers(unit(attacked.detach())) == y


class _UnitNetwork(nn.Module):
    """A classifier of images in [0, 1], as attack libraries want it, in float32 on both sides."""

    def __init__(self, network: nn.Module, value_range: tuple[float, float]) -> None:
        super().__init__()
        self.network, self.low, self.width = network, value_range[0], value_range[1] - value_range[0]
        self.dtype = next((p.dtype for p in network.parameters()), torch.float32)
        self.training = False

    def entering(self, images: Tensor) -> Tensor:
        """Images in [0, 1]."""
        return ((images.double() - self.low) / self.width).float().clamp(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(self.low + self.width * x.to(self.dtype))
        return logits.float()


@contextmanager
def _at_rest(network: nn.Module) -> Iterator[None]:
    """Hold a network in eval mode, without gradients of its weights, which some attacks would accumulate."""
    training = [layer for layer in network.modules() if layer.training]
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    with frozen_buffers(network):
        try:
            for layer in training:
                layer.training = False
            for parameter in trained:
                parameter.requires_grad_(False)
            yield
        finally:
            for layer in training:
                layer.training = True
            for parameter in trained:
                parameter.requires_grad_(True)


def _spec(name: str) -> Spec:
    match = re.fullmatch(r"(.+?)(?:-(\d+))?", name)
    spec = ATTACKS.get(match[1]) if match else None
    if match is None or spec is None or (match[2] and (spec.unit is None or not int(match[2]))):
        raise ConfigurationError(
            f"Cannot attack by {name!r} because it is not known; pass some of {', '.join(ATTACKS)}, a number of steps "
            "behind it, as pgd-20"
        )
    return spec._replace(steps=int(match[2])) if match[2] else spec


def _answers(logits: Tensor) -> Tensor:
    """The class of the largest logit; −1, which is wrong, where one is NaN."""
    return logits.argmax(1).where(~logits.isnan().any(1), -1)


def _check_data(images: Tensor, labels: Tensor, value_range: tuple[float, float]) -> None:
    if not len(images) or labels.shape != images.shape[:1] or labels.is_floating_point():
        raise ConfigurationError(
            "Cannot measure accuracies because there must be images, and a label, an integer, for each (got images "
            f"{tuple(images.shape)} and labels {tuple(labels.shape)} of {labels.dtype})"
        )
    low, high = value_range
    lowest, highest = (float(value) for value in torch.aminmax(images))
    slack = 1e-6 * (high - low)
    if not (low - slack <= lowest and highest <= high + slack):
        raise ConfigurationError(
            "Cannot attack images that are outside of their range already; pass value_range=... of your images, or put "
            f"a normalisation into the network (got values from {lowest:.4g} to {highest:.4g}, and "
            f"value_range={value_range})"
        )


def _check_bounds(name: str, x: Tensor, attacked: Any, epsilon: float, norm: str) -> None:
    """Refuse images that no attack may return; sums in float32 are off by 1e-7, and norms by a little more."""
    if not isinstance(attacked, Tensor) or attacked.shape != x.shape:
        got = tuple(attacked.shape) if isinstance(attacked, Tensor) else type(attacked).__name__
        raise ConfigurationError(f"Cannot judge {name!r} because it returned no images of {tuple(x.shape)} (got {got})")
    delta = attacked - x
    size = float(delta.abs().max() if norm == "linf" else sample_norms(delta).max())
    lowest, highest = (float(value) for value in torch.aminmax(attacked))
    if not (size <= epsilon * (1 + 1e-3) + 1e-6 and lowest >= -1e-6 and highest <= 1 + 1e-6):
        raise ConfigurationError(
            f"Cannot count what {name!r} has done because it broke its bounds: of ε = {epsilon:.4g}, on images from 0 "
            f"to 1 (got a perturbation of {size:.4g}, and values from {lowest:.4g} to {highest:.4g})"
        )
