"""The spectrum of a rule that is a recurrence, per singular value of A, as the roots of one polynomial.

    v = (hx + Ay, hy − Aᵀx): in the coordinates of one σ, w = x + iy, it is v = λw with λ = h + C, C = −iσ

With 1/z the shift back by one game step, and polynomials p, c, f in 1/z of the rule's own,

    f · d = (p + c·C) w                     direction: pull p, coupling c, feedback f
    (z − 1)(1 − m/z) f = −η (p + c·C)       simultaneous play, SGD with momentum m; and the complex conjugates
    (z − 1)(1 − m/z) f = −ηp − ησuc         alternating play, z = −u²

In alternating play y answers the new x. With E = (z − 1)(1 − m/z) f + ηp the players' equations are E x = −ησc y and
E y = ησc z x; so E² = −η²σ²c² z, and z = −u² makes that the square of E = ησuc, of which the other sign has the same z.

References: Gidel et al., "Negative Momentum for Improved Game Dynamics", AISTATS 2019; for LEAD in
simultaneous play, Askari Hemmat et al., TMLR 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_lead._types import Play

__all__ = ["Block", "recurrence_roots"]

Coefficient = Tensor | float  # of a polynomial in 1/z: one number, or one per singular value


class Block(NamedTuple):
    """The variables of a closed form, besides the rule.

    Example:
        >>> Block(torch.ones(1), curvature=0.0, lr=0.5, play="simultaneous", momentum=0.0).jacobian
        tensor([0.-1.j])
    """

    sigma: Tensor  # (s,)
    curvature: float  # h
    lr: float  # η
    play: Play
    momentum: float  # of SGD, m

    @property
    def coupling(self) -> Tensor:
        """C = −iσ, (s,) complex."""
        return torch.complex(torch.zeros_like(self.sigma), -self.sigma)

    @property
    def jacobian(self) -> Tensor:
        """λ = h − iσ, (s,) complex; the other eigenvalue of the block is its conjugate."""
        return self.curvature + self.coupling


def recurrence_roots(
    block: Block,
    pull: Sequence[Coefficient],
    coupling: Sequence[Coefficient],
    feedback: Sequence[Coefficient] = (1.0,),
) -> Tensor:
    """The roots of a rule that is a recurrence; p, c and f of the module's head.

    Args:
        block: the game, the optimizer and the play.
        pull: coefficients of p, of 1, 1/z, 1/z², ...
        coupling: of c.
        feedback: of f, of which the first is 1.

    Returns:
        z, shape (s, k), complex.

    Example:
        >>> block = Block(torch.tensor([2.0]).double(), curvature=0.0, lr=0.25, play="alternating", momentum=0.0)
        >>> recurrence_roots(block, [0.0], [1.0]).abs().round(decimals=6)
        tensor([[1., 1.]], dtype=torch.float64)
    """
    momentum = [1.0, -block.momentum] if block.momentum else [1.0]
    left = _product(_product([1.0, -1.0], momentum), feedback)
    own = _sum(left, _scaled(pull, block.lr))
    shape = block.sigma.shape
    if block.play == "simultaneous":
        roots = _roots(_sum(own, _scaled(coupling, block.lr * block.coupling)), shape)
        return torch.cat([roots, roots.conj()], dim=-1)
    turned: list[Coefficient] = [0.0] * max(2 * len(own) - 1, 2 * len(coupling))  # in 1/u, where 1/z = −1/u²
    for k, coefficient in enumerate(own):
        turned[2 * k] = (-1) ** k * coefficient
    for k, coefficient in enumerate(coupling):
        turned[2 * k + 1] = -((-1) ** k) * block.lr * block.sigma * coefficient
    return -(_roots(turned, shape) ** 2)


def _roots(coefficients: Sequence[Coefficient], shape: torch.Size) -> Tensor:  # (s, n)
    """Roots of monic polynomials, highest power first, as eigenvalues of companion matrices."""
    last = max(k for k, c in enumerate(coefficients) if isinstance(c, Tensor) or c != 0)
    tail = [
        c if isinstance(c, Tensor) else torch.full(shape, c, dtype=torch.float64) for c in coefficients[1 : last + 1]
    ]
    dtype = torch.complex128 if any(c.is_complex() for c in tail) else torch.float64
    companion = torch.zeros(*shape, last, last, dtype=dtype)
    companion[..., 0, :] = -torch.stack([c.to(dtype) for c in tail], dim=-1)
    companion[..., 1:, :-1] = torch.eye(last - 1, dtype=dtype)
    values: Tensor = torch.linalg.eigvals(companion)
    return values


def _product(a: Sequence[Coefficient], b: Sequence[Coefficient]) -> list[Coefficient]:
    result: list[Coefficient] = [0.0] * (len(a) + len(b) - 1)
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            result[i + j] = result[i + j] + left * right
    return result


def _sum(a: Sequence[Coefficient], b: Sequence[Coefficient]) -> list[Coefficient]:
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    return [c + shorter[k] if k < len(shorter) else c for k, c in enumerate(longer)]


def _scaled(a: Sequence[Coefficient], factor: Coefficient) -> list[Coefficient]:
    """The polynomial times factor/z."""
    return [0.0, *(factor * c for c in a)]
