"""A GAN on eight Gaussians by LEAD in a plain loop: torch alone, without Lightning.

python examples/plain_loop.py [--steps 200]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_lead.calculus import GameOracle, Lookahead, Swap, mix_seed
from lightning_lead.engine import BatchLosses, GameStep, GameStrategy, LEADStrategy, Turn
from lightning_lead.gan import GANBatch, GANProblem
from lightning_lead.networks import MLPDiscriminator, MLPGenerator


def train(
    problem: GANProblem, batches: Iterable[Tensor], optimizer: torch.optim.Optimizer, game: GameStrategy, seed: int = 0
) -> None:
    """Play one game step per batch of reals (m, ...): the discriminator moves, then the generator."""
    live = {name: list(getattr(problem, name).parameters()) for name in ("discriminator", "generator")}
    game.start({name: tuple(parameters) for name, parameters in live.items()})
    lookahead, swap = Lookahead(live, [optimizer]), Swap(problem.module, live)

    def make_oracle(turn: Turn, turn_seed: int) -> GameOracle:
        (batch,) = turn.micro_batches
        seed = mix_seed(turn_seed, 0)  # of the first micro-batch
        losses = BatchLosses(problem.module, problem.losses, batch, seed, noise=problem.noise, repeated=True)
        point = {name: tuple(parameters) for name, parameters in live.items()}
        return GameOracle(point, [losses], swap=swap, lookahead=lookahead)

    for step, real in enumerate(batches):
        step_seed, turns = mix_seed(seed, 0, step), []
        with problem.noise.seeded(step_seed):
            for player in live:  # the order of play
                dim, dtype = problem.generator.latent_dim, real.dtype
                latents = torch.randn(len(real), dim, generator=problem.noise.generator, dtype=dtype)
                batch = GANBatch(real, None, latents, None, discriminator_moves=player == "discriminator")
                turns.append(Turn((player,), [batch], len(real)))
        played = GameStep(
            game, turns, live, optimizers=[optimizer], lookahead=lookahead, make_oracle=make_oracle, seed=step_seed
        ).play()
        if step % 100 == 0:
            print(f"step {step}:", {name: round(seen.loss.item(), 3) for name, seen in played.statistics.items()})


def main() -> None:
    """Train, and print how far samples are from the nearest of the eight centres."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    angles = torch.arange(8) * torch.pi / 4
    centres = 2 * torch.stack([angles.cos(), angles.sin()], dim=1)
    problem = GANProblem(MLPGenerator(latent_dim=16, width=64), MLPDiscriminator(width=64))
    optimizer = torch.optim.Adam(problem.module.parameters(), lr=1e-3, betas=(0.0, 0.9))
    batches = (centres[torch.randint(8, (128,))] + 0.02 * torch.randn(128, 2) for _ in range(steps))
    train(problem, batches, optimizer, LEADStrategy(cross="extrapolated"))
    with torch.no_grad():
        samples = problem.generate(torch.randn(1000, 16), None)
    print(f"mean distance to the nearest centre: {torch.cdist(samples, centres).min(dim=1).values.mean():.2f}")


if __name__ == "__main__":
    main()
