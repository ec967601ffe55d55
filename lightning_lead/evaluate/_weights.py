"""The weights that are sampled: those of a checkpoint, compact or not, or of a file with the generator alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lightning_lead._errors import CheckpointMismatchError, ConfigurationError
from lightning_lead.callbacks import GeneratorEMA
from lightning_lead.checkpoints._reading import HALVED
from lightning_lead.metrics._protocol import describe_dtype

__all__ = ["load_weights", "stored_dtype"]

PREFIX, OPPONENT = "generator.", "discriminator."


def load_weights(
    model: Any, content: Mapping[str, Any], average: GeneratorEMA | None, *, weights: str = "auto"
) -> GeneratorEMA | None:
    """Put the weights into the module, and the average into the recipe's callback, if it has one.

    Return the callback whose average is to be sampled, or None for the live weights. `weights` is "ema", "live", or
    "auto": the average if the recipe has one. Another discriminator is left aside; all else has to match.
    """
    if weights not in ("auto", "ema", "live"):
        raise ConfigurationError(f"Cannot sample weights={weights!r}; choose 'auto', 'ema' or 'live'")
    alone = bool(content.get("averaged", False))  # a file with the averaged generator and nothing else
    if alone and weights == "live":
        raise ConfigurationError(
            "Cannot sample the live generator because the file holds the averaged one alone; leave out --weights live"
        )
    if weights == "live" or (weights == "auto" and average is None and not alone and not _has_average(content)):
        _fill(model, content)
        return None
    if average is None:
        raise ConfigurationError(
            "Cannot sample the averaged generator because the recipe has no GeneratorEMA, which says how it was "
            "averaged; add it to the recipe's callbacks, or evaluate the live generator with --weights live"
        )
    state = _lone_average(model, content) if alone else content.get("callbacks", {}).get(average.state_key)
    if not (state and state["average"]):
        raise ConfigurationError(
            "Cannot sample the averaged generator because the checkpoint holds no average; evaluate the live one with "
            "--weights live"
        )
    _fill(model, content)
    average.load_state_dict(dict(state))
    return average


def stored_dtype(model: Any, content: Mapping[str, Any], average: GeneratorEMA | None, *, sampled: str) -> str:
    """Return the coarsest dtype that the sampled parameters have had, in the file or in the computation (`sampled`)."""
    names = {name for name, _ in model.generator.named_parameters()}
    stored = {name.removeprefix(PREFIX): t for name, t in content["state_dict"].items() if name.startswith(PREFIX)}
    note = ""
    if average is not None and not content.get("averaged", False):  # the average is beside the weights
        stored = content["callbacks"][average.state_key]["average"]
        note = " + bfloat16 difference" if content.get(HALVED, False) else ""
    parameters = [tensor for name, tensor in stored.items() if name in names]
    return describe_dtype([*parameters, torch.empty(0, dtype=getattr(torch, sampled))]) + note


def _lone_average(model: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the callback's state for a file with the averaged generator alone."""
    names = {name for name, _ in model.generator.named_parameters()}
    saved = {name.removeprefix(PREFIX): tensor for name, tensor in content["state_dict"].items()}
    mean = {name: tensor.float() for name, tensor in saved.items() if name in names}
    return {"average": mean, "seen": 0, "step": int(content["global_step"])}


def _has_average(content: Mapping[str, Any]) -> bool:
    states = content.get("callbacks", {})
    return any(isinstance(state, Mapping) and state.get("average") for state in states.values())


def _fill(model: Any, content: Mapping[str, Any]) -> None:
    state = content["state_dict"]
    target = model
    if state and all(name.startswith(PREFIX) for name in state):
        target, state = model.generator, {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    else:
        model.on_load_checkpoint(dict(content))
    try:
        target.load_state_dict(state)
    except RuntimeError as error:
        if target is not model or not _fill_generator(model, state):
            raise _other_networks(target, state, error) from error


def _fill_generator(model: Any, state: Mapping[str, Any]) -> bool:
    """Load all but the discriminator, which no score asks for; False, and nothing is loaded, if the rest differs."""
    wanted = {name for name in model.state_dict() if not name.startswith(OPPONENT)}
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(OPPONENT)}
    if wanted != set(rest):
        return False
    try:
        model.load_state_dict(rest, strict=False)
    except RuntimeError:
        return False
    return True


def _other_networks(target: Any, state: Mapping[str, Any], error: RuntimeError) -> CheckpointMismatchError:
    """Say in one line what differs: torch lists every tensor."""
    found = _differing(state, target.state_dict())
    reason = f"{type(error).__name__}: {error}"
    if found:
        name, theirs, ours = found[0]
        reason = f"{theirs} for {name} where the recipe has {ours}, the first of {len(found)} tensors that differ"
    return CheckpointMismatchError(
        "Cannot evaluate these weights because they are those of other networks than the recipe's; pass the recipe "
        f"that they were trained by, and repeat the --model...= overrides of its training (got {reason})"
    )


def _differing(state: Mapping[str, Any], mine: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    theirs, ours = (
        {name: list(tensor.shape) for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
        for tensors in (state, mine)
    )
    names = [*ours, *(name for name in theirs if name not in ours)]
    pairs = [(name, theirs.get(name, "nothing"), ours.get(name, "nothing")) for name in names]
    return [pair for pair in pairs if pair[1] != pair[2]]
