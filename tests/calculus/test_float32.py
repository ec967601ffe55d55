"""Without TF32 for a while: nothing is coarser than float32 inside, and every setting reads as before afterwards.

The settings can be written and read without a GPU.
"""

from __future__ import annotations

import pytest
import torch

from lightning_lead.calculus import _float32 as float32
from lightning_lead.calculus._float32 import float32_products, full_float32, plain_computation

PER_OPERATION = float32._PER_OPERATION
new = pytest.mark.skipif(not PER_OPERATION, reason="torch < 2.9 has the older flags alone")


def older_flags():
    """The values of the older flags, or that they contradict the settings."""
    found = []
    for read in (torch._C._get_cudnn_allow_tf32, torch._C._get_cublas_allow_tf32, torch.get_float32_matmul_precision):
        try:
            found.append(read())
        except RuntimeError:
            found.append("contradicts")
    return found


def settings():
    names = [("generic", "all"), ("cuda", "all"), ("mkldnn", "all"), *float32._OPERATIONS] if PER_OPERATION else []
    return [torch._C._get_fp32_precision_getter(*name) for name in names], older_flags()


@pytest.fixture(autouse=True)
def _default_settings():
    yield
    torch.set_float32_matmul_precision("highest")
    if PER_OPERATION:
        torch.backends.fp32_precision = torch.backends.cudnn.fp32_precision = "none"
        for operation in float32._OPERATIONS:
            torch._C._set_fp32_precision_setter(*operation, "none")
    torch._C._set_cudnn_allow_tf32(True)


def as_it_comes():
    pass


def high():
    torch.set_float32_matmul_precision("high")


def medium():
    torch.set_float32_matmul_precision("medium")


def no_convolutions():
    torch.backends.cudnn.allow_tf32 = False


def all_off():
    no_convolutions()
    torch.set_float32_matmul_precision("highest")


def everything_by_the_new_setting():
    torch.backends.fp32_precision = "tf32"


def matmul_by_the_new_setting():
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def convolutions_off_by_the_new_setting():
    torch.backends.cudnn.conv.fp32_precision = "ieee"


def both_in_contradiction():
    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.conv.fp32_precision = "tf32"


def bf16_on_the_processor():
    torch.backends.mkldnn.conv.fp32_precision = "bf16"


OLD = [as_it_comes, high, medium, no_convolutions, all_off]
NEW = [
    pytest.param(case, marks=new)
    for case in (
        everything_by_the_new_setting,
        matmul_by_the_new_setting,
        convolutions_off_by_the_new_setting,
        both_in_contradiction,
        bf16_on_the_processor,
    )
]


@pytest.mark.parametrize("arrange", [*OLD, *NEW])
def test_nothing_is_coarser_inside_and_everything_reads_as_before_afterwards(arrange):
    arrange()
    before = settings()
    for _ in range(2):
        with full_float32():
            for device in ("cuda", "cpu"):
                assert set(float32_products(device).values()) == {"float32"}
            assert older_flags() == [False, False, "highest"]  # and reading raises nothing
            with full_float32():
                assert older_flags() == [False, False, "highest"]
            assert older_flags() == [False, False, "highest"]
        assert settings() == before


def test_an_error_inside_leaves_nothing_behind():
    before = settings()
    with pytest.raises(KeyError), full_float32():
        raise KeyError
    assert settings() == before


@pytest.mark.parametrize("arrange", OLD)
def test_the_same_by_the_older_flags_alone(arrange, monkeypatch):
    arrange()
    before = older_flags()
    monkeypatch.setattr(float32, "_PER_OPERATION", False)
    with full_float32():
        assert older_flags() == [False, False, "highest"]
        assert set(float32_products("cuda").values()) == {"float32"}
    assert older_flags() == before


@pytest.mark.parametrize("per_operation", [pytest.param(True, marks=new), False])
@pytest.mark.parametrize(
    ("arrange", "cuda", "cpu"),
    [
        (as_it_comes, ("tf32", "float32"), ("float32", "float32")),
        (no_convolutions, ("float32", "float32"), ("float32", "float32")),
        (medium, ("tf32", "tf32"), ("float32", "bf16")),
    ],
)
def test_what_is_in_force_is_said(arrange, cuda, cpu, per_operation, monkeypatch):
    monkeypatch.setattr(float32, "_PER_OPERATION", per_operation)
    arrange()
    for device, (convolution, matmul) in (("cuda:0", cuda), ("cpu", cpu)):
        assert float32_products(device) == {"convolution": convolution, "matmul": matmul}


@new
@pytest.mark.parametrize("arrange", NEW)
def test_what_is_in_force_is_said_where_the_older_flags_raise(arrange):
    arrange()
    assert set(float32_products("cuda")) == {"convolution", "matmul"}
    if arrange is not bf16_on_the_processor:
        assert "contradicts" in older_flags()  # the control


def test_a_network_may_switch_cudnn_off_inside():
    """As for the second derivative of a recurrent layer; torch's own context asks for the older flag."""
    with full_float32(), torch.backends.cudnn.flags(enabled=False, allow_tf32=False):
        assert not torch.backends.cudnn.enabled
    assert torch.backends.cudnn.enabled


def test_plain_computation_makes_ordinary_tensors_in_full_precision():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), plain_computation(torch.device("cpu")):
        product = torch.ones(1, 1) @ torch.ones(1, 1)
        assert (product.is_inference(), product.dtype, torch.is_grad_enabled()) == (False, torch.float32, False)
