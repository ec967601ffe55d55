"""Every rule once more, as its equations read: dense derivatives, explicit steps by SGD, no part of the calculus.

A twin is a function (rule, game, x, y, lr, steps) -> the points (x, y) after each game step, in the default play.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from dense_game import Dense
from torch import Tensor

__all__ = ["TWINS"]

Points = list[tuple[Tensor, Tensor]]


def fields(game: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    dense = Dense(game, x, y)
    return dense.gradient("x"), dense.gradient("y")


def gradient_play(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, steps: int) -> Points:
    path = []
    for _ in range(steps):
        x, y = one_plain_step(rule, game, x, y, lr, {})
        path.append((x, y))
    return path


def one_plain_step(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, memory: dict[str, Tensor]) -> Any:
    x = x - lr * fields(game, x, y)[0]
    return x, y - lr * fields(game, x, y)[1]


def polyak(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, steps: int) -> Points:
    path, x_before, y_before = [], x, y
    for _ in range(steps):
        x, x_before = x + rule.beta * (x - x_before) - lr * fields(game, x, y)[0], x
        y, y_before = y + rule.beta * (y - y_before) - lr * fields(game, x, y)[1], y
        path.append((x, y))
    return path


def optimistic(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, steps: int) -> Points:
    path, (px, py) = [], fields(game, x, y)
    for _ in range(steps):
        gx, gy = fields(game, x, y)
        a = rule.optimism
        x, y = x - lr * ((1 + a) * gx - a * px), y - lr * ((1 + a) * gy - a * py)
        px, py = gx, gy
        path.append((x, y))
    return path


def optimistic_step(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, steps: int) -> Points:
    path, last = [], {}
    for _ in range(steps):
        x, y = one_optimistic_step(rule, game, x, y, lr, last)
        path.append((x, y))
    return path


def one_optimistic_step(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, last: dict[str, Tensor]) -> Any:
    z = {"x": x, "y": y}
    for i in ("x", "y"):
        g = Dense(game, z["x"], z["y"]).gradient(i)
        z[i] = z[i] - lr * (2 * g - last.get(i, g))
        last[i] = g
    return z["x"], z["y"]


def extragradient(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, steps: int) -> Points:
    path, ahead = [], lr * getattr(rule, "stretch", 1.0)
    for _ in range(steps):
        gx, gy = fields(game, x, y)
        gx, gy = fields(game, x - ahead * gx, y - ahead * gy)
        x, y = x - lr * gx, y - lr * gy
        path.append((x, y))
    return path


def level_k(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, steps: int) -> Points:
    path = []
    for _ in range(steps):
        expected_x, expected_y = x, y
        for _ in range(rule.level):
            expected_x, expected_y = (
                x - lr * fields(game, x, expected_y)[0],
                y - lr * fields(game, expected_x, y)[1],
            )
        x, y = expected_x, expected_y
        path.append((x, y))
    return path


def ode_gan(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, steps: int) -> Points:
    path = []
    for _ in range(steps):
        dense = Dense(game, x, y)
        k1 = fields(game, x, y)
        if rule.scheme == "euler":
            d = k1
        elif rule.scheme == "heun":
            k2 = fields(game, x - lr * k1[0], y - lr * k1[1])
            d = tuple((a + b) / 2 for a, b in zip(k1, k2, strict=True))
        else:
            k2 = fields(game, x - lr / 2 * k1[0], y - lr / 2 * k1[1])
            k3 = fields(game, x - lr / 2 * k2[0], y - lr / 2 * k2[1])
            k4 = fields(game, x - lr * k3[0], y - lr * k3[1])
            d = tuple((a + 2 * b + 2 * c + e) / 6 for a, b, c, e in zip(k1, k2, k3, k4, strict=True))
        penalty = 2 * dense.block("y", "x", "y") @ dense.gradient("y")  # ∇ₓ ‖∇ᵧLᵧ‖²
        x, y = x - lr * d[0] - lr * rule.regularization * penalty, y - lr * d[1]
        path.append((x, y))
    return path


def consensus(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, steps: int) -> Points:
    path = []
    for _ in range(steps):
        dense, jacobian = Dense(game, x, y), game.jacobian({"x": (x,), "y": (y,)})
        v = torch.cat([dense.gradient("x"), dense.gradient("y")])
        d = v + rule.weight * jacobian.T @ v
        x, y = x - lr * d[: len(x)], y - lr * d[len(x) :]
        path.append((x, y))
    return path


def symplectic(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, steps: int) -> Points:
    path = []
    for _ in range(steps):
        dense, jacobian = Dense(game, x, y), game.jacobian({"x": (x,), "y": (y,)})
        v = torch.cat([dense.gradient("x"), dense.gradient("y")])
        adjustment = ((jacobian - jacobian.T) / 2).T @ v
        hamiltonian = jacobian.T @ v
        sign = 1.0
        if rule.align:
            sign = torch.sign((v @ hamiltonian) * (adjustment @ hamiltonian) / len(v) + 0.1)
        d = v + sign * rule.weight * adjustment
        x, y = x - lr * d[: len(x)], y - lr * d[len(x) :]
        path.append((x, y))
    return path


def competitive(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, steps: int) -> Points:
    path = []
    for _ in range(steps):
        dense = Dense(game, x, y)
        x, y = local_nash(dense, x, y, lr * torch.ones_like(x), lr * torch.ones_like(y))
        path.append((x, y))
    return path


def adaptive_competitive(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, steps: int) -> Points:
    path, vx, vy = [], torch.zeros_like(x), torch.zeros_like(y)
    for t in range(1, steps + 1):
        dense = Dense(game, x, y)
        vx = rule.beta * vx + (1 - rule.beta) * dense.gradient("x") ** 2
        vy = rule.beta * vy + (1 - rule.beta) * dense.gradient("y") ** 2
        correction = (1 - rule.beta**t) ** 0.5
        rates = [lr * correction / (v.sqrt() + rule.eps) for v in (vx, vy)]
        x, y = local_nash(dense, x, y, *rates)
        path.append((x, y))
    return path


def local_nash(dense: Dense, x: Tensor, y: Tensor, rate_x: Tensor, rate_y: Tensor) -> tuple[Tensor, Tensor]:
    """Both optimality conditions of the local game, as one linear system: Δx = −ηₓ(gₓ + FΔy), Δy = −ηᵧ(gᵧ + GΔx)."""
    f, g = dense.block("x", "x", "y"), dense.block("y", "y", "x")
    matrix = torch.cat(
        [
            torch.cat([torch.eye(len(x), dtype=x.dtype), rate_x[:, None] * f], dim=1),
            torch.cat([rate_y[:, None] * g, torch.eye(len(y), dtype=x.dtype)], dim=1),
        ]
    )
    move = torch.linalg.solve(matrix, -torch.cat([rate_x * dense.gradient("x"), rate_y * dense.gradient("y")]))
    return x + move[: len(x)], y + move[len(x) :]


def lookahead(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, steps: int) -> Points:
    """The way back is the players' alone: what the inner rule remembers stays as it is."""
    path, slow_x, slow_y = [], x, y
    inner, memory = type(rule.inner).__name__, {"x": x, "y": y} if type(rule.inner).__name__ == "LEAD" else {}
    step = {"GradientPlay": one_plain_step, "LEAD": one_lead_step, "OptimisticAdam": one_optimistic_step}[inner]
    for t in range(1, steps + 1):
        x, y = step(rule.inner, game, x, y, lr, memory)
        if t % rule.steps == 0:
            x, y = slow_x + rule.alpha * (x - slow_x), slow_y + rule.alpha * (y - slow_y)
            slow_x, slow_y = x, y
        path.append((x, y))
    return path


def negative_adam(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, steps: int) -> Points:
    path = []
    z = {"x": x, "y": y}
    m = {name: torch.zeros_like(p) for name, p in z.items()}
    v = {name: torch.zeros_like(p) for name, p in z.items()}
    for t in range(1, steps + 1):
        for name in ("x", "y"):
            g = Dense(game, z["x"], z["y"]).gradient(name)
            m[name] = rule.beta1 * m[name] + (1 - rule.beta1) * g
            v[name] = rule.beta2 * v[name] + (1 - rule.beta2) * g**2
            m_hat, v_hat = m[name] / (1 - rule.beta1**t), v[name] / (1 - rule.beta2**t)
            z[name] = z[name] - lr * m_hat / (v_hat.sqrt() + rule.eps)
        path.append((z["x"], z["y"]))
    return path


def lead(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, steps: int) -> Points:
    path, before = [], {"x": x, "y": y}
    for _ in range(steps):
        x, y = one_lead_step(rule, game, x, y, lr, before)
        path.append((x, y))
    return path


def one_lead_step(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, before: dict[str, Any]) -> Any:
    """Alternating; `before` is where a player was when the other last updated, so Δ counts from one's own update."""
    z = {"x": x, "y": y}
    a = 0.5 if rule.coupling == "auto" else rule.coupling  # the law, without momentum
    for i, j in (("x", "y"), ("y", "x")):
        dense, moved = Dense(game, z["x"], z["y"]), z[j] - before[j]
        there = {**z, j: z[j] + a * moved}
        ahead = Dense(game, there["x"], there["y"]).gradient(i) - dense.gradient(i)
        earlier = {**z, j: before[j]}
        term = {
            "exact": dense.block(i, i, j) @ moved if rule.form == "own" else -dense.block(j, i, j) @ moved,
            "difference": dense.gradient(i) - Dense(game, earlier["x"], earlier["y"]).gradient(i),
        }
        forms = {**{form: a * c for form, c in term.items()}, "extrapolated": ahead}
        form = rule.cross
        if form == "auto":
            turn = before[f"{i}'s turns"] = before.get(f"{i}'s turns", -1 - (i == "x")) + 1
            if turn >= 0 and turn % rule.check_every == 0:
                c = forms[rule.fallback]
                agreed = max(-1.0, float(1 - (ahead - c).norm() / c.norm()))
                agreed = before[f"{i}'s agreement"] = (before.get(f"{i}'s agreement", agreed) + agreed) / 2
                before[f"{i}'s form"] = "extrapolated" if agreed >= rule.least_agreement else rule.fallback
            form = before.get(f"{i}'s form", "extrapolated")
        before[j] = z[j]
        z[i] = z[i] - lr * (dense.gradient(i) + forms[form])
    return z["x"], z["y"]


def prediction(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, steps: int) -> Points:
    """The first player meets the second one's prediction, the second the first one's, or both."""
    path, x_before, y_before = [], x, y
    for _ in range(steps):
        ahead_y = 2 * y - y_before if rule.predicted in ("second", "both") else y
        x_before, x = x, x - lr * fields(game, x, ahead_y)[0]
        ahead_x = 2 * x - x_before if rule.predicted in ("first", "both") else x
        y_before, y = y, y - lr * fields(game, ahead_x, y)[1]
        path.append((x, y))
    return path


def alex_gda(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, steps: int) -> Points:
    path, y_tilde = [], y
    for _ in range(steps):
        gx = fields(game, x, y_tilde)[0]
        x, x_tilde = x - lr * gx, x - rule.gamma * lr * gx
        gy = fields(game, x_tilde, y)[1]
        y, y_tilde = y - lr * gy, y - rule.delta * lr * gy
        path.append((x, y))
    return path


def past_extragradient(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, steps: int) -> Points:
    path, (px, py) = [], (torch.zeros_like(x), torch.zeros_like(y))
    for _ in range(steps):
        px, py = fields(game, x - lr * px, y - lr * py)
        x, y = x - lr * px, y - lr * py
        path.append((x, y))
    return path


def nu_pi(rule: Any, game: Any, x: Tensor, y: Tensor, lr: float, steps: int) -> Points:
    """By the average ξ, in alternating play."""
    path, z, xi = [], {"x": x, "y": y}, {}
    for _ in range(steps):
        for i in ("x", "y"):
            g = Dense(game, z["x"], z["y"]).gradient(i)
            before = xi.get(i, g)
            xi[i] = rule.nu * before + (1 - rule.nu) * g
            z[i] = z[i] - lr * (g + rule.kappa * (xi[i] - before))
        path.append((z["x"], z["y"]))
    return path


TWINS: dict[str, Callable[..., Points]] = {
    "ACGD": adaptive_competitive,
    "AlexGDA": alex_gda,
    "CGD": competitive,
    "ConsensusOptimization": consensus,
    "ExtraAdam": extragradient,
    "Extragradient": extragradient,
    "GradientPlay": gradient_play,
    "LEAD": lead,
    "LevelK": level_k,
    "LookaheadMinmax": lookahead,
    "NegativeAdam": negative_adam,
    "NuPI": nu_pi,
    "ODEGAN": ode_gan,
    "OptimisticAdam": optimistic_step,
    "OptimisticGradient": optimistic,
    "PastExtragradient": past_extragradient,
    "PolyakMomentum": polyak,
    "Prediction": prediction,
    "SymplecticGradientAdjustment": symplectic,
}
