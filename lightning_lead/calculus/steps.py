"""Where an optimizer would take the players, worked out on copies: look-ahead for rules that need it.

    ahead(d, c):   θ + c · u(d / c),    u(d) the step that the optimizer would make of the direction d

For SGD without momentum that is θ − η d for every c. For Adam, whose step hardly depends on the size of d, c says which
part of a step is meant.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_lead._errors import ConfigurationError
from lightning_lead._typing import Vector
from lightning_lead.calculus.players import laid_out_like, weighted_sum

__all__ = ["Steps"]


class Steps:
    """The optimizers' next step, asked for as often as a rule likes; nothing moves.

    Args:
        players: name -> live parameters.
        optimizers: that own them.
        clip: largest norm of a player's direction, as the training step clips it; or None.

    Example:
        >>> import torch
        >>> x = nn.Parameter(torch.ones(1))
        >>> steps = Steps({"x": [x]}, [torch.optim.SGD([x], lr=0.5)])
        >>> steps.ahead({"x": (torch.ones(1),)})["x"], x.item()
        ((tensor([0.5000]),), 1.0)
    """

    def __init__(
        self, players: Mapping[str, Sequence[Tensor]], optimizers: Sequence[Optimizer], *, clip: float | None = None
    ) -> None:
        self._players, self._optimizers, self._clip = players, optimizers, clip
        self._remembered: list[tuple[Optimizer, Tensor, dict[str, Any]]] = []

    def rates(self, player: str) -> tuple[float, ...]:
        """The learning rate of each of the player's parameters, now.

        Args:
            player: whose.
        """
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

    def ahead(
        self, directions: Mapping[str, Vector], *, fraction: float = 1.0, remember: bool = False
    ) -> dict[str, Vector]:
        """Where the players would be after a step along the directions; they do not move.

        Args:
            directions: player -> d, averaged over ranks.
            fraction: c, the part of a step that is meant, > 0.
            remember: let the optimizers keep, once the step is made, what their memory would be after this one; so
                Adam's moments see the look-ahead too.

        Returns:
            player -> parameters, copies.
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
            result[player] = after if fraction == 1 else weighted_sum([(1 - fraction, before), (fraction, after)])
        return result

    def settle_memory(self, *, keep: bool = True) -> None:
        """Hand the remembered state to the optimizers, just before the step.

        Args:
            keep: otherwise it is forgotten, because the step is not made.
        """
        for optimizer, parameter, state in self._remembered if keep else []:
            optimizer.state[parameter] = state
        self._remembered = []


def _shadow(optimizer: Optimizer, copies: Mapping[int, Tensor]) -> Optimizer | None:
    """The optimizer on copies of some parameters and of its state; None if it owns none of them."""
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
    shadow: Optimizer = object.__new__(type(optimizer))
    # neither hooks nor a scheduler's counter, which is an attribute `step` bound to the original
    own = {key: value for key, value in vars(optimizer).items() if key != "step" and not key.endswith("_hooks")}
    hooks: dict[str, Any] = {key: OrderedDict() for key in vars(optimizer) if key.endswith("_hooks")}
    vars(shadow).update(own | hooks | {"param_groups": groups, "state": state})
    return shadow
