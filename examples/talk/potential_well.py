"""A ball in a potential well with friction, and Polyak's heavy ball: the same motion, step by step.

    python examples/talk/potential_well.py [--output runs/talk] [--fast]

Left: the path of s̈ = −∇U − μṡ, and torch's SGD with momentum at the step size and momentum of two time steps: η = δ²,
β = 1 − μδ. Middle: the largest distance between the two, against δ. Right: the energy ½|ṡ|² + U, of which friction
takes what `work` says. Ten seconds on one core.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from drawing import parser_of, save
from torch import Tensor

from lightning_lead.analysis import (
    ConservativeForce,
    Friction,
    LeadUnits,
    Trajectory,
    discretise,
    integrate,
    kinetic_energy,
    work,
)

FRICTION, DURATION, START = 0.3, 12.8, [-2.4, 1.2]
DRAWN = {0.2: "#1f78b4", 0.05: "#e6ab02"}  # δ -> colour
PATH = "#222222"


def potential(s: Tensor) -> Tensor:
    """A curved valley with its lowest point, U = 0, at the origin."""
    return s[0] ** 2 / 2 + (s[1] - 0.4 * s[0] ** 2) ** 2


WELL, FORCE_OF_FRICTION = ConservativeForce(potential), Friction(coefficient=FRICTION)


def heavy_ball(time_step: float) -> Trajectory:
    """The steps of torch's SGD with momentum; velocities are backward differences."""
    units = LeadUnits.from_physics(charge=0.0, friction=FRICTION, time_step=time_step)
    s = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([s], lr=units.eta, momentum=units.beta)
    path = [s.detach().clone()]
    for _ in range(round(DURATION / time_step)):
        sgd.zero_grad()
        potential(s).backward()
        sgd.step()
        path.append(s.detach().clone())
    positions = torch.stack(path)
    velocities = torch.cat([torch.zeros(1, 2), positions.diff(dim=0) / time_step])
    return Trajectory(time_step * torch.arange(len(path)), positions, velocities)


def energy(path: Trajectory) -> Tensor:
    """½|ṡ|² + U along a path."""
    return kinetic_energy(path.velocities) + WELL.energy(path.positions)


def draw_paths(axes: plt.Axes, exact: Trajectory, balls: dict[float, Trajectory]) -> None:
    """The well from above."""
    x, y = torch.meshgrid(torch.linspace(-3, 2, 200), torch.linspace(-1.4, 2.6, 200), indexing="xy")
    levels = [0.05 * 2**k for k in range(10)]
    axes.contour(x, y, potential(torch.stack([x, y])), levels=levels, colors="#b8c4d0", linewidths=0.8)
    axes.plot(*exact.positions.T, color=PATH, lw=1.4, zorder=3, label="ball with friction")
    for time_step, ball in balls.items():
        style = {"lw": 0.8, "ms": 6} if time_step == max(balls) else {"lw": 0, "ms": 3.5}
        label = f"heavy ball, δ = {time_step:g}: η = {time_step**2:g}, β = {1 - FRICTION * time_step:g}"
        axes.plot(*ball.positions.T, "o-", color=DRAWN[time_step], label=label, **style)
    axes.plot(0, 0, "k*", ms=11)
    axes.set(xlabel="first parameter", ylabel="second parameter", title="Momentum is a ball that rolls in a well")
    axes.set_aspect("equal")
    axes.legend(loc="upper right", fontsize="small", framealpha=1)


def main() -> None:
    """Roll, step, and draw."""
    options = parser_of(__doc__).parse_args()
    steps = [0.2, 0.1, 0.05] if options.fast else [0.2, 0.1, 0.05, 0.025, 0.0125, 0.00625]
    finest = round(DURATION / min(steps))
    exact = integrate([WELL, FORCE_OF_FRICTION], START, duration=DURATION, samples=finest + 1, tolerance=1e-9)
    balls = {d: heavy_ball(d) for d in steps}
    errors = [(b.positions - exact.positions[:: round(d / min(steps))]).norm(dim=1).max() for d, b in balls.items()]
    log = torch.tensor([steps, errors], dtype=torch.float64).log2()
    order = float(log[1].diff()[-1] / log[0].diff()[-1])
    by_forces = discretise([WELL, FORCE_OF_FRICTION], START, time_step=0.1, steps=round(DURATION / 0.1), start="rest")
    print(f"SGD against the discretised forces: {(by_forces.positions - balls[0.1].positions).abs().max():.0e}")
    lost, taken = energy(exact) - energy(exact)[0], work(FORCE_OF_FRICTION, exact)
    print(f"energy lost {lost[-1]:.4f}, work of friction {taken[-1]:.4f}, apart by {(lost - taken).abs().max():.0e}")
    print(f"largest rise of the energy between samples: {energy(exact).diff().max():.0e}")
    print("error", ", ".join(f"δ = {d:g}: {e:.4f}" for d, e in zip(steps, errors, strict=True)), f"order {order:.2f}")

    figure, (paths, accuracy, energies) = plt.subplots(
        1, 3, figsize=(15, 5), layout="constrained", gridspec_kw={"width_ratios": [1.15, 1, 1]}
    )
    draw_paths(paths, exact, {d: balls[d] for d in DRAWN})
    accuracy.loglog(steps, errors, "-", color="#999999", lw=1.2, zorder=1)
    for d, e in zip(steps, errors, strict=True):
        accuracy.loglog(d, e, "o", ms=9 if d in DRAWN else 6, color=DRAWN.get(d, "#999999"))
    accuracy.loglog(steps, [0.6 * errors[-1] * d / steps[-1] for d in steps], ":", color="black", label="slope 1")
    accuracy.set(
        xlabel="time step δ: η = δ², β = 1 − μδ",
        ylabel="largest distance from the ball's path",
        title=f"Half the time step, half the error (order {order:.2f})",
    )
    accuracy.set_xticks(steps, [f"{d:g}" for d in steps])
    accuracy.minorticks_off()
    accuracy.grid(alpha=0.3)
    accuracy.legend(loc="lower right")
    energies.semilogy(exact.times, energy(exact), color=PATH, lw=1.6, zorder=3)
    for d, colour in DRAWN.items():
        energies.plot(balls[d].times, energy(balls[d]), "o", ms=6 if d == max(DRAWN) else 3.5, color=colour)
    energies.set(xlabel="time kδ", ylabel="energy ½|ṡ|² + U", title=f"Friction, μ = {FRICTION:g}, takes the energy out")
    energies.grid(alpha=0.3)
    save(figure, options.output, "potential_well")


if __name__ == "__main__":
    main()
