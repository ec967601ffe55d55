"""The device itself: it computes what the processor computes, and refuses and counts what CUDA would."""

from __future__ import annotations

import copy

import pytest
import torch
from device_runs import waits_of_fit
from fake_device import DEVICE, KIND, DeviceTensor, fake_device
from tiny import tiny_gan, tiny_loader, tiny_trainer
from torch import nn


@pytest.fixture
def device():
    with fake_device() as made:
        yield made


def test_what_mixes_devices_is_refused(device):
    x, y = torch.ones(3, device=KIND), torch.ones(3)
    for mixed in (lambda: x + y, lambda: y @ x, lambda: torch.cat([x, y]), lambda: x.lerp(x, y), lambda: x.add_(y)):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(2, device=KIND, generator=torch.Generator())
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(2, generator=torch.Generator(KIND))
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()
    assert torch.equal((x * torch.tensor(2.0)).cpu(), 2 * y)  # a scalar among elementwise operations


def test_what_waits_is_counted(device):
    x = torch.ones(3, device=KIND)
    for waiting in (
        lambda: x.sum().item(),
        lambda: float(x[0]),
        lambda: bool(x[0] > 0),
        lambda: f"{x[0]:.3g}",
        lambda: x.tolist(),
        lambda: x.cpu(),
        lambda: x[x > 0],
        lambda: x.nonzero(),
        lambda: torch.equal(x, x),
        lambda: torch.tensor([1.0], device=KIND),
        lambda: torch.as_tensor(2.0, device=KIND),
        lambda: x.new_tensor([2.0]),
        lambda: torch.ones(3).to(DEVICE),
        lambda: x.copy_(torch.ones(3)),
        lambda: x[torch.tensor([0, 1])],
        lambda: x[[0, 1]],
        lambda: torch.ones(3).copy_(x),
    ):
        with device.counted() as waits:
            waiting()
        assert waits.total() == 1, waits
    with device.counted() as waits:
        (
            torch.ones(3).to(DEVICE, non_blocking=True),
            x[0],
            x.where(x > 0, 0.0),
            x * 2,
            torch.rand(2, device=KIND),
            x.mean(),
        )
        torch.full((2,), 1.5, device=KIND), x.masked_fill_(x > 2, 0.0), x[torch.arange(2, device=KIND)]
        x[x > 2] = 0.0
    assert not waits


def test_numbers_views_and_copies_are_those_of_the_processor(device):
    x = torch.arange(6.0).view(2, 3)
    y = x.to(KIND)
    y[0].mul_(2)
    y.t()[1].add_(1)
    x[0].mul_(2)
    x.t()[1].add_(1)
    assert torch.equal(y.cpu(), x)
    assert torch.equal(y[:, [2, 0]].cpu(), x[:, [2, 0]])
    parameter = nn.Parameter(y)
    again = copy.deepcopy(parameter)
    assert isinstance(again, nn.Parameter)
    assert type(again.data) is DeviceTensor
    (again**3).sum().backward()
    assert torch.equal(again.grad.cpu(), 3 * x**2)
    again.data = torch.zeros(2, device=KIND)
    assert again.shape == (2,)
    assert torch.equal(parameter.detach().cpu(), x)


def test_a_fit_ends_where_it_ends_on_the_processor(device):
    ends = []
    for fit in ("here", "there"):
        gan = tiny_gan(batch_norm=True)
        if fit == "there":
            waits = waits_of_fit(device, gan, tiny_loader(24))
            assert [step.total() for step in waits[1:]] == [2, 2], waits
        else:
            torch.manual_seed(7)
            tiny_trainer(3).fit(gan, tiny_loader(24))
        ends.append(torch.cat([p.detach().flatten() for p in gan.parameters()]))
    assert torch.equal(*ends)


def test_nothing_stays_behind():
    with fake_device():
        pass
    assert not hasattr(torch, KIND)
    assert type(torch.Generator()) is torch.Generator
    assert torch.zeros(1, device=KIND).is_meta
