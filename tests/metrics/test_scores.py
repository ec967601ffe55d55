"""The scores equal those that numpy and scipy compute in another way from the same features."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_lead._distributed import gather_in_order
from lightning_lead.calculus._rng import private_rng
from lightning_lead.metrics import FID, KID, ClassifierScore, ImageSet
from lightning_lead.metrics._collection import ScoreCollection


def frechet(x, y):
    root = scipy.linalg.sqrtm(np.cov(x, rowvar=False) @ np.cov(y, rowvar=False))
    moved = np.square(x.mean(0) - y.mean(0)).sum()
    return moved + np.trace(np.cov(x, rowvar=False)) + np.trace(np.cov(y, rowvar=False)) - 2 * np.trace(root).real


def kernel_distance(x, y):
    """Unbiased squared MMD, summed pair by pair."""
    k = lambda a, b: (a @ b / len(a) + 1) ** 3  # noqa: E731
    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@pytest.fixture
def features():
    draw = torch.Generator().manual_seed(2)
    mix = torch.randn(5, 5, generator=draw)
    return torch.randn(40, 5, generator=draw), torch.randn(30, 5, generator=draw) @ mix + 1


def filled(features, *, seed=0, **settings):
    reals, fakes = features
    scores = ScoreCollection([FID(), KID(**({"subset_size": 10} | settings))], num_features=5, chunk=8, seed=seed)
    for part in reals.split(8):
        scores.add(part, real=True)
    for part in fakes.split(8):
        scores.add(part, real=False)
    return scores


def test_fid_equals_the_textbook(features):
    got = filled(features).compute()["fid"]
    x, y = (f.double().numpy() for f in features)
    assert got == pytest.approx(frechet(x, y), rel=1e-9)  # float64 and two different matrix roots
    assert got != pytest.approx(float(np.float32(got)), rel=1e-12)  # and it is not rounded to float32 on its way out


def test_kid_equals_the_double_sum(features):
    """A subset of everything is the whole sample, in any order."""
    reals, fakes = features[0][:30], features[1]
    got = filled((reals, fakes), subsets=2, subset_size=30).compute()
    assert got["kid"] == pytest.approx(kernel_distance(reals.double().numpy(), fakes.double().numpy()), rel=1e-9)
    assert got["kid_std"] < 1e-9


def test_kid_s_subsets_are_private_and_seeded(features):
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    values = [filled(features, subsets=3, seed=s).compute()["kid"] for s in (0, 0, 1)]
    assert torch.equal(torch.rand(2), expected)
    assert values[0] == values[1] != values[2]


class PassThrough(torch.nn.Module):
    """Features as they are, where torchmetrics expects a network."""

    def __init__(self, num_features):
        super().__init__()
        self.num_features = num_features

    def forward(self, features):
        return features


def test_fid_is_that_of_torchmetrics_to_the_last_digit():
    from torchmetrics.image.fid import FrechetInceptionDistance

    draw = torch.Generator().manual_seed(4)
    mix = torch.randn(6, 6, generator=draw)
    reals, fakes = torch.randn(70, 6, generator=draw), torch.randn(50, 6, generator=draw) @ mix
    theirs, ours = FrechetInceptionDistance(PassThrough(6)), ScoreCollection([FID()], num_features=6, chunk=16)
    theirs.set_dtype(torch.float64)
    for rows, real in ((reals, True), (fakes, False)):
        for part in rows.split(16):
            theirs.update(part.double(), real=real)
            ours.add(part, real=real)
    assert ours.compute()["fid"] == theirs.compute().item()


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save all")
def test_kid_is_that_of_torchmetrics_to_the_last_digit():
    """The same subsets in the same order."""
    from torchmetrics.image.kid import KernelInceptionDistance

    draw = torch.Generator().manual_seed(4)
    reals, fakes = torch.randn(70, 6, generator=draw), torch.randn(50, 6, generator=draw) + 0.5
    theirs = KernelInceptionDistance(PassThrough(6), subsets=7, subset_size=20)
    theirs.update(reals.double(), real=True)
    theirs.update(fakes.double(), real=False)
    with private_rng(3):
        mean, deviation = theirs.compute()
    score = KID(subsets=7, subset_size=20)
    got = score.compute(ImageSet(features=reals), ImageSet(features=fakes, seed=3))
    assert got == {"kid": mean.item(), "kid_std": deviation.item()}
    assert got != score.compute(ImageSet(features=reals), ImageSet(features=fakes, seed=4))


class Largest(TorchDispatchMode):
    """The most numbers in a float64 tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float64:
            self.numbers = max(self.numbers, out.numel())
        return out


def test_kid_needs_float64_of_a_subset_alone():
    draw = torch.Generator().manual_seed(5)
    reals, fakes = torch.randn(500, 8, generator=draw), torch.randn(400, 8, generator=draw)
    scores = ScoreCollection([KID(subsets=3, subset_size=10)], num_features=8, chunk=500)
    with Largest() as seen:
        scores.add(reals, real=True)
        scores.add(fakes, real=False)
        scores.compute()
    assert 0 < seen.numbers <= 10 * 10


def test_classifier_statistics_equal_the_definition():
    logits = torch.randn(40, 4, generator=torch.Generator().manual_seed(3)) * 3
    got = ClassifierScore().compute(ImageSet(), ImageSet(logits=logits, chunk=7))
    p = np.exp(logits.double().numpy())
    p /= p.sum(1, keepdims=True)
    divergence = (p * np.log(p / p.mean(0))).sum(1).mean()
    assert got["classifier_score"] == pytest.approx(np.exp(divergence), rel=1e-12)
    assert got["class_coverage"] == np.bincount(p.argmax(1), minlength=4).min() / 40
    assert got["confidence"] == pytest.approx(p.max(1).mean(), rel=1e-12)


def test_a_class_that_is_never_found():
    fakes = ImageSet(logits=torch.tensor([[5.0, 0.0, -1e9], [0.0, 5.0, -1e9]]))
    values = ClassifierScore().compute(ImageSet(), fakes)
    assert values["class_coverage"] == 0
    assert np.isfinite(values["classifier_score"])


def test_reals_stay_and_fakes_go(features):
    scores = filled(features)
    first = scores.compute()
    scores.reset_fakes()
    scores.add(features[0], real=False)
    second = scores.compute()
    assert abs(second["fid"]) < 1e-8  # the reals against themselves
    scores.reset_fakes()
    for part in features[1].split(8):
        scores.add(part, real=False)
    assert scores.compute() == first


def test_one_process_needs_no_gathering():
    rows = torch.arange(5)
    assert gather_in_order(rows, 2) is rows
