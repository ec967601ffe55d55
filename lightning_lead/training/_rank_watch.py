"""A callback by which ranks see that they do the same, and learn why one of them has ended.

What is about to be reduced is compared before each game step, by `RankNotes`: at fit start in full, later where it has
changed on this rank, at the ends of an epoch and before each validation and checkpoint. There the weights are compared
as well, which drift where an optimizer is set, or a gradient changed, on one rank alone.
"""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_lead._errors import first_line
from lightning_lead._lightning import Callback, Trainer
from lightning_lead._rank_notes import RankNotes
from lightning_lead._rank_signs import in_collective
from lightning_lead._sharding import is_sharded
from lightning_lead.calculus._players import listed
from lightning_lead.engine.turns import Turn

__all__ = ["RankWatch"]

_fits = itertools.count()

_SETTINGS = (
    "clip",
    "accumulate",
    "discriminator_warmup",
    "generator_batch_size",
    "shared_latents",
    "objective",
    "penalty",
    "generator_penalty",
)
"""Attributes of a module that say what is played."""

_LIMITS = ("max_steps", "max_epochs", "num_training_batches", "val_check_batch", "check_val_every_n_epoch", "precision")


class RankWatch(Callback):
    """Compare what ranks are about to do, and let the survivors of a fault name the rank that failed."""

    def __init__(self) -> None:
        self._notes: RankNotes | None = None
        self.failed = ""
        """The reason for which this fit has failed, here or on another rank."""

    @staticmethod
    def put_first(trainer: Any) -> None:
        """Give a trainer of several ranks a watch, if it has none, before callbacks that have collectives of their own.

        Args:
            trainer: before its callbacks' first hook.
        """
        if trainer.world_size > 1 and RankWatch.of(trainer) is None:
            trainer.callbacks.insert(0, RankWatch())

    @staticmethod
    def of(trainer: Any) -> RankWatch | None:
        """Return the trainer's watch."""
        return next((callback for callback in trainer.callbacks if isinstance(callback, RankWatch)), None)

    # ---- agreement ---------------------------------------------------------------------------------------------------

    def before_game_step(self, module: Any, turns: Sequence[Turn], live: Mapping[str, Sequence[Tensor]]) -> None:
        """See if all ranks are about to play the same game step; a look at this rank alone where nothing has changed.

        Args:
            module: that plays.
            turns: of the step.
            live: the players' parameters.
        """
        if self._notes is None:
            return
        own = module.local_players()  # of each rank, and of the size of its batch
        moving = [(id(p), p.requires_grad, p.dtype) for params in live.values() for p in params]
        players = [turn.players for turn in turns]
        settings = [getattr(module, name, None) for name in _SETTINGS]
        key = (moving, players, id(module.game.rule), module.game.play, module.game.skip_limit, settings)
        last = bool(module.trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)

        def describe() -> dict[str, Any]:
            where = {"is next": f"game step {module.global_step}", "of epoch": module.current_epoch}
            shared = {name: params for name, params in listed(module.players()).items() if name not in own}
            whole = {name: _parameters(module, params) for name, params in shared.items()}
            order = ", then ".join(" and ".join(each) for each in players)
            return {**where, "is the last batch of the epoch": last, "turns": order, **_game(module), **whole}

        self._notes.pass_by(key, describe, ask=last)

    def compare(self, what: str, module: Any, **more: Any) -> None:
        """Wait for all ranks at `what`, and refuse to go on with weights that differ.

        Args:
            what: this rank is about to do.
            module: whose weights.
            more: what else is to be the same, of JSON's values.
        """
        if self._notes is not None:
            where = {"is next": what, "after game step": module.global_step}
            optimizers = {f"optimizer {k}": _optimizer(each) for k, each in enumerate(module.trainer.optimizers)}
            players = listed(module.players())
            own = {id(p) for name in module.local_players() & players.keys() for p in players[name]}
            self._notes.agree(where | more | optimizers | {"norm of": _norms(module, own)})

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Open the notes of this fit; Lightning's wrapper would hang, or worse, on parameters that differ."""
        if stage != "fit" or trainer.world_size == 1 or not torch.distributed.is_initialized():
            return
        self.failed = ""
        fit = int(trainer.strategy.broadcast(next(_fits)))
        groups: Any = torch.distributed.distributed_c10d
        store = groups.PrefixStore(f"lightning_lead/{fit}", groups._get_default_store())
        limit = getattr(trainer.strategy, "_timeout", None) or torch.distributed.constants.default_pg_timeout
        self._notes = RankNotes(store, trainer.global_rank, trainer.world_size, limit=limit.total_seconds())
        layers = {name or "the module": type(layer).__name__ for name, layer in pl_module.named_modules()}
        buffers = {name: f"{buffer.dtype} {list(buffer.shape)}" for name, buffer in pl_module.named_buffers()}
        parameters = _parameters(pl_module, None)
        self._notes.agree({"is next": "a fit", "": layers, "parameter": parameters, "buffer": buffers})

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Compare all that a fit begins with."""
        schedulers = [type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs]
        limits = {name: str(getattr(trainer, name, None)) for name in _LIMITS}
        more = limits | _game(pl_module)
        self.compare("training", pl_module, epoch=trainer.current_epoch, schedulers=schedulers, **more)
        self._take_sigterm(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Compare before buffers are given to all."""
        self.compare("validation", pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Let no rank go on to another epoch alone."""
        self.compare(f"the end of epoch {trainer.current_epoch}", pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """All have come to the end; rank 0, which keeps the store, is the last to leave it."""
        self.compare("the end of training", pl_module)
        if self._notes is not None:
            self._notes.finish()
            trainer.strategy.barrier()

    # ---- the end -----------------------------------------------------------------------------------------------------

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Tell the other ranks; or, if a collective has failed because of another rank, say whose fault it was."""
        if self._notes is None:
            return
        self.failed, reason = first_line(exception), None
        if in_collective(exception):
            reason = self._notes.explain()
        else:
            said = first_line(exception)
            named = type(exception).__name__.replace("SIGTERMException", "SIGTERM")
            self._notes.fail(f"failed: {named}" + (f": {said}" if said != type(exception).__name__ else ""))
        if reason is not None and reason not in str(exception):
            exception.args = (f"Cannot go on because {reason} [{first_line(exception)[:200]}]",)
        ended = getattr(getattr(trainer, "_signal_connector", None), "received_sigterm", False)
        if isinstance(exception, SystemExit) and exception.code is None and ended:
            exception.code = 128 + signal.SIGTERM  # Lightning's has none, by which a rank that was ended would succeed
        self._notes = None

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Close the notes."""
        if self._notes is not None:
            self._notes.finish()
        self._notes = None

    def _take_sigterm(self, trainer: Any) -> None:
        """Let SIGTERM end the fit after the game step, as Lightning does, without the broadcast in its handler.

        Lightning's handler broadcasts, which hangs where one rank alone is told to end. Other handlers stay.
        """
        if self._notes is None or threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(signal.SIGTERM)
        handlers = getattr(before, "signal_handlers", None)
        connector: Any = getattr(trainer, "_signal_connector", None)
        if handlers is None or not hasattr(connector, "received_sigterm"):
            return  # an own handler, or another Lightning

        def end(number: int, frame: Any) -> None:
            launcher = trainer.strategy.launcher
            if launcher is not None and not connector.received_sigterm:
                launcher.kill(number)
            connector.received_sigterm = True
            for handler in handlers:
                if getattr(handler, "__name__", "") != "_sigterm_notifier_fn" and callable(handler):
                    handler(number, frame)

        signal.signal(signal.SIGTERM, end)  # Lightning gives back what was there before the fit


def _game(module: Any) -> dict[str, Any]:
    settings = {name: repr(getattr(module, name, None)) for name in _SETTINGS}
    settings = {name: value for name, value in settings.items() if " at 0x" not in value}
    return {"game": module.game.description, "skip_limit": module.game.skip_limit, **settings}


def _parameters(module: nn.Module, of: Sequence[Tensor] | None) -> dict[str, str]:
    """Name -> dtype, shape and whether it is frozen, of all parameters of a module or of some."""
    wanted = None if of is None else {id(p) for p in of}
    found = {}
    for name, p in module.named_parameters():
        if wanted is None or id(p) in wanted:
            shape = "lazy" if nn.parameter.is_lazy(p) else str(list(p.shape))
            found[name] = f"{str(p.dtype).removeprefix('torch.')} {shape}{'' if p.requires_grad else ' frozen'}"
    return found


def _norms(module: nn.Module, own: Collection[int]) -> dict[str, float]:
    """Name -> norm, of every parameter but those of this rank alone, by their ids, and those of which it has a part."""
    norms: dict[torch.device, dict[str, Tensor]] = {}
    for name, p in module.named_parameters():
        if not (nn.parameter.is_lazy(p) or p.is_meta or id(p) in own or is_sharded(p)):
            continuous = p.detach() if p.is_floating_point() or p.is_complex() else p.detach().float()
            wide = torch.promote_types(continuous.dtype, torch.float32)
            norms.setdefault(p.device, {})[name] = torch.linalg.vector_norm(continuous, dtype=wide).float()
    each = [zip(found, torch.stack([*found.values()]).tolist(), strict=True) for found in norms.values()]
    return {name: value for pairs in each for name, value in pairs}


def _optimizer(optimizer: Any) -> dict[str, Any]:
    groups = {}
    for k, group in enumerate(optimizer.param_groups):
        plain = {name: _plain(value) for name, value in group.items() if name != "params"}
        groups[f"group {k}"] = plain | {"parameters": len(group["params"])}
    return {"kind": type(optimizer).__name__, **groups}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    text = value if isinstance(value, (int, float, str, bool, type(None))) else str(value)
    return type(value).__name__ if " at 0x" in str(text) else text
