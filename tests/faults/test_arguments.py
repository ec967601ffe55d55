"""Wrong arguments of every public constructor: each ends in this package's own error, which names the argument.

What is wrong follows from the annotation: each of `VALUES` that none of its members takes. Out of range for any number
are nan and, but for `SIGNED`, -7.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import re
import types
import typing
from importlib import import_module
from typing import Any

import pytest
import torch
from pairs import some
from test_public_names import CODE
from tiny import tiny_networks
from torch import nn

from lightning_lead._checks import is_class
from lightning_lead._errors import ConfigurationError
from lightning_lead.calculus import Lookahead, PrivateNoise
from lightning_lead.engine import GameStrategy
from lightning_lead.games import BilinearGame
from lightning_lead.robust import FGSMAttack
from lightning_lead.rules import GradientPlay

VALUES: dict[str, Any] = {
    "None": None,
    "text": "nope",
    "number": 2.5,
    "minus": -7,
    "nan": float("nan"),
    "true": True,
    "complex": 1j,
    "list": [object()],
    "mapping": {"nope": object()},
    "class": nn.Linear,
    "function": lambda *_: None,
    "network": nn.Identity(),
    "tensor": torch.ones(2, 2, 2),
    "object": object(),
}
TAKEN = {int: {"minus"}, float: {"minus", "number"}, bool: {"true"}, str: {"text"}, types.NoneType: {"None"}}
"""Values that the plain types take, whatever their range."""
SIGNED = {"seed", "charge", "kappa", "low", "angle"}
"""Numbers that may be negative."""
RENAMED = {"alpha": ("LEAD", "LEADStrategy")}
"""Old names of arguments, which are refused by the new one."""
FREE = {"folder", "root", "cache", "dirpath", "name_prefix", "generator", "fallback", "name", "adaptive_to"}
"""Texts that are no choice of names: paths and labels."""


TAKES_FUNCTIONS = {("LeadGANModule", "augment"), ("AdaptiveAugment", "augment")}
"""Annotated as networks for recipes; functions of samples do as well."""


def built() -> dict[str, dict[str, Any]]:
    """The arguments of constructors that have required ones."""
    generator, discriminator = tiny_networks()
    eye = torch.eye(2, dtype=torch.float64)
    return {
        "LeadGANModule": {"generator": generator, "discriminator": discriminator},
        "GANProblem": {"generator": generator, "discriminator": discriminator},
        "AdversarialModule": {"generator": generator, "discriminators": {"d": discriminator}},
        "DANNModule": {"features": generator, "classifier": generator, "discriminator": discriminator},
        "GroupDROModule": {"network": generator, "num_groups": 2},
        "IRMGamesModule": {"networks": [generator, discriminator]},
        "IRMv1Module": {"network": generator},
        "ERMModule": {"network": generator},
        "MLP": {"in_features": 2},
        "RobustModule": {"network": discriminator, "attack": FGSMAttack(0.1)},
        "RobustAccuracy": {"epsilon": 0.1},
        "AttackSuite": {"epsilon": 0.1},
        "PGDAttack": {"epsilon": 0.1},
        "FGSMAttack": {"epsilon": 0.1},
        "FreeAttack": {"epsilon": 0.1},
        "UniversalPerturbation": {"shape": (1, 8, 8), "epsilon": 0.1},
        "Patch": {"size": 2},
        "PerturbationNetwork": {"generator": generator, "epsilon": 0.1},
        "SignDescent": {"params": [nn.Parameter(torch.ones(1))]},
        "GameStrategy": {"rule": GradientPlay()},
        "Match": {"rule": GradientPlay(), "game": BilinearGame(eye), "lr": 0.1},
        "ConditionalNorm": {"width": 4, "num_classes": 3},
        "GeneratorEMA": {"halflife_images": 100.0},
        "SegmentCheckpoint": {"dirpath": "segments"},
        "ImageFolderDataModule": {"folder": "images", "image_size": 8},
        "STL10DataModule": {"root": "stl10"},
        "ResumableDataLoader": {"dataset": [1, 2, 3, 4], "batch_size": 2},
        "EpochSampler": {"dataset": [1, 2, 3, 4]},
        "ImageWriter": {"dirpath": "images"},
        "BilinearGame": {"coupling": eye},
        "QuadraticGame": {"coupling": eye, "curvature": 0.1},
        "Friction": {"coefficient": 0.1},
        "ConservativeForce": {"potential": lambda x: x.square().sum()},
        "MagneticForce": {"game": BilinearGame(eye), "charge": 1.0},
        "VortexForce": {"game": BilinearGame(eye)},
        "LeadLyapunov": {"game": BilinearGame(eye), "charge": 1.0, "friction": 0.5},
        "TorchvisionFeatures": {"name": "resnet18", "weights": None},
        "ReferenceImages": {"source": torch.zeros(4, 1, 8, 8), "name": "zeros"},
        "Lookahead": {"players": {}, "optimizers": []},
        "Box": {"low": 0.0, "high": 1.0},
        "L2Ball": {"radius": 1.0},
        "LInfBall": {"radius": 1.0},
        "ImageHash": {"chunk": 4},
        "GenerativeMetrics": {"extractor": "digits"},
        "Scorer": {"extractor": "digits"},
        "Swap": {"module": generator, "players": {}},
        "BatchLosses": {
            "module": generator,
            "losses": lambda batch, wanted: {},
            "batch": None,
            "seed": 0,
            "noise": PrivateNoise(),
            "repeated": False,
        },
        "GameOracle": {"point": {"x": (torch.ones(1),), "y": (torch.ones(1),)}, "losses": []},
        "GameStep": {
            "game": GameStrategy(GradientPlay()),
            "turns": [],
            "live": {},
            "optimizers": [],
            "lookahead": Lookahead({}, []),
            "make_oracle": lambda turn, seed: None,
        },
    }


def members(annotation: Any) -> list[Any]:
    """The types that an annotation takes; a Literal's are texts."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [member for each in typing.get_args(annotation) for member in members(each)]
    return [annotation]


def takes(kind: Any, name: str, key: str) -> bool:
    """True where a value may be meant."""
    if kind in TAKEN:
        return key in TAKEN[kind] and not (kind is str and name not in FREE) and (key != "minus" or name in SIGNED)
    origin, value = typing.get_origin(kind) or kind, VALUES[key]
    if origin is typing.Literal:
        return False
    if origin is collections.abc.Callable:
        return callable(value)
    if origin in (collections.abc.Mapping, collections.abc.Sequence, dict, list, tuple):
        return False  # they hold an object of no type
    return isinstance(origin, type) and not getattr(origin, "_is_protocol", False) and isinstance(value, origin)


@functools.cache
def constructors() -> dict[str, type]:
    found = {}
    for module, name in CODE:
        value = getattr(import_module(module), name)
        own = is_class(value) and not issubclass(value, (BaseException, tuple))
        if own and not name.startswith("Abstract") and not getattr(value, "_is_protocol", False):
            found[name] = value
    return found


def cases() -> list[tuple[str, str, str]]:
    """(constructor, argument, wrong value)."""
    found = []
    for owner, cls in sorted(constructors().items()):
        hints = typing.get_type_hints(cls.__init__)
        for name, parameter in inspect.signature(cls.__init__).parameters.items():
            if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            kinds = members(hints.get(name, Any))
            if Any in kinds or owner in RENAMED.get(name, ()):
                continue
            wrong = [key for key in VALUES if not any(takes(kind, name, key) for kind in kinds)]
            found += [(owner, name, k) for k in wrong if k != "function" or (owner, name) not in TAKES_FUNCTIONS]
    return found


def outcome(owner: str, name: str, key: str) -> tuple[str, str]:
    """Return what became of it, and what was said."""
    arguments = {**built().get(owner, {}), name: VALUES[key]}
    try:
        constructors()[owner](**arguments)
    except ConfigurationError as error:
        named = re.search(rf"\b{name}\b", str(error))
        return ("refused, the argument named" if named else "refused, the argument not named"), str(error)
    except Exception as error:
        return "another error", f"{type(error).__name__}: {error}"
    return "taken in silence", ""


@pytest.mark.parametrize(("owner", "name", "key"), some(cases(), 400))
def test_a_wrong_argument_is_refused_by_its_name(owner, name, key, became):
    what, said = outcome(owner, name, key)
    became("wrong argument", what)
    assert what == "refused, the argument named", said
