"""The oracle of a turn: the losses of its micro-batches, the swap of parameters, the reduction over ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from lightning_lead._distributed import mean_over_ranks, share_of_ranks, weight_of_rank
from lightning_lead._errors import ConfigurationError
from lightning_lead.calculus._chain.dual import has_compiled
from lightning_lead.calculus._graph import LossGraph
from lightning_lead.calculus._rng import PrivateNoise, mix_seed
from lightning_lead.calculus._sharded import ShardedOracle, ShardedSwap
from lightning_lead.calculus.lookahead import Lookahead
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.calculus.replay import Recomputation
from lightning_lead.calculus.swap import Swap
from lightning_lead.engine.losses import BatchLosses
from lightning_lead.engine.turns import Turn
from lightning_lead.training._log import is_due
from lightning_lead.training._saved_game import SavedGame

__all__ = ["TurnOracles"]


class TurnOracles(SavedGame):
    """A module that makes the oracle of each turn; `LeadMixin` plays with it, and keeps the attributes."""

    _graphs: dict[str, LossGraph]  # of each player's loss, from the first look on
    _joint: bool  # one forward and one reverse pass for both players
    _noise: PrivateNoise
    _probed: bool  # the first look of this fit has been
    _recomputation: Recomputation | None  # what watches activation checkpointing, where there is some
    _units: list[Any]  # modules that FSDP2 shards

    def _oracle(
        self,
        turn: Turn,
        live: Mapping[str, Sequence[Tensor]],
        seed: int,
        *,
        swap: Swap | ShardedSwap | None = None,
        lookahead: Lookahead | None = None,
        probing: bool = False,
    ) -> GameOracle:
        """Make the oracle of a turn; that of a probe knows this rank alone."""
        settings: dict[str, Any] = {"exhaustive": True, "inspect": True}
        if not probing:
            reduce = mean_over_ranks(self.trainer.strategy, turn.batch_size)
            settings = {"reduce": reduce, "lookahead": lookahead, "inspect": self._inspected(), "joint": self._joint}
            own = share_of_ranks(self.trainer.strategy, turn.batch_size)
            settings |= {"lenient": True, "local": dict.fromkeys(self.local_players(), own)}
        losses = [self._batch_losses(micro, mix_seed(seed, k)) for k, micro in enumerate(turn.micro_batches)]
        if self.game.loss_scale is not None and not probing:
            for each in losses:
                each.scale = self.game.loss_scale.of(turn.players)
        kind: type[GameOracle] = GameOracle
        if self._units:
            kind, share = ShardedOracle, weight_of_rank(turn.batch_size, self.device)
            settings |= {"live": live, "units": self._units, "share": share}
        return kind(
            {player: tuple(params) for player, params in live.items()},
            losses,
            swap=self._swap(live) if swap is None else swap,
            full_precision=self._full_precision,
            graphs=self._graphs,
            **settings,
        )

    def _swap(self, live: Mapping[str, Sequence[Tensor]]) -> Swap | ShardedSwap:
        return ShardedSwap(live) if self._units else Swap(self, live)

    def _batch_losses(self, batch: Any, seed: int) -> BatchLosses:
        return BatchLosses(self, self._checked_losses, batch, seed, noise=self._noise, repeated=self._repeated())

    def _checked_losses(self, batch: Any, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        """Evaluate `wanted_losses`, and refuse one that trains or freezes: a line of the loop that was there before."""
        groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        held = [p for group in groups for p in group["params"] if p.requires_grad]
        before = [p._version for p in held]
        losses = self.wanted_losses(batch, wanted)
        if before != [p._version for p in held]:
            raise ConfigurationError(
                "Cannot go on because a loss has moved parameters, and the game step moves them as well; take "
                "optimizer.step() out of it, as zero_grad() and manual_backward()"
            )
        if not all(p.requires_grad for p in held):
            raise ConfigurationError(
                "Cannot go on because a loss has frozen parameters, which would not move any more; take "
                "toggle_optimizer() out of it (each turn moves its own player alone), or freeze them in a callback"
            )
        return losses

    @contextmanager
    def _recomputing(self, *, look: bool) -> Iterator[None]:
        """Let no reverse pass move buffers; looks for activation checkpointing first, and on steps that are logged."""
        if self._recomputation is None and (look or self._inspected()) and not has_compiled(self):
            self._recomputation = Recomputation(self)
        try:
            yield
        finally:
            if self._recomputation is not None and not self._recomputation.found:
                self._recomputation.remove()
                self._recomputation = None

    def _repeated(self) -> bool:
        """Return True if this step evaluates a batch more than once, so that what a forward moves must be kept."""
        needs, simultaneous = self.game.rule.needs, self.game.play == "simultaneous"
        if needs.evaluates_once:
            return simultaneous and not self._joint
        return needs.repeats_batch or simultaneous or self._inspected()

    def _looks_closer(self) -> bool:
        """Return True on steps in which it is looked for what others would pay for in every step."""
        return not self._probed or self._inspected()

    def _inspected(self) -> bool:
        """Return True on steps that are logged, which alone need norms and cosines."""
        return is_due(self.trainer, self.trainer.global_step + 1)

    def _full_precision(self) -> AbstractContextManager[object]:
        kind = self.device.type
        return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()

    # ---- what the class that plays implements -----------------------------------------------------------------------

    def local_players(self) -> frozenset[str]:
        raise NotImplementedError

    def wanted_losses(self, batch: Any, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        raise NotImplementedError
