"""The methods of the benchmark: ours through `LeadGANModule` under a Trainer, rivals as plain loops.

Plain loops are at an advantage: they neither log, nor seed, nor check anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import pytorch_lightning as pl
import torch
from meters import Meter, Traffic
from torch import Tensor
from torch.utils.data import DataLoader
from workloads import Workload

from lightning_lead import LeadGANModule, LEADStrategy
from lightning_lead._errors import ConfigurationError
from lightning_lead.objectives import adversarial_objective
from lightning_lead.training import _turn_oracles

__all__ = ["COMPILED", "METHODS", "SIMULTANEOUS", "Method"]

Vector = Sequence[Tensor]
Method = Callable[[Workload, torch.device, Meter, Traffic], None]


def library(game: Callable[[], LEADStrategy], *, compiled: Mapping[str, Any] | None = None, **settings: Any) -> Method:
    """A method of this library: `training_step` of a `LeadGANModule`, as a Trainer runs it.

    Args:
        game: () -> strategy.
        compiled: arguments of `torch.compile` for both networks, or None.
        **settings: of the module.
    """

    def train(workload: Workload, device: torch.device, meter: Meter, traffic: Traffic) -> None:
        def counted(*_: Any) -> Traffic:
            return traffic

        mock.patch.object(_turn_oracles, "mean_over_ranks", counted).start()
        sharing = settings.get("shared_latents", False)
        networks = workload.built(device)
        for network in networks if compiled is not None else ():
            network.compile(**compiled)
        given: dict[str, Any] = {"optimizer": lambda groups: torch.optim.Adam(groups, betas=workload.betas)} | settings
        gan = LeadGANModule(
            *networks,
            objective=workload.objective,
            game=game(),
            latent_dim=workload.latent_dim,
            discriminator_steps=workload.discriminator_steps,
            generator_batch_size=None if sharing else workload.generator_batch_size,
            **given,
        )
        step = gan.training_step
        gan.training_step = lambda *batch: meter(lambda: step(*batch))  # type: ignore[method-assign,assignment]
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            precision=workload.precision,
            max_steps=-1,
            log_every_n_steps=10**9,  # norms and cosines are not part of any method
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        if trainer.precision != workload.precision:  # Lightning warns and takes bf16 where there is no fp16
            raise ConfigurationError(
                f"Cannot play in {workload.precision} because Lightning takes {trainer.precision} on this device; "
                f"choose that (got {device})"
            )
        batch = workload.batch(device)
        trainer.fit(gan, DataLoader([batch] * 10**6, batch_size=None))  # type: ignore[arg-type]

    return train


class Loop:
    """What every plain loop needs: networks, losses, fresh latents, one Adam per player, and a count of its traffic."""

    def __init__(self, workload: Workload, device: torch.device, traffic: Traffic) -> None:
        self.workload, self.device, self.traffic = workload, device, traffic
        self.generator, self.discriminator = workload.built(device)
        self.g, self.d = list(self.generator.parameters()), list(self.discriminator.parameters())
        self.objective = adversarial_objective(workload.objective)
        self.batch = workload.batch(device)
        self.adams = {id(own): torch.optim.Adam(own, lr=2e-4, betas=workload.betas) for own in (self.g, self.d)}

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.workload.precision == "bf16-mixed")

    def fakes(self, count: int) -> Tensor:
        made: Tensor = self.generator(torch.randn(count, self.workload.latent_dim, device=self.device))
        return made

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        loss: Tensor = self.objective.discriminator_loss(self.discriminator(real), self.discriminator(fake))
        return loss

    def generator_loss(self, fake: Tensor) -> Tensor:
        loss: Tensor = self.objective.generator_loss(self.discriminator(fake))
        return loss

    def discriminator_gradient(self, real: Tensor) -> Vector:
        with self.autocast():
            with torch.no_grad():
                fake = self.fakes(len(real))
            loss = self.discriminator_loss(real, fake)
        return torch.autograd.grad(loss, self.d)

    def generator_gradient(self, count: int) -> Vector:
        with self.autocast():
            loss = self.generator_loss(self.fakes(count))
        return torch.autograd.grad(loss, self.g)

    def move(self, own: list[Tensor], direction: Vector) -> None:
        for parameter, part in zip(own, self.traffic(direction), strict=True):
            parameter.grad = part
        self.adams[id(own)].step()


def adam(workload: Workload, device: torch.device, meter: Meter, traffic: Traffic) -> None:
    """Alternating Adam as careful users write it."""
    loop = Loop(workload, device, traffic)

    def step() -> None:
        for real in loop.batch.split(workload.batch_size):
            loop.move(loop.d, loop.discriminator_gradient(real))
        loop.move(loop.g, loop.generator_gradient(workload.fakes))

    while True:
        meter(step)


def extra_adam(workload: Workload, device: torch.device, meter: Meter, traffic: Traffic) -> None:
    """Extragradient with Adam (Gidel et al. 2019): every update is an extrapolation, then a step from where it began.

    Each player's two gradients are computed as alternating Adam computes its one.
    """
    loop = Loop(workload, device, traffic)

    def extra(own: list[Tensor], gradient: Callable[[], Vector]) -> None:
        begin = [p.detach().clone() for p in own]
        loop.move(own, gradient())
        ahead = gradient()
        torch._foreach_copy_([p.detach() for p in own], begin)
        loop.move(own, ahead)

    def step() -> None:
        for real in loop.batch.split(workload.batch_size):
            extra(loop.d, lambda real=real: loop.discriminator_gradient(real))
        extra(loop.g, lambda: loop.generator_gradient(workload.fakes))

    while True:
        meter(step)


def extra_adam_joint(workload: Workload, device: torch.device, meter: Meter, traffic: Traffic) -> None:
    """Extragradient with Adam as its authors play it: both players at once, on one forward pass."""
    loop = Loop(workload, device, traffic)

    def joint(real: Tensor) -> tuple[Vector, Vector]:
        with loop.autocast():
            fake = loop.fakes(len(real))
            logits = loop.discriminator(fake)
            generator_loss = loop.objective.generator_loss(logits)
            discriminator_loss = loop.objective.discriminator_loss(loop.discriminator(real), logits)
        (cotangent,) = torch.autograd.grad(generator_loss, [fake], retain_graph=True)
        return (
            torch.autograd.grad(discriminator_loss, loop.d),
            torch.autograd.grad(fake, loop.g, cotangent),
        )

    def step() -> None:
        begin = [p.detach().clone() for p in (*loop.d, *loop.g)]
        for extrapolating in (True, False):
            d, g = joint(loop.batch)
            if not extrapolating:
                torch._foreach_copy_([p.detach() for p in (*loop.d, *loop.g)], begin)
            loop.move(loop.d, d)
            loop.move(loop.g, g)

    while True:
        meter(step)


def naive(workload: Workload, device: torch.device, meter: Meter, traffic: Traffic) -> None:
    """LEAD as its equations read: both losses, differentiated twice through both networks, in every update."""
    loop = Loop(workload, device, traffic)
    last = {id(own): [p.detach().clone() for p in own] for own in (loop.g, loop.d)}

    def direction(real: Tensor, count: int, own: list[Tensor], other: list[Tensor]) -> Vector:
        with loop.autocast():
            logits = loop.discriminator(loop.fakes(count))
            losses = {
                id(loop.d): loop.objective.discriminator_loss(loop.discriminator(real), logits),
                id(loop.g): loop.objective.generator_loss(logits),
            }
        field = torch.autograd.grad(losses[id(other)], other, create_graph=True)
        moved = torch._foreach_sub([p.detach() for p in other], last[id(other)])
        product = torch.stack([(f * m).sum() for f, m in zip(field, moved, strict=True)]).sum()
        cross = torch.autograd.grad(product, own, retain_graph=True)
        gradient = torch.autograd.grad(losses[id(own)], own)
        last[id(other)] = [p.detach().clone() for p in other]
        return torch._foreach_sub(gradient, cross)

    def step() -> None:
        for real in loop.batch.split(workload.batch_size):
            loop.move(loop.d, direction(real, workload.batch_size, loop.d, loop.g))
        loop.move(loop.g, direction(real, workload.fakes, loop.g, loop.d))

    while True:
        meter(step)


def released(workload: Workload, device: torch.device, meter: Meter, traffic: Traffic) -> None:
    """The scheme of the paper's released ResNet script, re-implemented: a cross term for the discriminator alone.

    The graph of the generator's last gradient is kept and differentiated again, outside of Adam, in every
    discriminator update, also where the generator has not moved. Weights change through `.data`, or torch would refuse.
    """
    loop = Loop(workload, device, traffic)
    adams = {}
    for own in (loop.g, loop.d):
        aliases = [p.data for p in own]
        adams[id(own)] = (torch.optim.Adam(aliases, lr=2e-4, betas=workload.betas), aliases)

    def move(own: list[Tensor], direction: Vector) -> None:
        adam, aliases = adams[id(own)]
        for alias, part in zip(aliases, traffic(direction), strict=True):
            alias.grad = part.detach()
        adam.step()

    def generator_field() -> Vector:
        with loop.autocast():
            loss = loop.generator_loss(loop.fakes(workload.fakes))
        return torch.autograd.grad(loss, loop.g, create_graph=True)

    held: dict[str, Any] = {"field": generator_field(), "last": [p.data.clone() for p in loop.g]}

    def step() -> None:
        for real in loop.batch.split(workload.batch_size):
            with loop.autocast():
                with torch.no_grad():
                    fake = loop.fakes(len(real))
                loss = loop.discriminator_loss(real, fake)
            move(loop.d, torch.autograd.grad(loss, loop.d, create_graph=True))
            now = [p.data.clone() for p in loop.g]
            moved = torch._foreach_sub(now, held["last"])
            held["last"] = now
            term = torch.autograd.grad(held["field"], loop.d, moved, create_graph=True)
            for parameter, part in zip(loop.d, traffic(term), strict=True):
                parameter.data.sub_(part.detach(), alpha=2e-4)
        held["field"] = generator_field()
        move(loop.g, held["field"])

    while True:
        meter(step)


def acgd(workload: Workload, device: torch.device, meter: Meter, traffic: Traffic) -> None:
    """Adaptive competitive gradient descent by its authors' package, with its defaults; its traffic is not counted."""
    from CGDs import ACGD

    loop = Loop(workload, device, traffic)
    optimizer = ACGD(loop.g, loop.d, lr_max=2e-4, lr_min=2e-4)

    def step() -> None:
        with loop.autocast():
            loss = loop.discriminator_loss(loop.batch, loop.fakes(workload.batch_size))
        optimizer.step(loss)

    while True:
        meter(step)


METHODS: dict[str, Method] = {
    "Adam": library(lambda: LEADStrategy(coupling=0.0)),
    "Adam, a plain loop without Lightning": adam,
    "LEAD, extrapolated": library(lambda: LEADStrategy(cross="extrapolated")),
    "LEAD, exact": library(lambda: LEADStrategy()),
    "LEAD, exact, on a quarter of the batch": library(lambda: LEADStrategy(cross_fraction=0.25)),
    "LEAD, difference": library(lambda: LEADStrategy(cross="difference")),
    "LEAD, difference, shared latents": library(lambda: LEADStrategy(cross="difference"), shared_latents=True),
    "LEAD, naive double backward": naive,
    "LEAD as released (stale graph, D only)": released,
    "ExtraAdam": extra_adam,
    "ExtraAdam, one forward for both players": extra_adam_joint,
    "ACGD (CGDs)": acgd,
    "Adam, compiled": library(lambda: LEADStrategy(coupling=0.0), compiled={}),
    "LEAD, exact, compiled": library(lambda: LEADStrategy(), compiled={}),
    "LEAD, difference, compiled": library(lambda: LEADStrategy(cross="difference"), compiled={}),
}
COMPILED = {name for name in METHODS if name.endswith("compiled")}
"""Methods that spend minutes on compiling before their first step."""
SIMULTANEOUS = {"ExtraAdam, one forward for both players", "ACGD (CGDs)"}
"""Methods that have no several discriminator steps."""
