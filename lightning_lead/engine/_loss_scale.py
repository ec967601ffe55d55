"""The loss scale of fp16: losses are multiplied by it before they are differentiated, and derivatives divided by it.

    d = (1/s) · derivative of (s · L)

Every answer of the oracle is linear in the losses, so one factor serves gradients and cross terms alike. It moves as
that of `torch.amp.GradScaler`: a turn whose direction is not finite is skipped and lowers it, a number of turns without
one raises it. Each turn has a scale of its own, named by who moves in it: the players' gradients differ in size.

Reference: Micikevicius et al., "Mixed Precision Training", ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from lightning_lead._errors import CheckpointMismatchError

__all__ = ["LossScale"]


@final
class LossScale:
    """The scales of the turns of a game; the arguments are those of `torch.amp.GradScaler`, and the largest scale.

    Example:
        >>> scale = LossScale(init_scale=4.0)
        >>> scale.update(["generator"], overflowed=True)
        >>> scale.of(["generator"]), scale.of(["discriminator"])
        (2.0, 4.0)
    """

    def __init__(
        self,
        *,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        largest: float = 2.0**64,
    ) -> None:
        self.init_scale, self.growth_factor = init_scale, growth_factor
        self.backoff_factor, self.growth_interval, self.largest = backoff_factor, growth_interval, largest
        self._scales: dict[str, float] = {}
        self._good_turns: dict[str, int] = {}  # since the scale was last moved

    @classmethod
    def like(cls, scaler: Any) -> LossScale:
        """Take over the settings of a `torch.amp.GradScaler`."""
        return cls(
            init_scale=scaler.get_scale(),
            growth_factor=scaler.get_growth_factor(),
            backoff_factor=scaler.get_backoff_factor(),
            growth_interval=scaler.get_growth_interval(),
        )

    def of(self, players: Sequence[str]) -> float:
        """Return the scale of the turn in which these players move."""
        return self._scales.get(_name(players), self.init_scale)

    def update(self, players: Sequence[str], *, overflowed: bool) -> None:
        """Lower the scale of a turn that was skipped; raise it after enough others.

        Args:
            players: those whose turn it was.
            overflowed: its direction was not finite.
        """
        name, good = _name(players), 0 if overflowed else self._good_turns.get(_name(players), 0) + 1
        if overflowed:
            self._scales[name] = max(self.of(players) * self.backoff_factor, _LEAST)
        elif good >= self.growth_interval:
            self._scales[name], good = min(self.of(players) * self.growth_factor, self.largest), 0
        self._good_turns[name] = good

    def state_dict(self) -> dict[str, Any]:
        """Return scale and count of each turn."""
        return {name: [self._scales.get(name, self.init_scale), good] for name, good in self._good_turns.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` has returned.

        Raises:
            CheckpointMismatchError: it holds something else.
        """
        for name, entry in state.items() if isinstance(state, Mapping) else [("a turn", state)]:
            if not _is_entry(entry):
                raise CheckpointMismatchError(
                    f"Cannot resume because the loss scale of {name!r} in the checkpoint is none; take another copy "
                    f"of it (got {entry!r})"
                )
            self._scales[name], self._good_turns[name] = entry


_LEAST = 2.0**-24
"""From here a scale comes back within a run; one that has become zero would skip every turn."""


def _name(players: Sequence[str]) -> str:
    return "+".join(players)


def _is_entry(entry: Any) -> bool:
    if not (isinstance(entry, (list, tuple)) and len(entry) == 2):
        return False
    scale, good = entry
    return isinstance(scale, float) and 0 < scale <= 2.0**127 and isinstance(good, int) and good >= 0
