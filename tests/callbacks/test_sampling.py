"""Sampling depends on weights and seed alone, and leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_lead import ConfigurationError
from lightning_lead.calculus._float32 import float32_products
from lightning_lead.callbacks import generate, outside_range, to_uint8


def draw(model, count=20, **settings):
    return torch.cat(list(generate(model, count, **({"seed": 1, "batch_size": 8} | settings))))


def modes(model):
    return [child.training for child in model.modules()]


def test_ranks_share_the_work_of_one(kit):
    model = kit.gan()
    alone = list(generate(model, 20, seed=1, batch_size=8))
    shares = [list(generate(model, 20, seed=1, batch_size=8, rank=r, world_size=2)) for r in range(2)]
    assert [len(chunk) for chunk in alone] == [8, 8, 4]
    together = [shares[k % 2][k // 2] for k in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert not torch.equal(alone[0], alone[1])  # the control: chunks have noise of their own


def test_nothing_outside_moves(kit):
    model = kit.gan()
    model.train()
    model.generator.norm.eval()
    before, state = modes(model), {k: v.clone() for k, v in model.state_dict().items()}
    assert len(set(before)) == 2
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    iterator = generate(model, 20, seed=1, batch_size=8)
    first = next(iterator)
    assert modes(model) == before  # also while somebody looks at a chunk, and if the rest is never asked for
    assert torch.is_grad_enabled()
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not first.requires_grad
    assert torch.equal(first, draw(model)[:8])


def test_eval_mode_inside(kit):
    model = kit.gan()
    with torch.no_grad(), model.private_noise(0):
        model.eval()
        latents = model.sample_latents(4)
        assert not torch.equal(model(latents), model.train()(latents))  # the modes differ ...
    model.train()
    drawn = draw(model)
    model.eval()
    assert torch.equal(drawn, draw(model))  # ... and it did not matter


def test_modes_return_after_an_exception(kit):
    class Fails(nn.Module):
        latent_dim = 4

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, latents):
            raise RuntimeError("no")

    model = kit.gan(Fails())
    model.train()
    with pytest.raises(RuntimeError, match="no"):
        draw(model)
    assert all(modes(model))


def test_autocast_is_off(kit):
    model = kit.gan()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = draw(model)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, draw(model))


def test_tf32_is_off(kit):
    """A processor does not obey the setting, but it can be read."""
    seen = []

    class Watched(kit.TinyGenerator):
        def forward(self, latents):
            seen.append(float32_products("cuda")["convolution"])
            return super().forward(latents)

    model = kit.gan(Watched())
    draw(model)
    assert set(seen) == {"float32"}
    model(torch.zeros(2, 4))
    assert seen[-1] == "tf32"  # the control: torch's default


def test_labels_reach_a_conditional_generator(kit):
    class Conditional(nn.Module):
        latent_dim, num_classes = 4, 3

        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(3, 2)

        def forward(self, latents, labels):
            return self.table(labels)

    samples = draw(kit.gan(Conditional()))
    assert len(samples.unique(dim=0)) == 3


def test_rounding_not_truncation():
    grey = torch.arange(256)
    assert torch.equal(to_uint8(grey / 127.5 - 1), grey.byte())
    nearly = to_uint8(torch.tensor([-1.0, 0.9999, 0.5 / 127.5 - 1 + 1e-4]))
    assert nearly.tolist() == [0, 255, 1]
    truncated = ((torch.tensor([0.9999]) + 1) * 127.5).byte()
    assert truncated.item() == 254  # the control
    bytes_in = torch.tensor([3], dtype=torch.uint8)
    assert to_uint8(bytes_in, (0.0, 1.0)) is bytes_in


def test_outside_the_range():
    images = torch.tensor([-1.0019, 0.0, 1.0019, 1.3])
    assert outside_range(images) == 1
    assert to_uint8(images, strict=False).tolist() == [0, 128, 255, 255]
    with pytest.raises(ConfigurationError, match=r"value_range=\(-1, 1\).*got values from -1\.002 to 1\.3"):
        to_uint8(images)
    assert to_uint8(images[:3]).tolist() == [0, 128, 255]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite(bad):
    with pytest.raises(ConfigurationError, match=r"not finite.*got 1 of 2"):
        to_uint8(torch.tensor([0.0, bad]), strict=False)


def test_integers_are_not_images():
    with pytest.raises(ConfigurationError, match=r"neither floats nor bytes.*int64"):
        to_uint8(torch.tensor([1]))


@pytest.mark.parametrize(("count", "size"), [(0, 1), (1, 0), (1.5, 1)])
def test_counts_are_checked(kit, count, size):
    with pytest.raises(ConfigurationError, match="integer ≥ 1"):
        next(generate(kit.gan(), count, seed=0, batch_size=size))


def test_a_generator_of_the_wrong_count_is_refused(kit):
    model = kit.gan()
    model.forward = lambda latents: torch.zeros(len(latents) + 1, 2)
    with pytest.raises(ConfigurationError, match=r"8 were asked for .*got \(9, 2\)"):
        draw(model)
