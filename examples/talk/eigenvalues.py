"""Eigenvalues of ∇F, the Jacobian of the players' gradients: real where they share a loss, complex where they fight.

    python examples/talk/eigenvalues.py [--output runs/talk] [--fast]

Gradient descent with step η multiplies an eigendirection by 1 − ηλ. It shrinks where λ lies in the disk |1 − ηλ| < 1,
which touches the imaginary axis at 0 alone, however small the step. Left: six parameters, from a minimization to the
bilinear game. Right: a generator and a discriminator of a few tanh units, each pair where its own game has all but come
to rest: once both minimise the discriminator's loss, and once the generator's loss is minus that. A minute on one core.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from drawing import parser_of, save
from torch import Tensor
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector

from lightning_lead.analysis import dense_jacobian, simulate
from lightning_lead.calculus import GameOracle, Point, Vector
from lightning_lead.games import AbstractGame, BilinearGame
from lightning_lead.networks import MLPDiscriminator, MLPGenerator
from lightning_lead.objectives import Minimax
from lightning_lead.rules import LEAD

BOTH, FIGHT = "#1f78b4", "#e6550d"
DECAY = 0.02


class NetworkPair(AbstractGame):
    """A generator "x" and a discriminator "y" on one fixed batch, each with weight decay; float64.

    L_y = f, the discriminator's loss of the minimax objective, and L_x = f or −f. Not at rest at the origin.

    Args:
        zero_sum: whether the generator works against the discriminator or with it.
    """

    def __init__(self, *, zero_sum: bool) -> None:
        torch.manual_seed(4)
        sizes = {"width": 4, "depth": 1, "activation": "tanh"}
        self.networks = {"x": MLPGenerator(latent_dim=2, **sizes).double(), "y": MLPDiscriminator(**sizes).double()}
        self.sign = -1.0 if zero_sum else 1.0
        self.latents, noise = torch.randn(2, 64, 2, dtype=torch.float64)
        self.reals = torch.tensor([1.0, 0.5]) + noise / 2
        n, m = (sum(p.numel() for p in network.parameters()) for network in self.networks.values())
        super().__init__(dimensions=(n, m), dtype=torch.float64)

    def output(self, player: str, point: Point, inputs: Tensor) -> Tensor:
        """Of a network at the point's weights."""
        names, weights = zip(*self.networks[player].named_parameters(), strict=True)
        parts = point[player][0].split([w.numel() for w in weights])
        named = {name: part.view_as(w) for name, part, w in zip(names, parts, weights, strict=True)}
        return functional_call(self.networks[player], named, inputs)

    def losses(self, point: Point) -> dict[str, Tensor]:
        """±f and f, each with weight decay."""
        on_fakes = self.output("y", point, self.output("x", point, self.latents))
        loss = Minimax().discriminator_loss(self.output("y", point, self.reals), on_fakes)
        decay = {player: DECAY / 2 * point[player][0].square().sum() for player in self.players}
        return {"x": self.sign * loss + decay["x"], "y": loss + decay["y"]}

    def oracle(self, point: Point) -> GameOracle:
        """Derivatives there."""
        return GameOracle(point, [lambda p, wanted, *, replay: self.losses(p)])

    def field(self, point: Point) -> dict[str, Vector]:
        """By autograd."""
        return {player: self.oracle(point).gradient(player) for player in self.players}

    def jacobian(self, point: Point) -> Tensor:
        """By Hessian products, column by column."""
        return dense_jacobian(self.oracle(point))

    def at_rest(self, *, steps: int) -> dict[str, Vector]:
        """Where LEAD comes to, from the networks' own initial weights."""
        start = self.point(*(parameters_to_vector(net.parameters()).detach() for net in self.networks.values()))
        momentum = {"optimizer": lambda groups: torch.optim.SGD(groups, momentum=0.5)}
        path = simulate(LEAD(1.0), self, lr=0.3, steps=steps, start=start, play="alternating", **momentum)
        return self.point(*path.points[-1].split(self.dimensions))


def worst(values: Tensor, step: float) -> float:
    """The factor by which descent with this step shrinks the slowest direction, or lets the fastest grow."""
    return float((1 - step * values).abs().max())


def look(axes: plt.Axes, step: float, title: str, note: tuple[float, float]) -> None:
    """The complex plane and the disk of a step size."""
    axes.add_patch(plt.Circle((1 / step, 0), 1 / step, fc="#dff0d8", ec="#7fb069", zorder=0))
    axes.text(*note, f"|1 − ηλ| < 1\nat η = {step:g}", color="#4f7942", ha="center", va="center")
    axes.axhline(0, color="black", lw=0.5, zorder=1)
    axes.axvline(0, color="black", lw=0.5, zorder=1)
    axes.set(xlabel="Re λ", ylabel="Im λ", title=title, aspect="equal")


def draw_passage(axes: plt.Axes, figure: plt.Figure, *, points: int) -> None:
    """(1 − l)·H + l·K: from the Hessian of one loss to the bilinear game."""
    game = BilinearGame.from_singular_values([0.4, 0.8, 1.2], seed=0)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    hessian = turn @ torch.linspace(0.2, 1.8, 6, dtype=torch.float64).diag() @ turn.T
    coupling = game.jacobian(game.equilibrium())
    levels = torch.linspace(0, 1, points, dtype=torch.float64)
    values = [torch.linalg.eigvals((1 - level) * hessian + level * coupling) for level in levels]
    look(
        axes,
        1.0,
        "From one loss to a bilinear game the eigenvalues\nturn from the real to the imaginary axis",
        (1.4, -0.5),
    )
    dots = axes.scatter(
        torch.cat(values).real, torch.cat(values).imag, c=levels.repeat_interleave(6), s=4, cmap="plasma", zorder=2
    )
    for z, colour, mark, name in ((values[0], BOTH, "s", "one loss"), (values[-1], FIGHT, "o", "bilinear game")):
        axes.plot(z.real, z.imag, mark, color=colour, ms=8, mec="white", zorder=3, label=f"{name}: {worst(z, 1.0):.2f}")
    real = max(float(level) for level, z in zip(levels, values, strict=True) if z.imag.abs().max() < 1e-9)
    held = max(float(level) for level, z in zip(levels, values, strict=True) if worst(z, 1.0) < 1)
    print(f"all real up to level {real:.3f}, all in the disk of η = 1 up to {held:.3f}")
    axes.set(xlim=(-0.2, 2.1), ylim=(-1.35, 1.35))
    axes.legend(title="largest |1 − ηλ| at η = 1", loc="upper right", fontsize="small")
    figure.colorbar(dots, ax=axes, label="adversarialness: 0 = one loss, 1 = bilinear game", shrink=0.9)


def draw_networks(every: list[plt.Axes], *, steps: int) -> None:
    """The whole spectrum of both pairs."""
    step = 3.0
    kinds = (
        (False, BOTH, "s", "one loss", "both minimise one loss, all real"),
        (True, FIGHT, "o", "zero-sum", "zero-sum, with complex pairs"),
    )
    for axes, (zero_sum, colour, mark, name, title) in zip(every, kinds, strict=True):
        pair = NetworkPair(zero_sum=zero_sum)
        point = pair.at_rest(steps=steps)
        jacobian = pair.jacobian(point)
        z = torch.linalg.eigvals(jacobian)
        look(axes, step, f"Two networks, {len(z)} weights: {title}", (0.4, 0.11))
        axes.plot(z.real, z.imag, mark, color=colour, ms=7, mec="white", mew=0.6, label=f"{name}: {worst(z, step):.2f}")
        axes.set(xlim=(-0.07, 0.75), ylim=(-0.2, 0.2))
        axes.legend(title=f"largest |1 − ηλ| at η = {step:g}", loc="lower right", fontsize="small", framealpha=1)
        print(
            f"{name}: |F| = {torch.cat([g for (g,) in pair.field(point).values()]).norm():.0e}, "
            f"|J − Jᵀ| = {(jacobian - jacobian.T).norm():.1e}, Re λ in [{z.real.min():.4f}, {z.real.max():.4f}], "
            f"complex: {[f'{v:.4f}' for v in z.numpy() if v.imag > 1e-6]}"
        )


def main() -> None:
    """All panels."""
    options = parser_of(__doc__).parse_args()
    figure = plt.figure(figsize=(13.5, 6.4), layout="constrained")
    axes = figure.subplot_mosaic("AB;AC", width_ratios=[1.1, 1])
    draw_passage(axes["A"], figure, points=40 if options.fast else 1000)
    draw_networks([axes["B"], axes["C"]], steps=20 if options.fast else 2000)
    save(figure, options.output, "eigenvalues")


if __name__ == "__main__":
    main()
