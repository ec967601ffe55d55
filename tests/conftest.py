"""What every test starts from: one thread, a fixed seed.

Small tensors run slower on more threads, and the processes that the distributed tests start would fight over the cores;
they inherit the variables. Figures go into files.
"""

import functools
import gc
import importlib.metadata
import logging
import os

gc.disable()  # until all is imported and collected: the collector would look through a million objects that stay

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # before torch is imported, which reads them once
os.environ.setdefault("MPLBACKEND", "Agg")

# Without one Lightning keeps its messages from pytest's, if it is imported before pytest has put up its own.
logging.getLogger().addHandler(logging.NullHandler())

# Every Trainer looks through the metadata of all installed packages for callbacks, which takes longer than a small fit.
importlib.metadata.entry_points = functools.lru_cache(importlib.metadata.entry_points)

import pytest
import torch

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest tests/contract/test_contract.py --rule FILE` holds a file's rules to the contract, and no others."""
    parser.addoption("--rule", action="append", default=[], metavar="FILE", help="a file that defines game rules")


def pytest_configure(config: pytest.Config) -> None:
    """Hand the files to the contract, here and in the processes that it starts."""
    if files := config.getoption("--rule"):
        os.environ["LIGHTNING_LEAD_CONTRACT_FILES"] = os.pathsep.join(map(os.path.abspath, files))


def pytest_collection_finish() -> None:
    """Let the garbage collector look at what tests make alone, and more seldom: a tenth of all the time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
