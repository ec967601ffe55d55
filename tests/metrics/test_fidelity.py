"""The same numbers from the same features as torch-fidelity, an independent implementation."""

from __future__ import annotations

import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from lightning_lead.metrics import FID, KID, PRDC, ClassifierScore
from lightning_lead.metrics._collection import ScoreCollection

SPLITS = 10


@pytest.fixture(scope="module")
def features():
    """Non-negative and correlated, as a network's last hidden layer is, and in float32."""
    noise = torch.Generator().manual_seed(7)
    mix = torch.randn(24, 24, generator=noise)
    reals = torch.relu(torch.randn(400, 24, generator=noise) @ mix)
    fakes = torch.relu(torch.randn(350, 24, generator=noise) @ mix * 0.9 + 0.4)
    return reals, fakes, 2 * torch.randn(350, 12, generator=noise)


@pytest.fixture(scope="module")
def ours(features):
    reals, fakes, logits = features
    chosen = [FID(), KID(subsets=2, subset_size=350), PRDC(["precision", "recall"])]
    chosen.append(ClassifierScore(SPLITS, name="inception_score"))
    scores = ScoreCollection(chosen, num_features=24, chunk=50, logits=logits)
    for part in reals.split(50):
        scores.add(part, real=True)
    for part, logit in zip(fakes.split(50), logits.split(50), strict=True):
        scores.add(part, logit, real=False)
    return scores.compute()


def test_fid(features, ours):
    statistics = [fid_features_to_statistics(part.double()) for part in features[:2]]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert ours["fid"] == pytest.approx(theirs, rel=1e-8)
    assert theirs > 1


def test_kid_of_all_samples(features, ours):
    """Subsets are drawn by other generators; of everything there is one subset, in whatever order."""
    reals, fakes, _ = features
    scores = ScoreCollection([KID(subsets=1, subset_size=350)], num_features=24, chunk=400)
    scores.add(reals[:350], real=True)
    scores.add(fakes, real=False)
    settings = {"kid_subsets": 1, "kid_subset_size": 350, "verbose": False}
    theirs = kid_features_to_metric(fakes.double(), reals[:350].double(), **settings)
    assert scores.compute()["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


def test_inception_score_in_ten_parts(features, ours):
    theirs = isc_features_to_metric(features[2], splits=SPLITS)
    assert ours["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=1e-10)
    assert ours["inception_score_std"] == pytest.approx(theirs["inception_score_std"], rel=1e-8)
    assert theirs["inception_score_std"] > 0.01


def test_inception_score_of_the_whole(features, ours):
    theirs = isc_features_to_metric(features[2], splits=1, shuffle=False)["inception_score_mean"]
    assert ours["inception_score_whole"] == pytest.approx(theirs, rel=1e-10)
    assert theirs > ours["inception_score"] + 0.05  # fewer samples score lower: the two do not compare


@pytest.mark.parametrize("low_memory", [False, True])
def test_precision_and_recall(features, ours, low_memory):
    reals, fakes, _ = features
    settings = {"prc_neighborhood": 3, "prc_batch_size": 128, "save_cpu_ram": low_memory, "verbose": False}
    theirs = prc_features_to_metric(fakes.double(), reals.double(), **settings)
    for name in ("precision", "recall"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-6), name  # theirs is a float32 mean
        assert 0.05 < theirs[name] < 0.95
