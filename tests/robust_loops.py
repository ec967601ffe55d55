"""Adversarial training as one would write it into a plain loop: what the library is compared with."""

from __future__ import annotations

import copy

import robust_kit as kit
import torch
from torch.nn.functional import cross_entropy, log_softmax, softmax

from lightning_lead.calculus import mix_seed, private_rng
from lightning_lead.robust import MART, TRADES, FGSMAttack, PGDAttack

LOW, HIGH = kit.RANGE


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=5e-4)


def project(delta, x, epsilon, norm="linf"):
    if norm == "l2":
        delta = delta * (epsilon / delta.flatten(1).norm(dim=1).clamp(min=epsilon)).view(-1, 1, 1, 1)
        return torch.min(torch.max(delta, LOW - x), HIGH - x)
    return torch.min(torch.max(delta.clamp(-epsilon, epsilon), LOW - x), HIGH - x)


def kl(clean, attacked):
    p = softmax(clean, 1)
    return (p * (log_softmax(clean, 1) - log_softmax(attacked, 1))).sum(1)


def ce_attack(net, x, attacked, y):
    return cross_entropy(net(attacked), y)


def ce_loss(net, x, attacked, y):
    return cross_entropy(net(attacked), y)


def trades_attack(net, x, attacked, y):
    return kl(net(x), net(attacked)).mean()


def trades_loss(net, x, attacked, y):
    clean = net(x)
    return cross_entropy(clean, y) + 4.0 * kl(clean, net(attacked)).mean()


def mart_loss(net, x, attacked, y):
    """As the authors' code has it, without the small numbers in its logarithms."""
    clean, adv = net(x), net(attacked)
    probs = softmax(adv, 1)
    ranked = probs.argsort(1)
    runner_up = torch.where(ranked[:, -1] == y, ranked[:, -2], ranked[:, -1])
    boosted = cross_entropy(adv, y) - torch.log(1 - probs[torch.arange(len(y)), runner_up]).mean()
    return boosted + 3.0 * (kl(clean, adv) * (1 - softmax(clean, 1)[torch.arange(len(y)), y])).mean()


LOOPS = {
    "pgd": (lambda: PGDAttack(0.2, step_size=0.07, steps=3), "cross_entropy", ce_attack, ce_loss),
    "pgd from zero": (
        lambda: PGDAttack(0.2, step_size=0.07, steps=3, random_start=False),
        "cross_entropy",
        ce_attack,
        ce_loss,
    ),
    "pgd l2": (lambda: PGDAttack(0.5, step_size=0.2, steps=3, norm="l2"), "cross_entropy", ce_attack, ce_loss),
    "fgsm": (lambda: FGSMAttack(0.2), "cross_entropy", ce_attack, ce_loss),
    "trades": (lambda: PGDAttack(0.2, step_size=0.07, steps=3), TRADES(beta=4.0), trades_attack, trades_loss),
    "mart": (lambda: PGDAttack(0.2, step_size=0.07, steps=3), MART(weight=3.0), ce_attack, mart_loss),
}


def start_of(attack, loss, x, seed):
    with private_rng(seed):
        if isinstance(loss, TRADES):
            return 0.001 * torch.randn_like(x)
        if not attack.random_start:
            return torch.zeros_like(x)
        if attack.norm == "linf":
            return torch.empty_like(x).uniform_(-attack.epsilon, attack.epsilon)
        drawn = torch.randn_like(x)
        lengths = attack.epsilon * torch.rand(len(x), 1, 1, 1, dtype=x.dtype)
        return lengths * drawn / drawn.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def loop(net, attack, loss, attack_loss, network_loss, seed, *, mode="eval", steps=1, epochs=1):
    optimizer = sgd(net.parameters())
    for step, (x, y) in enumerate([*kit.loader()] * epochs):
        delta = project(start_of(attack, loss, x, mix_seed(seed, 0, step)), x, attack.epsilon, attack.norm)
        frozen = copy.deepcopy(net).train(mode == "train")  # whose statistics are thrown away
        for _ in range(steps):
            delta.requires_grad_()
            (slope,) = torch.autograd.grad(attack_loss(frozen, x, x + delta, y), delta)
            unit = slope.sign()
            if attack.norm == "l2":
                unit = slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            delta = project(delta.detach() + attack.step_size * unit, x, attack.epsilon, attack.norm)
            frozen.load_state_dict(net.state_dict())
        optimizer.zero_grad()
        network_loss(net, x, x + delta, y).backward()
        optimizer.step()
    return net
