"""The mean over ranks of a vector, in every dtype, with the sizes of batches that ranks have really had."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lightning_lead._distributed import mean_over_ranks
from lightning_lead.engine._batches import batch_size

MIXTURES = {
    "float32": [torch.float32],
    "float64": [torch.float64],
    "bfloat16": [torch.bfloat16],
    "float16": [torch.float16],
    "complex64": [torch.complex64],
    "complex128": [torch.complex128],
    "float32 and float64": [torch.float32, torch.float64],
    "bfloat16 and float32": [torch.bfloat16, torch.float32],
    "float32 and complex64": [torch.float32, torch.complex64],
    "float64 and complex64": [torch.float64, torch.complex64],
    "float32 and complex128": [torch.float32, torch.complex128],
}


@pytest.fixture
def ranks(monkeypatch):
    """Reduce vectors of several ranks in one process: each is played twice, the first time to see what it sends."""

    def reduced(vectors, sizes):
        sent = []
        monkeypatch.setattr(torch.distributed, "all_reduce", sent.append)
        strategy = SimpleNamespace(world_size=len(vectors))
        for vector, size in zip(vectors, sizes, strict=True):
            mean_over_ranks(strategy, size)(vector)
        assert len(sent) == len(vectors)  # one each, whatever the mixture
        total = torch.stack(sent).sum(dim=0)
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: flat.copy_(total))
        return [mean_over_ranks(strategy, size)(vector) for vector, size in zip(vectors, sizes, strict=True)], sent[
            0
        ].dtype

    return reduced


def exact_mean(vectors, sizes):
    """In double precision, rank by rank."""
    total = sum(sizes)
    wide = [[t.to(torch.promote_types(t.dtype, torch.float64)) for t in vector] for vector in vectors]
    return [sum(n * t for n, t in zip(sizes, column, strict=True)) / total for column in zip(*wide, strict=True)]


@pytest.mark.parametrize("sizes", [[4, 4], [257, 3, 1000]], ids=str)
@pytest.mark.parametrize("dtypes", MIXTURES.values(), ids=MIXTURES)
def test_it_is_the_weighted_mean_to_the_rounding_of_each_dtype(ranks, dtypes, sizes):
    vectors = [tuple(torch.randn(2, 3, dtype=dtype) for dtype in [*dtypes, dtypes[0]]) for _ in sizes]
    results, _ = ranks(vectors, sizes)
    for result in results:
        for found, expected, sent in zip(result, exact_mean(vectors, sizes), vectors[0], strict=True):
            assert (found.dtype, found.shape) == (sent.dtype, sent.shape)
            own = torch.finfo(found.dtype).eps
            wide = min(own, torch.finfo(torch.float32).eps)
            rounding = own / 2 * expected.abs() + 8 * wide * 4  # of the result; of the sum, whose terms are below 4
            assert ((found.to(expected.dtype) - expected).abs() <= rounding).all()


def test_a_conjugated_tensor_is_reduced_as_what_it_says(ranks):
    vectors = [(torch.randn(3, dtype=torch.complex64).conj(),) for _ in range(2)]
    ((found,), _), _ = ranks(vectors, [1, 1])
    torch.testing.assert_close(found, (vectors[0][0] + vectors[1][0]) / 2)


def test_halves_of_a_float_travel_in_float32_and_others_as_they_are(ranks):
    for dtype, expected in (("bfloat16", "float32"), ("float16", "float32"), ("float64", "float64")):
        vectors = [(torch.ones(2, dtype=getattr(torch, dtype)),)] * 2
        assert ranks(vectors, [1, 1])[1] is getattr(torch, expected)


def test_a_rank_without_a_sample_does_not_count(ranks):
    vectors = [(torch.tensor([float("nan")]),), (torch.tensor([3.0]),)]
    ((found,), _), _ = ranks(vectors, [0, 5])
    assert found.item() == 3.0


def test_a_number_that_comes_first_in_a_batch_does_not_tell_its_size():
    assert batch_size({"weight": torch.tensor(2.0), "x": torch.zeros(5, 2)}) == 5
    assert batch_size([torch.tensor(2.0)]) == 1
