"""The same game on a CUDA device; run with `-m gpu`."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_gan, tiny_points, tiny_trainer

from lightning_lead import LEADStrategy
from lightning_lead.calculus import private_rng

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def fit(accelerator, *, points=None, dtype=torch.float64, **settings):
    precision = settings.pop("precision", "64-true" if dtype == torch.float64 else "32-true")
    gan = tiny_gan(dtype=dtype, **settings)
    latents = torch.randn(24, 3, generator=torch.Generator().manual_seed(1), dtype=dtype)
    gan.sample_latents = lambda n: latents[:n].to(gan.device)
    data = torch.utils.data.TensorDataset(tiny_points(dtype=dtype))
    trainer = tiny_trainer(5, accelerator=accelerator, precision=precision)
    trainer.fit(gan, torch.utils.data.DataLoader(data, 24))
    return torch.cat([p.detach().cpu().flatten() for p in gan.parameters()])


@pytest.mark.parametrize("cross", ["exact", "difference"])
def test_the_device_computes_what_the_processor_computes(cross):
    weights = [fit(accelerator, game=LEADStrategy(cross=cross)) for accelerator in ("cpu", "gpu")]
    assert (weights[0] - weights[1]).abs().max() < 1e-9


@pytest.mark.parametrize("half", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("cross", ["exact", "difference", "extrapolated"])
def test_mixed_precision_stays_near_float32(cross, half):
    settings = {"dtype": torch.float32, "game": LEADStrategy(cross=cross)}
    full, mixed = (fit("gpu", precision=precision, **settings) for precision in ("32-true", half))
    assert torch.isfinite(mixed).all()
    assert (full - mixed).abs().max() < 0.1  # five steps of 0.01 in either direction


def test_private_noise_leaves_the_device_s_generator_alone():
    torch.cuda.manual_seed(5)
    before = torch.cuda.get_rng_state()
    draws = []
    for _ in range(2):
        with private_rng(3, "cuda") as generator:
            draws.append((torch.rand(4, device="cuda"), torch.rand(4, device="cuda", generator=generator)))
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(*draws, strict=True))
