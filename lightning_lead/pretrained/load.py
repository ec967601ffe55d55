"""A trained generator from its file: the network, with its weights, in eval mode."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_lead._errors import CheckpointMismatchError, ConfigurationError, first_line
from lightning_lead.checkpoints._game import KEY, saved_description
from lightning_lead.checkpoints._reading import read_checkpoint
from lightning_lead.pretrained._build import build_network

__all__ = ["TrainedGenerator", "load_generator", "load_trained"]

_AVERAGES, _COMPILED = "GeneratorEMA", "_orig_mod."


def load_generator(
    path: str | os.PathLike[str],
    *,
    ema: bool | None = None,
    network: nn.Module | None = None,
    name: str = "generator",
) -> nn.Module:
    """Load a trained generator; the file is all that it needs.

    The file is a checkpoint of a fit, compact or not, or one of `save_generator`. It is read as plain data, and says
    how the network is built if that is one of this package, a `ConfiguredModule`, or was built by a recipe.

    Args:
        path: the file.
        ema: True for the weights that `GeneratorEMA` has averaged, False for the live ones; default the average if the
            file has one.
        network: to be filled with the weights, where the file does not say how it is built.
        name: attribute of the module that was trained, where its generator has another, or there are several.

    Returns:
        The network in eval mode, on the CPU, its parameters without gradients. Images are in the range of the data that
        it was trained on, which is [−1, 1] for all of this package.

    Raises:
        ConfigurationError: no such file; no network of this name in it; an average that it has not; or it does not say
            how the network is built.
        CheckpointMismatchError: a damaged file, or weights of another network.

    Example:
        >>> import tempfile, torch
        >>> from lightning_lead import LeadGANModule
        >>> from lightning_lead.callbacks import save_generator
        >>> from lightning_lead.networks import MLPDiscriminator, MLPGenerator
        >>> gan = LeadGANModule(MLPGenerator(latent_dim=4, width=8), MLPDiscriminator(width=8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     generator = load_generator(save_generator(f"{folder}/generator.pt", gan))
        >>> generator(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """
    return load_trained(path, ema=ema, network=network, name=name).network


class TrainedGenerator(NamedTuple):
    """A generator with what its file says of its training."""

    network: nn.Module
    averaged: bool
    game_steps: int
    game: str | None  # the rule and its settings; None of old files


def load_trained(
    path: str | os.PathLike[str],
    *,
    ema: bool | None = None,
    network: nn.Module | None = None,
    name: str = "generator",
) -> TrainedGenerator:
    """Load what `load_generator` loads, and return with it what the file says of the training."""
    content = read_checkpoint(Path(path), purpose="load a generator")
    weights, average = _live(content, name, path), _average(content, name)
    if ema is None:
        ema = average is not None
    if ema and average is None:
        raise ConfigurationError(
            f"Cannot load an average of {name!r} because {path} holds none; pass ema=False for the live weights, or "
            "train with GeneratorEMA among the callbacks"
        )
    if not ema and content.get("averaged", False):
        raise ConfigurationError(f"Cannot load live weights because {path} holds the average alone; pass ema=True")
    made = _built(content, name, path) if network is None else network
    try:
        made.load_state_dict(weights)
        if ema and average:
            _fill(made, average)
    except (RuntimeError, KeyError) as error:
        raise CheckpointMismatchError(
            f"Cannot load {name!r} because the weights are those of another network; pass network= as it was built for "
            f"the training (got {first_line(error)})"
        ) from error
    made.eval().requires_grad_(False)
    return TrainedGenerator(made, ema, int(content["global_step"]), saved_description(content))


def _fill(network: nn.Module, average: Mapping[str, Tensor]) -> None:
    """Set all parameters; by themselves, as a state dict names one that is shared twice."""
    parameters = dict(network.named_parameters())
    if differing := sorted(parameters.keys() ^ average.keys()):
        raise KeyError(f"{differing[0]} is not in both")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != average[name].shape:
                raise RuntimeError(f"{name} has shape {tuple(average[name].shape)}")
            parameter.copy_(average[name])


def _live(content: Mapping[str, Any], name: str, path: Any) -> dict[str, Tensor]:
    state = content["state_dict"]
    found = _part(state, name)
    if not found:
        networks = sorted({key.partition(".")[0] for key in state if "." in key})
        raise ConfigurationError(
            f"Cannot load {name!r} because {path} has no weights of it; pass name= "
            f"(got {', '.join(networks) or 'none'})"
        )
    return found


def _average(content: Mapping[str, Any], name: str) -> dict[str, Tensor] | None:
    """Return the averaged parameters by their names in the network; None where there is no average of it."""
    if content.get("averaged", False):
        return {}  # the weights are the average
    for key, state in content.get("callbacks", {}).items():
        average = state.get("average") if isinstance(state, Mapping) and str(key).startswith(_AVERAGES) else None
        if not average:
            continue
        if key == _AVERAGES and name == "generator":
            return {key.replace(_COMPILED, ""): tensor for key, tensor in average.items()}
        if found := _part(average, name):
            return found
    return None


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors of one network by their names in it, without the wrapper of torch.compile."""
    plain = {key.replace(_COMPILED, ""): tensor for key, tensor in state.items()}
    return {key.removeprefix(f"{name}."): tensor for key, tensor in plain.items() if key.startswith(f"{name}.")}


def _built(content: Mapping[str, Any], name: str, path: Any) -> nn.Module:
    configuration = content.get(KEY, {}).get("networks", {}).get(name)
    if configuration is None:
        raise ConfigurationError(
            f"Cannot build {name!r} because {path} does not say how; pass network=, built as for the training, and "
            "derive it from ConfiguredModule for the next one"
        )
    if "init_args" not in configuration:
        raise ConfigurationError(
            f"Cannot build {configuration['class_path']} because its argument {configuration['not_plain']!r} is no "
            "plain data, so that no file holds it; pass network=, built as for the training"
        )
    return build_network(configuration)
