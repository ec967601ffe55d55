"""The structure of a GAN in its game steps: looked for before the first one, audited, and kept in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_lead._distributed import combine
from lightning_lead.calculus._chain.links import Structure
from lightning_lead.calculus._terms import Contexts
from lightning_lead.calculus.swap import Swap
from lightning_lead.engine.turns import Turn
from lightning_lead.gan._batch import GANBatch
from lightning_lead.gan._chain_losses import GANLosses, TurnSettings
from lightning_lead.gan._penalties import no_penalty_values
from lightning_lead.gan._penalty_probe import probe_penalty
from lightning_lead.gan._problem import GANProblem
from lightning_lead.gan._structure import PROBED, assumed, audited, find_structure, of_both, report_structure
from lightning_lead.training.module import LeadModule

__all__ = ["StructuredModule"]


class StructuredModule(LeadModule):
    """A module that knows the structure of its GAN; `LeadGANModule` is one, and keeps the attributes."""

    audit_every: int | None
    shared_latents: bool
    _structure: Structure
    _saved_structure: Structure | None  # of the checkpoint, until the first look
    _known_calls: dict[str, set[str]]
    _first: dict[int, GANLosses]  # of this game step, by the identity of their latents
    _penalty_values: dict[str, dict[int, Tensor]]  # of this game step

    def _losses_of(
        self, batch: Any, seed: int, *, structure: Structure | None = None, repeated: bool | None = None
    ) -> GANLosses:
        return GANLosses(
            self.problem,
            batch,
            seed,
            settings=TurnSettings(
                self.game.rule.needs,
                self.game.play == "simultaneous",
                self.shared_latents,
                self.accumulate,
                self._known_calls,
                self._use_duals,
            ),
            structure=self._structure if structure is None else structure,
            # if the discriminator is not piecewise linear any more, the batch is evaluated again, as a replay
            repeated=self._repeated() or self._structure.piecewise_linear if repeated is None else repeated,
            losses=self._checked_losses,
        )

    def _use_duals(self, reason: str) -> None:
        # of this rank alone: how a derivative is computed needs no agreement
        self._structure = self._structure._replace(not_piecewise_linear=reason)
        report_structure(self._structure, self.game.rule)

    def _batch_losses(self, batch: Any, seed: int) -> GANLosses:
        losses = self._losses_of(batch, seed)
        if losses.joint:
            return losses
        if losses.shares:
            self._first.setdefault(id(batch.latents), losses)
        elif self.shared_latents:
            losses.follow(self._first.get(id(batch.latents), losses))
        return losses

    def _probe(self, turns: Sequence[Turn], live: Mapping[str, Sequence[Tensor]], seed: int) -> None:
        if self._units:  # the fast derivatives and the probes of structure take gradients with their graphs
            super()._probe(turns, live, seed)
            return
        needs = self.game.rule.needs
        first = turns[0].micro_batches[0]
        if isinstance(first, GANBatch):
            losses = self._losses_of(_probed(first), seed, repeated=False)
            contexts = Contexts(Swap(self, live), self._full_precision)
            probe_penalty(losses.problem, losses, live, contexts, needs)
        found = self._find_structure(turns[-1].micro_batches[0], live, seed)
        saved, self._saved_structure = self._saved_structure, None
        found = found if saved is None else of_both(saved, found)
        self._structure = found = Structure(*self.trainer.strategy.broadcast(tuple(found)))  # one for all ranks
        self._known_calls = {}
        report_structure(found, self.game.rule)
        super()._probe(turns, live, seed)
        self._penalty_values.update(no_penalty_values())

    def _audit(self, turns: Sequence[Turn], live: Mapping[str, Sequence[Tensor]], seed: int) -> None:
        due = self.audit_every is not None and self.global_step % self.audit_every == 0
        if not due or not self._structure.chained or self.game.rule.needs.evaluates_once:
            return
        self.is_repeat = True  # users' state stays as it is
        try:
            with self._recomputing(look=True):
                found = self._find_structure(turns[-1].micro_batches[0], live, seed)
        finally:
            self.is_repeat = False
        after = audited(self._structure, found, self.game.rule, self.global_step)
        least = combine(torch.tensor(float(assumed(after)), device=self.device), "min")
        if assumed(after) > float(least):  # another rank has found more
            reason = "another rank has found a change"
            after = Structure(None, reason) if float(least) else Structure(reason, None)
        self._structure = after

    def _find_structure(self, batch: Any, live: Mapping[str, Sequence[Tensor]], seed: int) -> Structure:
        if self.problem.overridden or not isinstance(batch, GANBatch):
            return Structure("wanted_losses() is overridden", None)
        few, contexts = _probed(batch), Contexts(Swap(self, live), self._full_precision)

        def make_losses(structure: Structure, *, repeated: bool = True) -> GANLosses:
            return self._losses_of(few, seed, structure=structure, repeated=repeated)

        return find_structure(make_losses, live, contexts, self.game.rule)

    def _findings(self) -> dict[str, Any]:
        return {"structure": list(self._structure), "structure_for": repr(self.game.rule)}

    def _take_findings(self, saved: Mapping[str, Any]) -> None:
        same_rule = saved.get("structure_for") == repr(self.game.rule)
        self._saved_structure = Structure(*saved["structure"]) if same_rule else None

    # ---- what the GAN implements ------------------------------------------------------------------------------------

    @property
    def problem(self) -> GANProblem:
        raise NotImplementedError


def _probed(batch: GANBatch) -> GANBatch:
    """A few samples, in a first update, of which every penalty is a part."""
    return batch.first(PROBED)._replace(update=0, generator_update=0)
