"""The spectra of affine rules on the quadratic game, written down by hand, one block per singular value of A.

    v = (hx + Ay, hy − Aᵀx): in the coordinates of one σ, w = x + iy, it is v = λw with λ = h + C, C = −iσ

Most rules are recurrences of pull p, coupling c and feedback f, polynomials in the shift 1/z back by one game step; how
their eigenvalues follow stands in `analysis.recurrences`.

    rule                      p                         c              f          reference
    GradientPlay              h                         1              1          Gidel et al. 2019
    PolyakMomentum            h                         1              1 − β/z    Gidel et al. 2019
    OptimisticGradient        h(1 + a − a/z)            1 + a − a/z    1          Daskalakis et al. 2018
    LEAD                      h                         1 + a − a/z    1          Askari Hemmat et al. 2023
    NuPI                      h(1 + k − (ν + k)/z)      p/h            1 − ν/z    Sohrabi et al. 2024, k = κ(1 − ν)
    ConsensusOptimization     h + γ(h² + σ²)            1              1          Mescheder et al. 2017
    SymplecticAdjustment      h + λσ²                   1 − λh         1          Letcher et al. 2019

Rules without memory are a number z per σ: a polynomial or a fraction of ηλ; their equations stand at their functions.
Where the players differ in what they do, as in Alex-GDA, a small matrix per σ takes the place of the polynomial.
Lookahead takes its inner rule's z to (1 − α) + αzᵏ, over k game steps. `analysis.operator` finds the same by probing.
"""

from __future__ import annotations

import math
from functools import singledispatch

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Play
from lightning_lead.analysis.recurrences import Block, recurrence_roots
from lightning_lead.calculus.lookahead import momentum_lag
from lightning_lead.games.bilinear import BilinearGame
from lightning_lead.games.quadratic import QuadraticGame
from lightning_lead.rules import (
    CGD,
    LEAD,
    ODEGAN,
    AbstractGameRule,
    AlexGDA,
    ConsensusOptimization,
    ExtraAdam,
    Extragradient,
    GradientPlay,
    LevelK,
    LookaheadMinmax,
    NuPI,
    OptimisticAdam,
    OptimisticGradient,
    PastExtragradient,
    PolyakMomentum,
    Prediction,
    SymplecticGradientAdjustment,
)
from lightning_lead.rules._coupling import coupling_by_momentum

__all__ = ["block_eigenvalues", "closed_form_radius", "eigenvalues"]

_STABILITY = {"euler": (1.0, 1.0), "heun": (1.0, 1.0, 1 / 2), "rk4": (1.0, 1.0, 1 / 2, 1 / 6, 1 / 24)}


def eigenvalues(
    rule: AbstractGameRule,
    *,
    sigma: Tensor | float,
    curvature: float = 0.0,
    lr: float,
    play: Play | None = None,
    momentum: float = 0.0,
) -> Tensor:
    """The eigenvalues of `rule.period` game steps that belong to singular values of A, in closed form.

    Those of the rule's bookkeeping, which are zero, are left out.

    Args:
        rule: an affine one with a closed form.
        sigma: σ ≥ 0, one or many, shape (s,).
        curvature: h ≥ 0 of the game.
        lr: step size η, > 0.
        play: order of play; default the rule's own.
        momentum: m of SGD, in (−1, 1); for rules that leave the step to the optimizer.

    Returns:
        Complex, shape (k,) for one singular value, (s, k) for many.

    Raises:
        ConfigurationError: no closed form is known, or a setting is out of its range.

    Example:
        >>> from lightning_lead.rules import GradientPlay
        >>> eigenvalues(GradientPlay(), sigma=2.0, lr=0.25, play="simultaneous").tolist()
        [(1+0.5j), (1-0.5j)]
    """
    if not (math.isfinite(lr) and lr > 0):
        raise ConfigurationError(f"Cannot step by lr={lr!r}; pass a finite step size > 0")
    if not -1 < momentum < 1:
        raise ConfigurationError(
            f"Cannot use momentum because it must decay; pass a number in (-1, 1) (got {momentum!r})"
        )
    if play is not None and play not in rule.plays:
        raise ConfigurationError(f"Cannot play {rule.name} in {play!r} play; use {' or '.join(rule.plays)}")
    values = torch.as_tensor(sigma, dtype=torch.float64)
    block = Block(values.reshape(-1), float(curvature), float(lr), play or rule.plays[0], float(momentum))
    found: Tensor = block_eigenvalues(rule, block)
    return found[0] if values.dim() == 0 else found


def closed_form_radius(
    rule: AbstractGameRule,
    game: BilinearGame | QuadraticGame,
    *,
    lr: float,
    play: Play | None = None,
    momentum: float = 0.0,
) -> float:
    """The factor by which the distance shrinks per game step, in closed form; `spectral_radius` probes for it.

    Args:
        rule: an affine one with a closed form.
        game: bilinear or quadratic.
        lr: step size η, > 0.
        play: order of play; default the rule's own.
        momentum: of SGD, in (−1, 1).

    Raises:
        ConfigurationError: no closed form is known, or a setting is out of its range.

    Example:
        >>> from lightning_lead.rules import LEAD
        >>> game = BilinearGame.from_singular_values([0.5, 1.0], seed=0)
        >>> round(closed_form_radius(LEAD(1.2), game, lr=0.6, play="alternating", momentum=0.3), 4)
        0.8386
    """
    sigma = torch.linalg.svdvals(game.coupling.double())
    if game.dimensions[0] != game.dimensions[1]:  # the longer player has directions that nothing couples
        sigma = torch.cat([sigma, sigma.new_zeros(1)])
    curvature = game.curvature if isinstance(game, QuadraticGame) else 0.0
    found = eigenvalues(rule, sigma=sigma, curvature=curvature, lr=lr, play=play, momentum=momentum)
    return float(found.abs().max().item() ** (1 / rule.period))


@singledispatch
def block_eigenvalues(rule: AbstractGameRule, block: Block) -> Tensor:
    """The closed form itself, by the rule's class: give a rule of your own one with `block_eigenvalues.register`.

    Args:
        rule: whose.
        block: singular values, curvature, step size, play, momentum; checked already.

    Returns:
        Eigenvalues of `rule.period` game steps, complex, shape (s, k).

    Raises:
        ConfigurationError: nobody has registered one.

    Example:
        >>> class Halved(GradientPlay.__base__):
        ...     def init(self, point):
        ...         return {}
        ...     def direction(self, oracle, players, state):
        ...         return {p: tuple(g / 2 for g in oracle.gradient(p)) for p in players}, state
        >>> from lightning_lead.analysis import Block, recurrence_roots
        >>> @block_eigenvalues.register
        ... def _(rule: Halved, block: Block):
        ...     return recurrence_roots(block, [block.curvature / 2], [1 / 2])
        >>> eigenvalues(Halved(), sigma=1.0, lr=0.5, play="simultaneous").tolist()
        [(1+0.25j), (1-0.25j)]
    """
    raise ConfigurationError(
        f"Cannot give the spectrum of {rule.name} in closed form because none is registered for it; use "
        f"spectral_radius(), or block_eigenvalues.register (got a {type(rule).__name__})"
    )


@block_eigenvalues.register
def _gradient_play(rule: GradientPlay, block: Block) -> Tensor:
    return recurrence_roots(block, [block.curvature], [1.0])


@block_eigenvalues.register
def _polyak(rule: PolyakMomentum, block: Block) -> Tensor:
    return recurrence_roots(block, [block.curvature], [1.0], [1.0, -rule.beta])


@block_eigenvalues.register
def _optimistic(rule: OptimisticGradient, block: Block) -> Tensor:
    a, h = rule.optimism, block.curvature
    return recurrence_roots(block, [h * (1 + a), -h * a], [1 + a, -a])


@block_eigenvalues.register
def _optimistic_adam(rule: OptimisticAdam, block: Block) -> Tensor:
    # SGD's step is linear in the gradient, so optimism about the step is optimism about the gradient
    return _optimistic(OptimisticGradient(1.0), block)


@block_eigenvalues.register
def _nu_pi(rule: NuPI, block: Block) -> Tensor:
    # the controller's transfer function, 1 + k(1 − 1/z)/(1 − ν/z), with the denominator as feedback
    k = rule.kappa * (1 - rule.nu)
    controller = [1 + k, -rule.nu - k]
    return recurrence_roots(block, [block.curvature * c for c in controller], controller, [1.0, -rule.nu])


@block_eigenvalues.register
def _past_extragradient(rule: PastExtragradient, block: Block) -> Tensor:
    # θ̃ moves as the optimistic gradient does, and θ is a function of it; Gidel et al. 2019
    _require(block.momentum == 0, rule, "it looks ahead by plain steps", "momentum=0")
    return _optimistic(OptimisticGradient(1.0), block)


@block_eigenvalues.register
def _alex_gda(rule: AlexGDA, block: Block) -> Tensor:
    return _alternating_extrapolation(block, rule.delta - 1, rule.gamma - 1)


@block_eigenvalues.register
def _prediction(rule: Prediction, block: Block) -> Tensor:
    return _alternating_extrapolation(block, float(rule.predicted != "first"), float(rule.predicted != "second"))


def _alternating_extrapolation(block: Block, first: float, second: float) -> Tensor:
    # x⁺ = x + m(x − x⁻) − η(hx + σ(y + a(y − y⁻))), y⁺ = y + m(y − y⁻) − η(hy − σ(x⁺ + b(x⁺ − x))), a first, b second:
    # as a matrix on (x, x⁻, y, y⁻). As a polynomial it would have double roots at σ = 0, known to half of the digits.
    one, zero, step = torch.ones_like(block.sigma), torch.zeros_like(block.sigma), block.lr * block.sigma
    own, m = (1 + block.momentum - block.lr * block.curvature) * one, block.momentum * one
    x = torch.stack([own, -m, -step * (1 + first), step * first], dim=-1)
    y = torch.stack([-step * second, zero, own, -m], dim=-1) + (step * (1 + second))[:, None] * x
    rows = [x, torch.stack([one, zero, zero, zero], dim=-1), y, torch.stack([zero, zero, one, zero], dim=-1)]
    kept = [0, *([1] if block.momentum else []), 2, *([3] if block.momentum or first else [])]
    values: Tensor = torch.linalg.eigvals(torch.stack(rows, dim=-2)[:, kept][:, :, kept])
    return values


@block_eigenvalues.register
def _lead(rule: LEAD, block: Block) -> Tensor:
    # every form: Hessians are constant and L_y = −L_x
    _require(not isinstance(rule.coupling, dict), rule, "its players have couplings of their own", "one coupling")
    a = math.nan if isinstance(rule.coupling, dict) else rule.coupling
    if a == "auto":
        _require(block.momentum >= 0, rule, "its law is one of momentum in [0, 1)", "a number for its coupling")
        lag = momentum_lag({"momentum": block.momentum})
        a = coupling_by_momentum(lag or 0.0, simultaneous=block.play == "simultaneous")
    return recurrence_roots(block, [block.curvature], [1 + a, -a])


@block_eigenvalues.register
def _consensus(rule: ConsensusOptimization, block: Block) -> Tensor:
    # JᵀJ = (h² + σ²) I: the penalty is curvature, for each player by itself
    return recurrence_roots(block, [block.curvature + rule.weight * (block.curvature**2 + block.sigma**2)], [1.0])


@block_eigenvalues.register
def _symplectic(rule: SymplecticGradientAdjustment, block: Block) -> Tensor:
    # Aᵀv = −C(h + C)w = (σ² − hC)w
    _require(not rule.align, rule, "alignment switches its sign", "align=False")
    h, weight = block.curvature, rule.weight
    return recurrence_roots(block, [h + weight * block.sigma**2], [1 - weight * h])


@block_eigenvalues.register
def _extragradient(rule: Extragradient, block: Block) -> Tensor:
    # z = 1 − ηλ(1 − γηλ); Azizian et al. 2020
    return _extrapolated(rule, block, rule.stretch)


@block_eigenvalues.register
def _extra_adam(rule: ExtraAdam, block: Block) -> Tensor:
    return _extrapolated(rule, block, 1.0)


def _extrapolated(rule: AbstractGameRule, block: Block, stretch: float) -> Tensor:
    step = block.lr * block.jacobian
    return _paired(rule, block, 1 - step * (1 - stretch * step))


@block_eigenvalues.register
def _level_k(rule: LevelK, block: Block) -> Tensor:
    # z⁽⁰⁾ = 1, z⁽ᵏ⁾ = 1 − ηh − ηCz⁽ᵏ⁻¹⁾, so z = (1 − ηh)(1 − qᵏ)/(1 − q) + qᵏ with q = −ηC; Liu and Pavel 2022
    q = -block.lr * block.coupling
    z: Tensor = (1 - block.lr * block.curvature) * (1 - q**rule.level) / (1 - q) + q**rule.level
    return _paired(rule, block, z)


@block_eigenvalues.register
def _cgd(rule: CGD, block: Block) -> Tensor:
    # (1 + ηC) Δ = −ηλw, so z = (1 − ηh) / (1 + ηC); Schäfer and Anandkumar 2019
    return _paired(rule, block, (1 - block.lr * block.curvature) / (1 + block.lr * block.coupling))


@block_eigenvalues.register
def _ode_gan(rule: ODEGAN, block: Block) -> Tensor:
    # The scheme's stability polynomial R(−ηλ) = p + iq is the block [[p, −q], [q, p]]. The penalty pulls the first
    # player by 2λ(∂²L_y/∂x∂y)g_y = 2λ(σ²x − hσy), so with k = 2ηλ the block is [[p − kσ², −q + khσ], [q, p]].
    _require(block.momentum == 0, rule, "it takes plain steps", "momentum=0")
    step = -block.lr * block.jacobian
    value = sum((c * step**k for k, c in enumerate(_STABILITY[rule.scheme])), torch.zeros_like(step))
    p, q, k = value.real, value.imag, 2 * block.lr * rule.regularization
    trace = 2 * p - k * block.sigma**2
    determinant = p * (p - k * block.sigma**2) + q * (q - k * block.curvature * block.sigma)
    half = torch.sqrt(torch.complex(trace**2 / 4 - determinant, torch.zeros_like(p)))
    return torch.stack([trace / 2 + half, trace / 2 - half], dim=-1)


@block_eigenvalues.register
def _lookahead(rule: LookaheadMinmax, block: Block) -> Tensor:
    # slow weights are the same linear combination of where the inner rule was and is; Chavdarova et al. 2021
    remembers = (PolyakMomentum, OptimisticGradient, OptimisticAdam, NuPI, PastExtragradient, LookaheadMinmax)
    plain = block.momentum == 0 and rule.inner.period == 1 and not isinstance(rule.inner, remembers)
    plain = plain and not (isinstance(rule.inner, (LEAD, AlexGDA, Prediction)) and rule.inner.needs.uses_opponent)
    _require(plain, rule, "the inner steps have a memory, which does not go back", "an inner rule without one")
    inner: Tensor = block_eigenvalues(rule.inner, block)
    return (1 - rule.alpha) + rule.alpha * inner**rule.steps


def _paired(rule: AbstractGameRule, block: Block, z: Tensor) -> Tensor:
    """z of a rule without memory, and its conjugate."""
    _require(block.momentum == 0, rule, "it looks ahead by plain steps", "momentum=0")
    return torch.stack([z, z.conj()], dim=-1)


def _require(fine: bool, rule: AbstractGameRule, reason: str, instead: str) -> None:
    if not fine:
        raise ConfigurationError(
            f"Cannot give the spectrum of {rule.name} in closed form because {reason}; use {instead}, or "
            "spectral_radius()"
        )
