"""Sets that a player's parameters stay in; a module names them by its hook `constraints()`."""

from typing import TYPE_CHECKING, Any

from lightning_lead._lazy import lazy_attributes

if TYPE_CHECKING:  # the same names as below, where type checkers and editors can see them
    from lightning_lead.constraints.base import AbstractConstraint, check_constraints
    from lightning_lead.constraints.sets import Box, L2Ball, LInfBall, NonNegative, Simplex

__all__ = [
    "AbstractConstraint",
    "Box",
    "L2Ball",
    "LInfBall",
    "NonNegative",
    "Simplex",
    "check_constraints",
]

__getattr__: Any = lazy_attributes(
    __name__,
    {
        ".base": "AbstractConstraint check_constraints",
        ".sets": "Box L2Ball LInfBall NonNegative Simplex",
    },
)
