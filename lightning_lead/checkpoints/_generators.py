"""The states of Python's and numpy's global generators, in a checkpoint.

Torch's random numbers of a game step are a function of its seed. What a loss or a hook draws from the other two goes on
after a resume where it stood, at no price in between. Torch's own outside of a step is not kept: every iterator of a
loader draws from it, and a resumed run makes others.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import torch
from torch import Tensor

__all__ = ["have_moved", "pack_states", "read_states", "set_states"]

_PYTHON, _NUMPY = 625, 624  # words of a Mersenne twister, with and without its position


States = tuple[Any, Any]


def read_states() -> States:
    """Return both states, as the libraries have them; None of numpy where it is not imported."""
    numpy: Any = sys.modules.get("numpy")
    return random.getstate(), None if numpy is None else numpy.random.get_state()


def have_moved(states: States) -> bool:
    """Tell if either generator has moved since `read_states` has returned its state."""
    return not torch.equal(pack_states(read_states()), pack_states(states))


def pack_states(states: States) -> Tensor:
    """Return states as numbers, (1254,): float64 holds 32-bit words exactly."""
    (_, words, gauss), of_numpy = states
    row = [*words, gauss is not None, gauss or 0.0]
    usual = of_numpy is not None and of_numpy[0] == "MT19937"
    row += [*of_numpy[1].tolist(), *of_numpy[2:]] if usual else [-1] * (_NUMPY + 3)
    return torch.tensor(row, dtype=torch.float64)


def set_states(packed: Tensor) -> None:
    """Set both generators to states that `pack_states` has returned."""
    of_python, of_numpy = packed[: _PYTHON + 2].tolist(), packed[_PYTHON + 2 :].tolist()
    words, (has_gauss, gauss) = tuple(map(int, of_python[:_PYTHON])), of_python[_PYTHON:]
    random.setstate((3, words, gauss if has_gauss else None))
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and of_numpy[0] >= 0:
        keys, (position, has_gauss, gauss) = of_numpy[:_NUMPY], of_numpy[_NUMPY:]
        array = numpy.array(keys, dtype=numpy.uint32)
        numpy.random.set_state(("MT19937", array, int(position), int(has_gauss), gauss))
