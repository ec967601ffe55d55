"""The forces that LEAD is made of, put together one by one, on a particle in the bilinear game xy: a figure and a film.

    python examples/talk/forces.py [--output runs/talk] [--fast]

The vortex force is the game itself, (−∇ₓf, +∇ᵧf). The magnetic force, (−2qẏ, +2qẋ), turns the velocity and does no
work; friction, −μṡ, takes energy out. Only all three together hold the particle, and only if 2qμ > 1: see
`lightning_lead.physics.lyapunov`. Continuous paths from rest at (1, 0). Below, LEAD's own steps, η = δ², β = 1 − μδ,
α = 2qδ: the Lyapunov function of that module along them, and their error against the time step δ, which falls as δ, or
as δ² where no force depends on the velocity. A minute on one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from drawing import parser_of, save
from matplotlib.animation import FuncAnimation, PillowWriter

from lightning_lead.analysis import (
    AbstractForce,
    Accuracy,
    Friction,
    LeadLyapunov,
    LeadUnits,
    MagneticForce,
    Trajectory,
    VortexForce,
    integrate,
    kinetic_energy,
    lead_path,
    lead_system,
    order_of_accuracy,
    work,
)
from lightning_lead.games import BilinearGame

GAME, CHARGE, FRICTION = BilinearGame([[1.0]]), 0.5, 2.0
VORTEX, MAGNETIC = VortexForce(GAME), MagneticForce(GAME, charge=CHARGE)
DRAG = Friction(coefficient=FRICTION)
LEAD_NAME = "all three: LEAD"
SUMS: dict[str, tuple[list[AbstractForce], str, str]] = {
    "vortex": ([VORTEX], "#bbbbbb", "speeds up and leaves"),
    "vortex + friction": ([VORTEX, DRAG], "#777777", "slower, but leaves"),
    "vortex + magnetic": ([VORTEX, MAGNETIC], "#1f78b4", "turns more, but leaves"),
    LEAD_NAME: ([VORTEX, MAGNETIC, DRAG], "#d62728", "spirals in"),
}
SINGLE = {VORTEX: ("vortex", "#7570b3"), MAGNETIC: ("magnetic", "#1b9e77"), DRAG: ("friction", "#a6761d")}
DURATION, VIEW = 20.0, 2.2  # VIEW is half the width of what is seen
STEPPED = {0.2: "#1f78b4", 0.05: "#e6ab02"}  # δ -> colour
TIME_STEPS, MOMENT = (0.2, 0.1, 0.05, 0.025, 0.0125, 0.00625), 4.0  # of the errors


def growth(forces: list[AbstractForce]) -> float:
    """The rate at which a path grows in the long run, from the eigenvalues of the system; below 0 it shrinks."""
    system = lead_system(GAME, charge=CHARGE * (MAGNETIC in forces), friction=FRICTION * (DRAG in forces))
    return float(torch.linalg.eigvals(system).real.max())


def plane(axes: plt.Axes, title: str) -> None:
    """One view of the plane, with start and equilibrium."""
    axes.plot(0, 0, "k*", ms=9)
    axes.plot(1, 0, "o", mfc="white", mec="black", ms=5, zorder=4)
    axes.set(xlim=(-VIEW, VIEW), ylim=(-VIEW, VIEW), aspect="equal", title=title, xlabel="x")


def stepped(time_step: float) -> Trajectory:
    """LEAD's own steps, from rest as an optimizer begins."""
    settings = {"charge": CHARGE, "friction": FRICTION, "time_step": time_step}
    return lead_path(GAME, [1.0, 0.0], **settings, steps=round(DURATION / time_step))


def errors(time_steps: Sequence[float]) -> dict[str, Accuracy]:
    """Of LEAD's steps against the continuous path: as an optimizer begins, from the exact start, and of the vortex."""
    settings = {"duration": MOMENT, "time_steps": time_steps}
    lead = {"charge": CHARGE, "friction": FRICTION}
    return {
        "LEAD, begun as an optimizer begins": order_of_accuracy(GAME, [1.0, 0.0], **lead, **settings, start="rest"),
        "LEAD, begun on the path": order_of_accuracy(GAME, [1.0, 0.0], **lead, **settings),
        "the vortex alone": order_of_accuracy(GAME, [1.0, 0.0], charge=0.0, friction=0.0, **settings),
    }


def draw_steps(energies: plt.Axes, accuracy: plt.Axes, path: Trajectory, time_steps: Sequence[float]) -> None:
    """The Lyapunov function along LEAD's path and steps, and how far the steps are off."""
    lyapunov = LeadLyapunov(GAME, charge=CHARGE, friction=FRICTION)
    value = lyapunov(path.positions, path.velocities)
    energies.semilogy(path.times, value, color="#d62728", lw=2, label="E, continuous path")
    for time_step, colour in STEPPED.items():
        units = LeadUnits.from_physics(charge=CHARGE, friction=FRICTION, time_step=time_step)
        steps = stepped(time_step)
        along = lyapunov(steps.positions, steps.velocities)
        label = f"E, δ = {time_step:g}: η = {units.eta:g}, β = {units.beta:g}, α = {units.alpha:g}"
        energies.plot(steps.times, along, "o", ms=5 if time_step == max(STEPPED) else 2, color=colour, label=label)
        print(f"δ = {time_step:g}: E from {along[0]:.3f} to {along[-1]:.4f}, largest rise {along.diff().max():+.1e}")
    kinetic = kinetic_energy(path.velocities)
    energies.plot(path.times[1:], kinetic[1:], color="#777777", lw=1.4, ls="--", label="½|ṡ|², continuous path")
    print(f"E from {value[0]:.3f} to {value[-1]:.4f}, largest rise {value.diff().max():+.1e}, rate {lyapunov.rate:.4f}")
    energies.set(xlabel="time t = kδ", ylabel="energy", xlim=(0, DURATION), ylim=(1e-3, 30))
    energies.set_title("The Lyapunov function E = ½|ṡ + μs + 2qKs|² + ½|ṡ|² falls all the way")
    energies.legend(fontsize="small", loc="upper right")
    for (name, found), (colour, mark) in zip(
        errors(time_steps).items(), (("#d62728", "o"), ("#f4a582", "s"), ("#7570b3", "^")), strict=True
    ):
        print(f"{name}: order {found.order:.3f}, errors {', '.join(f'{e:.2e}' for e in found.errors)}")
        accuracy.loglog(
            found.time_steps, found.errors, f"{mark}-", color=colour, label=f"{name}: order {found.order:.2f}"
        )
    accuracy.set(xlabel="time step δ", ylabel=f"distance from the continuous path at t = {MOMENT:g}")
    accuracy.set_xticks(TIME_STEPS, [f"{d:g}" for d in TIME_STEPS])
    accuracy.minorticks_off()
    accuracy.set_title("LEAD is accurate to first order in δ, the vortex alone to second")
    accuracy.legend(fontsize="small", loc="lower right")


def draw(paths: dict[str, Trajectory], time_steps: Sequence[float]) -> plt.Figure:
    """A path per sum of forces; below, distances and works on LEAD's path; below them, LEAD's steps."""
    figure = plt.figure(figsize=(13, 11.6), layout="constrained")
    upper, lower, lowest = figure.subfigures(3, 1)
    energies, accuracy = lowest.subplots(1, 2)
    draw_steps(energies, accuracy, paths[LEAD_NAME], time_steps)
    distances, works = lower.subplots(1, 2)
    for (name, path), axes in zip(paths.items(), upper.subplots(1, 4, sharey=True), strict=True):
        forces, colour, finding = SUMS[name]
        rate = growth(forces)
        plane(axes, f"{name}\n{finding}")
        axes.plot(*path.positions.T, color=colour, lw=2)
        label = f"{name}: in the long run exp({rate:+.2f} t)".replace("-", "−")
        distances.semilogy(path.times, path.positions.norm(dim=1), color=colour, lw=2, label=label)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("y")
    held = f"q = {CHARGE:g}, μ = {FRICTION:g}, 2qμ = {2 * CHARGE * FRICTION:g} > 1"
    distances.set(
        xlabel="time t", ylabel="distance to the equilibrium", title=f"Only all three hold the particle ({held})"
    )
    distances.set(xlim=(0, DURATION), ylim=(1e-2, 1e7))
    distances.legend(fontsize="small", loc="upper left")
    lead = paths[LEAD_NAME]
    for force, (name, colour) in SINGLE.items():
        done = work(force, lead)
        print(f"work on LEAD's path by {name:9}{done[-1]:+.6f}, at most {done.abs().max():.1e} in size")
        works.plot(lead.times, done, color=colour, lw=2, label=name)
    works.set(xlabel="time t", ylabel="work ∫ F·ds since the start", xlim=(0, DURATION))
    works.set_title("LEAD's path: the vortex drives, friction brakes, the magnetic force does no work")
    works.legend(fontsize="small", loc="center right", bbox_to_anchor=(1, 0.65))
    for axes in (distances, works, energies, accuracy):
        axes.title.set_fontsize("medium")
        axes.grid(alpha=0.3)
    return figure


def film(paths: dict[str, Trajectory], file: Path, *, frames: int) -> None:
    """The four paths as they are drawn, with the forces on the particle as arrows."""
    figure, every = plt.subplots(1, 4, figsize=(8.8, 2.9), layout="constrained", sharey=True)
    views = []
    for axes, (name, path) in zip(every, paths.items(), strict=True):
        forces, colour, _ = SUMS[name]
        plane(axes, name)
        axes.title.set_fontsize("medium")
        zeros = [0.0] * len(forces)
        arrows = axes.quiver(
            zeros, zeros, zeros, zeros, color=[SINGLE[f][1] for f in forces], scale=1.5, scale_units="xy", zorder=5
        )
        views.append((path, forces, arrows, *axes.plot([], [], color=colour), *axes.plot([], [], "o", color=colour)))
    every[0].set_ylabel("y")
    marks = [plt.Line2D([], [], color=colour, lw=3, label=f"{name} force") for name, colour in SINGLE.values()]
    figure.legend(handles=marks, loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # once is enough

    def update(frame: int) -> None:
        for path, forces, arrows, trail, ball in views:
            now = round((len(path.times) - 1) * frame / (frames - 1))
            here, speed = path.positions[now], path.velocities[now]
            trail.set_data(*path.positions[: now + 1].T)
            ball.set_data(*here[:, None])
            arrows.set_offsets(here.expand(len(forces), 2))
            arrows.set_UVC(*torch.stack([force(here, speed) for force in forces]).T)

    FuncAnimation(figure, update, frames=frames).save(file, PillowWriter(fps=15), dpi=80)
    plt.close(figure)
    print(file, flush=True)


def main() -> None:
    """Follow the particle, and draw."""
    options = parser_of(__doc__).parse_args()
    start = GAME.point([1.0], [0.0])
    paths = {name: integrate(forces, start, duration=DURATION) for name, (forces, *_) in SUMS.items()}
    for name, path in paths.items():
        print(
            f"{name:18} grows at {growth(SUMS[name][0]):+.4f}, distance at the end {path.positions[-1].norm():.4g}, "
            f"speed {path.velocities[-1].norm():.4g}"
        )
    save(draw(paths, TIME_STEPS[:3] if options.fast else TIME_STEPS), options.output, "forces")
    film(paths, options.output / "forces.gif", frames=2 if options.fast else 80)


if __name__ == "__main__":
    main()
