"""A checkpoint that is saved within a batch: that of the turn's beginning, from which the rest of the step is played.

`ModelCheckpoint(save_on_exception=True)`, a handler of signals or a line in a loss may save at any moment. A turn that
is under way has moved buffers, holds another point in the slots of its parameters, and may know its direction; nothing
of this is kept. Random numbers of a step are a function of its number, so turns that are made already need no memory
but the count of them. Only in the middle of an optimizer's step there is no way back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_lead._lightning import Trainer
from lightning_lead._sharding import is_sharded
from lightning_lead.calculus._sharded import ShardedSwap
from lightning_lead.calculus.swap import Swap
from lightning_lead.checkpoints._generators import read_states
from lightning_lead.engine.strategy import GameStrategy
from lightning_lead.engine.turns import Turn

__all__ = ["OpenStep", "align_loops", "loader_states"]


class OpenStep:
    """A game step that is under way, and what it needs to begin its turn again.

    Args:
        module: that holds both players.
        game: that plays.
        live: name -> the players' parameters.
        optimizers: that move them.
        swap: of these parameters.
        generators: `checkpoints._generators.read_states()` before the batch; None if they do not move in it.
    """

    def __init__(
        self,
        module: nn.Module,
        game: GameStrategy,
        live: Mapping[str, Sequence[Tensor]],
        optimizers: Sequence[Optimizer],
        swap: Swap | ShardedSwap,
        generators: Any,
    ) -> None:
        self._module, self._game, self._live = module, game, live
        self._optimizers, self._swap = optimizers, swap
        self.generators = [] if generators is None else [generators, generators]
        """Their states before the batch, and at the beginning of the turn."""
        # slots, not tensors: a forward may put another tensor in the place of a buffer
        layers = [(prefix, layer._buffers) for prefix, layer in module.named_modules()]
        self._slots = [(prefix, held, name) for prefix, held in layers for name in held if held[name] is not None]
        self._copies: list[Tensor | None] = [None] * len(self._slots)
        self._moving: list[Tensor] = []
        self._versions: list[int] = []
        self.stepped = False
        """True once an optimizer has stepped in this turn, also one that writes where no count of versions shows it."""
        self.turns_made = -1
        self.memory: dict[str, Any] = {}
        """The game's state at the beginning of the turn, as `GameStrategy.state_dict(wait=False)` has it."""

    def begin_turn(self, index: int, turn: Turn) -> None:
        """Keep what the turn will move before its optimizer steps."""
        if index == self.turns_made:  # begun before the first look
            return
        self.turns_made, self.memory, self.stepped = index, self._game.state_dict(wait=False), False
        if self.generators:
            self.generators[1] = read_states()
        buffers = [held.get(name) for _, held, name in self._slots]
        for k, buffer in enumerate(buffers):  # a loss may put a tensor of another shape there, or none
            if not _alike(self._copies[k], buffer):
                self._copies[k] = None if buffer is None else torch.empty_like(buffer)
        pairs = [(c, b.detach()) for c, b in zip(self._copies, buffers, strict=True) if c is not None and b is not None]
        for dtype in {buffer.dtype for _, buffer in pairs}:  # one launch for all of them
            copies, originals = zip(*((c, b) for c, b in pairs if b.dtype == dtype), strict=True)
            torch._foreach_copy_(copies, originals)
        self._moving = [parameter for player in turn.players for parameter in self._live[player]]
        self._versions = self._written()

    @property
    def torn(self) -> bool:
        """True from the first write of an optimizer on, until the turn is over."""
        return self.stepped or self._versions != self._written()

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Hold the module at the point where the players are, whatever an evaluation has put into its slots."""
        with self._swap({player: tuple(parameters) for player, parameters in self._live.items()}):
            yield

    def write(self, weights: MutableMapping[str, Any]) -> None:
        """Put the weights as they are, and the buffers as the turn found them, into a state_dict."""
        buffers = {
            f"{prefix}.{name}" if prefix else name: kept
            for (prefix, _, name), kept in zip(self._slots, self._copies, strict=True)
            if kept is not None
        }
        for name, value in {**dict(self._module.named_parameters(remove_duplicate=False)), **buffers}.items():
            if is_sharded(value):  # Lightning has gathered it, and only rank 0 has weights
                continue
            if isinstance(weights.get(name), Tensor) and weights[name].shape == value.shape:
                weights[name] = value.detach()

    def _written(self) -> list[int]:
        """Count the writes into the turn's parameters and into what optimizers keep of them."""
        kept = [
            value
            for optimizer in self._optimizers
            for parameter in self._moving
            for value in optimizer.state.get(parameter, {}).values()
            if isinstance(value, Tensor)
        ]
        return [tensor._version for tensor in (*self._moving, *kept)]


def _alike(kept: Tensor | None, buffer: Tensor | None) -> bool:
    if kept is None or buffer is None:
        return kept is buffer
    return (kept.shape, kept.dtype, kept.device) == (buffer.shape, buffer.dtype, buffer.device)


def loader_states(trainer: Trainer) -> Any:
    """Return the positions of the training loaders, as a checkpoint of Lightning has them; None if they keep none."""
    loader = getattr(trainer.fit_loop, "_combined_loader", None)
    try:  # a loader of somebody else's may know no position before its first batch
        return copy.deepcopy(loader._state_dicts()) or None if loader is not None else None
    except Exception:
        return None


def align_loops(checkpoint: Mapping[str, Any], *, complete: bool, loaders: Any) -> bool:
    """Make Lightning's loops go on where the game does, wherever within a batch or between two epochs they are.

    Lightning knows of saves at the end of a batch, and goes on elsewhere with the next batch, or with the last count of
    batches in a new epoch.

    Args:
        checkpoint: of Lightning.
        complete: the game step of the batch that was last taken is complete.
        loaders: their positions at the end of the batch before.

    Returns:
        True if an epoch is complete whose end the resumed run will not come to any more.
    """
    loops = checkpoint.get("loops", {}).get("fit_loop", {})
    batches, epochs = loops.get("epoch_loop.batch_progress"), loops.get("epoch_progress")
    if not batches or not epochs:
        return False
    for counts in (batches["total"], batches["current"]):
        if complete and counts["ready"] > counts["processed"]:
            counts["started"] = counts["processed"] = counts["ready"]
        elif counts["ready"] > counts["processed"]:
            counts["ready"] = counts["started"] = counts["processed"]
            batches["is_last_batch"] = False
            if loaders is not None:
                loops["state_dict"]["combined_loader"] = loaders
    at_end = epochs["current"]["processed"] > epochs["current"]["completed"]
    if at_end:
        for counts in (epochs["total"], epochs["current"]):
            counts["completed"] = counts["processed"]
    if at_end or epochs["current"]["ready"] > epochs["current"]["started"]:
        batches |= {"current": dict.fromkeys(batches["current"], 0), "is_last_batch": False}
    within = batches["current"]["processed"] > batches["current"]["completed"]
    return at_end or (within and bool(batches["is_last_batch"]))
