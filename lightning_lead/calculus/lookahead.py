"""The optimizers as rules see them: where they would take the players, at which rates, and how old their momentum is.

    ahead(d, c):   θ + c · u(d / c),    u(d) the step that the optimizer would make of the direction d
    lag:           β/(1 − β), or β²/(1 − β) with Nesterov's momentum: the mean age of the gradients in a step, in steps

For SGD without momentum, ahead is θ − η d for every c. Adam's step hardly depends on the size of d, so there c is the
part of a step. The lag is Σ k·wₖ / Σ wₖ, where wₖ is the weight of the gradient of k steps ago.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_clip
from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Vector
from lightning_lead.calculus._players import laid_out_like, weighted_sum
from lightning_lead.constraints.base import AbstractConstraint

__all__ = ["Lookahead", "momentum_lag"]


def momentum_lag(group: Mapping[str, Any]) -> float | None:
    """Return the mean age of the gradients in an optimizer's step, in steps, once it is under way.

    β is `betas[0]`, as Adam and its relatives have it, or else `momentum`, as SGD, RMSprop and Muon have it. Nesterov's
    momentum, also NAdam's, gives the newest gradient its weight once more.

    Args:
        group: one of an optimizer's `param_groups`.

    Returns:
        β/(1 − β), with Nesterov's momentum β²/(1 − β); None if the host holds no such β in [0, 1).

    Example:
        >>> momentum_lag({"betas": (0.5, 0.9)}), momentum_lag({"momentum": 0.5, "nesterov": True}), momentum_lag({})
        (1.0, 0.5, None)
    """
    betas = group.get("betas")
    beta = betas[0] if isinstance(betas, Sequence) and betas else group.get("momentum")
    if isinstance(beta, Tensor):
        beta = float(beta) if beta.device.type == "cpu" else None  # reading it elsewhere would wait for the device
    if not isinstance(beta, (int, float)) or isinstance(beta, bool) or not 0 <= beta < 1:
        return None
    newest_again = group.get("nesterov") or "momentum_decay" in group  # the latter is NAdam's
    return beta * (beta if newest_again else 1.0) / (1 - beta)


class Lookahead:
    """The optimizers' next step, computed on copies; no parameter moves.

    Args:
        players: name -> live parameters.
        optimizers: that own them.
        clip: largest norm of a player's direction, as the training step clips it; or None.
        constraints: player -> the set that its parameters stay in, also where they would be after a step.

    Example:
        >>> import torch
        >>> x = nn.Parameter(torch.ones(1))
        >>> lookahead = Lookahead({"x": [x]}, [torch.optim.SGD([x], lr=0.5)])
        >>> lookahead.ahead({"x": (torch.ones(1),)})["x"], x.item()
        ((tensor([0.5000]),), 1.0)
    """

    def __init__(
        self,
        players: Mapping[str, Sequence[Tensor]],
        optimizers: Sequence[Optimizer],
        *,
        clip: float | None = None,
        constraints: Mapping[str, AbstractConstraint] | None = None,
    ) -> None:
        check_arguments(Lookahead, locals())
        check_clip(clip)
        self.constraints = dict(constraints or {})
        self._players, self._optimizers, self._clip = players, optimizers, clip
        self._remembered: list[tuple[Optimizer, Tensor, dict[str, Any]]] = []

    def rates(self, player: str) -> tuple[float, ...]:
        """The learning rate of each of the player's parameters, now."""
        found: dict[int, float] = {}
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                found |= {id(p): float(group["lr"]) for p in group["params"]}
        if missing := [p for p in self._players[player] if id(p) not in found]:
            raise ConfigurationError(
                f"Cannot tell the step size of player {player!r} because no optimizer holds {len(missing)} of its "
                "parameters; return one from configure_optimizers()"
            )
        return tuple(found[id(p)] for p in self._players[player])

    def lag(self, player: str) -> float:
        """Return the mean age of the gradients in the player's next step, in its own steps; see `momentum_lag`.

        Raises:
            ConfigurationError: an optimizer has no momentum to read, or two of the player's groups differ in it.
        """
        owned = {id(p) for p in self._players[player]}
        lags: set[float] = set()
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                if all(id(p) not in owned for p in group["params"]):
                    continue
                if (lag := momentum_lag(group)) is None:
                    raise ConfigurationError(
                        f"Cannot set the coupling of player {player!r} by its momentum because "
                        f"{type(optimizer).__name__} has no betas and no momentum in [0, 1) to read; "
                        f"pass coupling={{{player!r}: a number, ...}}, or one number for both (got a group with "
                        f"{sorted(key for key in group if key != 'params')})"
                    )
                lags.add(lag)
        if len(lags) != 1:
            what = f"its parameters have several, with lags of {sorted(lags)}" if lags else "no optimizer holds it"
            raise ConfigurationError(
                f"Cannot set the coupling of player {player!r} by its momentum because {what}; pass "
                f"coupling={{{player!r}: a number, ...}}, or one number for both"
            )
        return lags.pop()

    def ahead(
        self, directions: Mapping[str, Vector], *, fraction: float = 1.0, remember: bool = False
    ) -> dict[str, Vector]:
        """Return copies of the players as they would be after a step along the directions.

        Args:
            directions: player -> d, averaged over ranks.
            fraction: c, the part of a step, > 0.
            remember: keep the optimizers' state after this step for `hand_over`, so that Adam's moments see it too.
        """
        copies: dict[int, Tensor] = {}
        for player, direction in directions.items():
            clones = [nn.Parameter(p.detach().clone()) for p in self._players[player]]
            for clone, part in zip(clones, direction, strict=True):
                clone.grad = laid_out_like(part / fraction, clone)
            if self._clip is not None:
                nn.utils.clip_grad_norm_(clones, self._clip)
            copies |= {id(p): clone for p, clone in zip(self._players[player], clones, strict=True)}
        if remember:
            self._remembered = []
        # each optimizer's own `step` runs on the copies, so any optimizer serves
        for optimizer in self._optimizers:
            shadow = _shadow(optimizer, copies)
            if shadow is None:
                continue
            shadow.step()
            if remember:
                live = {id(p): p for group in optimizer.param_groups for p in group["params"] if id(p) in copies}
                self._remembered += [(optimizer, p, shadow.state[copies[key]]) for key, p in live.items()]
        result = {}
        for player in directions:
            before = tuple(p.detach() for p in self._players[player])
            after = tuple(copies[id(p)].detach() for p in self._players[player])
            after = after if fraction == 1 else weighted_sum([(1 - fraction, before), (fraction, after)])
            if (constraint := self.constraints.get(player)) is not None:
                after = tuple(constraint.move(b, a) for b, a in zip(before, after, strict=True))
            result[player] = after
        return result

    def hand_over(self, *, keep: bool = True) -> None:
        """Hand the remembered state to the optimizers, just before their step; without `keep`, forget it."""
        for optimizer, parameter, state in self._remembered if keep else []:
            optimizer.state[parameter] = state
        self._remembered = []


def _shadow(optimizer: Optimizer, copies: Mapping[int, Tensor]) -> Optimizer | None:
    """The optimizer on copies of some parameters (by id) and of its state; None if it owns none of them."""
    groups: list[dict[str, Any]] = []
    state: defaultdict[Tensor, Any] = defaultdict(dict)
    for group in optimizer.param_groups:
        owned = [p for p in group["params"] if id(p) in copies]
        groups.append({**group, "params": [copies[id(p)] for p in owned]})
        for p in owned:
            kept = optimizer.state.get(p, {})
            state[copies[id(p)]] = {k: v.clone() if isinstance(v, Tensor) else v for k, v in kept.items()}
    if not any(group["params"] for group in groups):
        return None
    # no constructor call, whose arguments are unknown: a new object with the attributes of the old one
    shadow: Optimizer = object.__new__(type(optimizer))
    # neither hooks nor a scheduler's counter, which is an attribute `step` bound to the original
    own = {key: value for key, value in vars(optimizer).items() if key != "step" and not key.endswith("_hooks")}
    hooks: dict[str, Any] = {key: OrderedDict() for key in vars(optimizer) if key.endswith("_hooks")}
    vars(shadow).update(own | hooks | {"param_groups": groups, "state": state})
    return shadow
