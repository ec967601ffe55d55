"""Nearly all that is exported runs on the device: by a rule's or a module's fit, or by the Example of its docstring.

An Example runs as it stands, with tensors that itself and the constructors of networks make on the device, and prints
what it prints on the processor. What the package makes besides stays where the package puts it.
"""

from __future__ import annotations

import doctest
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from cases import CASES
from device_runs import device_by_default
from fake_device import fake_device
from rules_under_test import rules_under_test

import lightning_lead

ROOT = str(Path(lightning_lead.__file__).parent)
ROOMS = (
    *("calculus", "callbacks", "checkpoints", "constraints", "data", "domains", "engine", "features", "gan"),
    *("metrics", "networks", "objectives", "robust", "rules", "training"),
)  # analysis, games, physics: small matrices on the processor; compare, evaluate, fetch: commands, which fit and score

BY_HAND = {  # in test_fits.py
    *("GenerativeMetrics", "PairedMetrics", "ImageWriter", "SegmentCheckpoint", "CompactCheckpointIO", "GeneratorEMA"),
    *("generate", "private_rng", "PrivateNoise", "BatchLosses"),
}
NO_TENSORS = {
    *("Point", "Vector", "mix_seed", "opponent_of", "momentum_lag"),  # names, numbers, types
    *("as_game", "find_game", "game_names", "name_game", "PlayedStep", "PlayedTurn"),
    *("Measurement", "protocol_table", "shared_blocks", "adversarial_objective", "AdversarialObjective"),
    *("Cost", "RuleNeeds", "RuleState", "AbstractGameRule", "robust_loss", "AbstractRobustLoss"),
}
NOT_ON_A_DEVICE = {  # name -> reason
    "STL10DataModule": "its 2.6 GB are not at hand; but for reading them it is CIFAR10DataModule",
}


def exported() -> dict[str, object]:
    """Name -> class or function, or whatever else it is."""
    rooms = [import_module(f"lightning_lead.{room}") for room in ROOMS]
    return {name: getattr(room, name) for room in rooms for name in room.__all__}


EXPORTED = exported()
FITTED = {name for case in CASES.values() for name in case.names.split()} | BY_HAND
FITTED |= {type(rule).__name__ for rule in rules_under_test()} | {"LEADStrategy", "GameStrategy", "GameStep"}
EXAMPLES = sorted(EXPORTED.keys() - FITTED - NO_TENSORS)


def run_example(name: str) -> tuple[int, str]:
    """How many operations ran on the device, and what went wrong."""
    value, said = EXPORTED[name], []
    module = sys.modules[value.__module__]
    found = doctest.DocTestFinder().find(value, name, module=module, globs=dict(vars(module)))
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
    with fake_device() as device, device_by_default(ROOT):
        for test in found:
            torch.manual_seed(0)
            runner.run(test, out=said.append)
    return device.operations, "".join(said)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_on_the_device_what_it_prints_on_the_processor(name):
    operations, wrong = run_example(name)
    if name in NOT_ON_A_DEVICE:
        assert wrong or not operations, f"{name} runs on the device: take it from the list"
    else:
        assert not wrong
        assert operations, f"the Example of {name} runs nothing there: add it to a case, or to a list with its reason"


def test_the_lists_name_what_is_exported_and_little_of_it_is_left_out():
    assert FITTED - {"GameStep"} <= EXPORTED.keys() | set(lightning_lead.__all__)
    assert NO_TENSORS | NOT_ON_A_DEVICE.keys() <= EXPORTED.keys()
    assert not NO_TENSORS & (FITTED | NOT_ON_A_DEVICE.keys())
    assert len(NOT_ON_A_DEVICE) <= 0.05 * len(EXPORTED.keys() - NO_TENSORS)
