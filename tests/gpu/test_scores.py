"""Scores on a CUDA device are those of the processor; run with `-m gpu`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_lead.calculus._float32 import float32_products, full_float32
from lightning_lead.metrics import FID, KID, PRDC, ReferenceImages, Scorer
from lightning_lead.metrics._collection import ScoreCollection

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
METRICS = ["fid", "kid", "prdc", "memorization"]


class Extractor(nn.Module):
    """Twelve features by two convolutions that TF32 would round, always the same weights."""

    num_features = 12

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.layers = nn.Sequential(nn.Conv2d(3, 32, 5), nn.ReLU(), nn.Conv2d(32, 12, 5), nn.AdaptiveAvgPool2d(1))
        self.forwards = 0

    def forward(self, images):
        self.forwards += len(images)
        return self.layers(images.float() / 127.5 - 1).flatten(1)


def pictures(count, seed):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    return (nn.functional.interpolate(coarse, 16, mode="bilinear") * 255).round().to(torch.uint8)


def test_feature_scores_are_those_of_the_processor():
    values = {}
    for device in ("cpu", DEVICE):
        chosen = [FID(), KID(subset_size=200), PRDC()]
        scores = ScoreCollection(chosen, num_features=16, chunk=300, device=device)
        for real in (True, False):
            rows = torch.randn(300, 16, generator=torch.Generator().manual_seed(int(real))) + 0.2 * real
            scores.add(rows.to(device), real=real)
        values[device] = scores.compute()
    for name, value in values["cpu"].items():
        # everything is in float64; FID takes roots of eigenvalues, which keep half of the digits where they are small
        assert values[DEVICE][name] == pytest.approx(value, rel=1e-6 if name == "fid" else 1e-9), name
    assert values["cpu"]["fid"] > 0.1


@pytest.fixture
def measure(tmp_path):
    def run(device, folder="statistics"):
        extractor = Extractor()
        settings = {"num_samples": 300, "batch_size": 100, "kid_subset_size": 200, "cache": tmp_path / folder}
        scorer = Scorer(extractor, metrics=METRICS, **settings)
        scorer.take_reference(ReferenceImages(pictures(400, 0), name="pictures"), torch.device(device))
        passed = extractor.forwards - 2  # the trial
        return scorer.measure_images(pictures(300, 1).to(device).split(100), {}), passed

    return run


def test_images_score_as_on_the_processor_and_the_cache_serves_one_device(measure):
    on_device, passed = measure(DEVICE)
    assert passed == 400
    again, passed = measure(DEVICE)
    assert passed == 0
    for name, value in on_device.values.items():
        assert again.values[name] == pytest.approx(value, rel=1e-9), name  # a kernel's order of sums may change
    plain, passed = measure("cpu")
    assert passed == 400  # statistics of another device are not taken
    for name, value in plain.values.items():
        # features in float32, of which FID and KID of like sets are small differences; shares move by whole images
        wanted = {"fid": pytest.approx(value, rel=1e-3), "kid": pytest.approx(value, rel=1e-3, abs=1e-6)}
        assert on_device.values[name] == wanted.get(name, pytest.approx(value, rel=1e-2, abs=0.02)), name
    assert on_device.protocol["device"] == {
        "name": torch.cuda.get_device_name(),
        "convolution": "float32",
        "matmul": "float32",
        "cudnn": torch.backends.cudnn.version(),
    }


def test_no_setting_of_tf32_moves_a_score(measure):
    images, extractor = pictures(100, 1).to(DEVICE), Extractor().to(DEVICE)
    with full_float32(), torch.no_grad():
        exact = extractor(images)
        wanted, _ = measure(DEVICE, "off")
    torch.set_float32_matmul_precision("high")
    try:
        assert set(float32_products("cuda").values()) == {"tf32"}
        found, _ = measure(DEVICE, "on")
        with torch.no_grad():
            rounded = extractor(images)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert found.values["fid"] == pytest.approx(wanted.values["fid"], rel=1e-6)
    if torch.cuda.get_device_capability() >= (8, 0):  # the control: it would have moved the features
        assert float((rounded - exact).abs().max() / exact.abs().max()) > 1e-5
