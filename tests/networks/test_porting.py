"""Ported weights compute the function that they were trained to: each project's generator is written out again."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate, relu

from lightning_lead import ConfigurationError
from lightning_lead.networks import SNGANGenerator, port_generator

WIDTHS = {4: (8, 8, 8, 8), 6: (16, 8, 4, 2)}  # pixels at the bottom -> channels


def bilinear(x):
    return interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def nearest(x):
    return interpolate(x, scale_factor=2)


class Sequence(nn.Module):
    """As pytorch-gan-collections stacks it."""

    class Block(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            norm1, norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
            conv1, conv2 = nn.Conv2d(inputs, outputs, 3, 1, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)
            self.residual = nn.Sequential(norm1, nn.ReLU(), nn.Upsample(scale_factor=2), conv1, norm2, nn.ReLU(), conv2)
            self.shortcut = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 1))

        def forward(self, x):
            return self.residual(x) + self.shortcut(x)

    def __init__(self, side, *, older):
        super().__init__()
        self.side, self.older, widths = side, older, WIDTHS[side]
        self.linear = nn.Linear(5, side**2 * widths[0])
        blocks = [self.Block(i, o) for i, o in pairwise(widths)]
        end = [nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.Conv2d(widths[-1], 3, 3, 1, 1), nn.Tanh()]
        self.blocks = nn.Sequential(*blocks, *(end if older else []))
        if not older:
            self.output = nn.Sequential(*end)

    def forward(self, z):
        h = self.blocks(self.linear(z).view(len(z), -1, self.side, self.side))
        return h if self.older else self.output(h)


class ClassNorm(nn.Module):
    """mimicry's."""

    def __init__(self, width):
        super().__init__()
        self.bn, self.embed = nn.BatchNorm2d(width, affine=False), nn.Embedding(3, 2 * width)

    def forward(self, x, labels):
        scale, shift = self.embed(labels)[:, :, None, None].chunk(2, 1)
        return scale * self.bn(x) + shift


class Numbered(nn.Module):
    """As sngan.pytorch and mimicry number it."""

    class Block(nn.Module):
        def __init__(self, inputs, outputs, up, conditional):
            super().__init__()
            norm = ClassNorm if conditional else nn.BatchNorm2d
            self.b1, self.b2, self.up = norm(inputs), norm(outputs), up
            self.c1, self.c2 = nn.Conv2d(inputs, outputs, 3, 1, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)
            self.c_sc = nn.Conv2d(inputs, outputs, 1)

        def forward(self, x, *labels):
            h = self.c1(self.up(relu(self.b1(x, *labels))))
            return self.c2(relu(self.b2(h, *labels))) + self.c_sc(self.up(x))

    def __init__(self, side, up, *, conditional=False):
        super().__init__()
        self.side, widths = side, WIDTHS[side]
        self.l1 = nn.Linear(5, side**2 * widths[0])
        self.block2, self.block3, self.block4 = (self.Block(i, o, up, conditional) for i, o in pairwise(widths))
        self.b5, self.c5 = nn.BatchNorm2d(widths[-1]), nn.Conv2d(widths[-1], 3, 3, 1, 1)

    def forward(self, z, *labels):
        h = self.l1(z).view(len(z), -1, self.side, self.side)
        for block in (self.block2, self.block3, self.block4):
            h = block(h, *labels)
        return torch.tanh(self.c5(relu(self.b5(h))))


def trained(network):
    """Nothing at its start value, the statistics of batch norm least of all."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    for name, buffer in network.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 2.0)
    return network.eval()


CASES = {
    "pytorch-gan-collections": lambda side: Sequence(side, older=False),
    "pytorch-gan-collections, older": lambda side: Sequence(side, older=True),
    "sngan.pytorch": lambda side: Numbered(side, nearest),
    "mimicry": lambda side: Numbered(side, bilinear),
}


@pytest.mark.parametrize("side", [4, 6])
@pytest.mark.parametrize("name", CASES)
def test_a_ported_generator_is_the_same_function(name, side):
    theirs = trained(CASES[name](side))
    ours = port_generator(theirs.state_dict(), layout=name.split(",")[0]).double()
    theirs, latents = theirs.double(), torch.randn(4, 5, dtype=torch.float64)
    with torch.no_grad():
        assert (ours(latents) - theirs(latents)).abs().max() < 1e-12
        for network in (ours, theirs):  # and with the statistics of the batch
            network.train()
        assert (ours(latents) - theirs(latents)).abs().max() < 1e-12
    assert ours(latents).shape == (4, 3, 8 * side, 8 * side)


def test_a_ported_conditional_generator_is_the_same_function():
    theirs = trained(Numbered(4, bilinear, conditional=True))
    ours = port_generator({"model_state_dict": theirs.state_dict(), "global_step": 3})
    latents, labels = torch.randn(4, 5), torch.tensor([0, 2, 1, 2])
    with torch.no_grad():
        assert (ours(latents, labels) - theirs(latents, labels)).abs().max() < 1e-6
        assert (ours(latents, labels) - theirs(latents, labels.flip(0))).abs().max() > 1e-2
    assert ours.num_classes == 3


def test_one_upsampling_in_place_of_the_other_would_be_seen():
    theirs = trained(Numbered(4, bilinear))
    ours = port_generator(theirs.state_dict(), layout="sngan.pytorch")
    latents = torch.randn(4, 5)
    assert (ours(latents) - theirs(latents)).abs().max() > 1e-2


def test_a_checkpoint_says_whose_it_is():
    collections, numbered = trained(Sequence(4, older=False)), trained(Numbered(4, nearest))
    other = {name: tensor + 1 for name, tensor in numbered.state_dict().items()}
    for checkpoint, upsampling in (
        ({"net_G": collections.state_dict(), "net_D": {}}, "nearest"),
        (collections.state_dict(), "nearest"),
        ({"gen_state_dict": other, "avg_gen_state_dict": numbered.state_dict(), "epoch": 3}, "nearest"),
        ({"model_state_dict": numbered.state_dict(), "optimizer_state_dict": None}, "bilinear"),
        ({"model_state_dict": {f"module.{n}": t for n, t in numbered.state_dict().items()}}, "bilinear"),
    ):
        ours = port_generator(checkpoint)
        assert not ours.training
        assert ours.blocks[0].upsampling == upsampling
        assert not torch.equal(ours.head.weight, other["c5.weight"])


def test_a_file_without_counts_of_batches_is_ported():
    state = {n: t for n, t in Numbered(4, nearest).state_dict().items() if "num_batches" not in n}
    assert isinstance(port_generator(state, layout="sngan.pytorch"), SNGANGenerator)


def changed(**changes):
    state = Numbered(4, nearest).state_dict() | changes
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    ("state", "layout", "message"),
    [
        (changed(), None, r"same names.*layout='sngan.pytorch' or layout='mimicry'"),
        (changed(), "biggan", "one of pytorch-gan-collections, sngan.pytorch, mimicry"),
        (changed(), "pytorch-gan-collections", "not those of pytorch-gan-collections.*l1.weight"),
        ({"conv.weight": torch.zeros(2, 2)}, None, r"any known layout.*1 tensors: conv.weight"),
        ({"epoch": 3, "args": {}}, None, r"no tensors.*got epoch, args"),
        ({}, None, "got nothing"),
        (changed(**{"block5.c1.weight": torch.zeros(8, 8, 3, 3)}), "mimicry", r"no 'block5.c1.weight'.*\(8, 8, 3, 3\)"),
        (changed(**{"block4.c1.weight": None}), "mimicry", "'block4.c1.weight', which the layout of mimicry has"),
        (changed(**{"b5.bias": None}), "mimicry", r"norm.bias of SNGANGenerator has shape \(8,\).*got nothing"),
        (changed(**{"c5.bias": torch.zeros(4)}), "mimicry", r"head.bias of SNGANGenerator has shape \(3,\).*\(4,\)"),
        (changed(**{"block2.c1.extra": torch.zeros(1)}), "mimicry", "no place for blocks.0.conv1.extra"),
        (changed(**{"l1.weight": torch.zeros(512, 5)}), "mimicry", r"another architecture.*8 → 8 → 8 → 8, and 512"),
    ],
)
def test_what_is_no_such_generator_is_refused_by_name(state, layout, message):
    with pytest.raises(ConfigurationError, match=message):
        port_generator(state, layout=layout)
