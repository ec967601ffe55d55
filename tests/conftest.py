"""What every test starts from: one thread, a fixed seed.

Small tensors run slower on more threads, and the processes that the distributed tests start would fight over the cores;
they inherit the variables.
"""

import os

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # before torch is imported, which reads them once

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
