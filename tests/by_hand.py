"""LEAD's extrapolated form as one would write it into a plain training loop: what the library is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

__all__ = ["ByHand", "gan_by_hand"]


class ByHand:
    """Updates of two players: the opponent is moved ahead, `backward()`, the opponent is put back, a step.

    Args:
        players: name -> parameters.
        make: a player's parameters -> its optimizer.
        coupling: name -> a of this player.
        clip: largest norm of a gradient, or None.
    """

    def __init__(
        self,
        players: Mapping[str, Sequence[nn.Parameter]],
        make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        coupling: Mapping[str, float],
        *,
        clip: float | None = None,
    ) -> None:
        self.players = {name: list(parameters) for name, parameters in players.items()}
        self.optimizers = {name: make(parameters) for name, parameters in self.players.items()}
        self.coupling, self.clip = coupling, clip
        self.seen = {name: [p.detach().clone() for p in parameters] for name, parameters in self.players.items()}

    def turn(self, **losses: Callable[[], Tensor]) -> None:
        """One update of each player that a loss is given for, from one point; each loss at the displaced opponent."""
        gradients, here = {}, {}
        for player, loss in losses.items():
            (opponent,) = set(self.players) - {player}
            here[opponent] = [p.detach().clone() for p in self.players[opponent]]
            with torch.no_grad():
                for p, now, before in zip(self.players[opponent], here[opponent], self.seen[opponent], strict=True):
                    wide = torch.promote_types(p.dtype, torch.float32)
                    p.copy_(now.to(wide) + self.coupling[player] * (now.to(wide) - before.to(wide)))
            self.forget()
            loss().backward()
            gradients[player] = [p.grad for p in self.players[player]]
            with torch.no_grad():
                for p, now in zip(self.players[opponent], here[opponent], strict=True):
                    p.copy_(now)
        self.seen |= here
        self.forget()
        for player, gradient in gradients.items():
            for p, g in zip(self.players[player], gradient, strict=True):
                p.grad = g
            if self.clip is not None:
                nn.utils.clip_grad_norm_(self.players[player], self.clip)
            self.optimizers[player].step()

    def forget(self) -> None:
        """No gradients, of anybody."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()


def gan_by_hand(
    generator: nn.Module,
    discriminator: nn.Module,
    batches: Sequence[tuple[Tensor, ...]],
    latents: Sequence[Tensor],
    game: ByHand,
    *,
    inner: int = 1,
    joint: bool = False,
    after: Callable[[], None] = lambda: None,
) -> None:
    """A non-saturating GAN; latents come in the order in which a module draws them.

    Args:
        generator: latents[, labels] -> samples; trained in place.
        discriminator: samples[, labels] -> logits; trained in place.
        batches: of real samples, and perhaps labels; one per game step, each split evenly over the inner steps.
        latents: for every discriminator step of a game step, then for the generator's, unless play is joint.
        game: of both players.
        inner: discriminator steps per game step.
        joint: simultaneous play.
        after: what happens at the end of a game step.
    """
    soft, drawn = nn.functional.softplus, iter(latents)

    def loss_d(z: Tensor, real: Tensor, *labels: Tensor) -> Tensor:
        fakes = discriminator(generator(z, *labels).detach(), *labels)  # the library's order: fakes, then reals
        return soft(-discriminator(real, *labels)).mean() + soft(fakes).mean()

    def fooled(z: Tensor, *labels: Tensor) -> Tensor:
        return soft(-discriminator(generator(z, *labels), *labels)).mean()

    for batch in batches:
        shares = list(zip(*(t.chunk(inner) for t in batch), strict=True))
        zs = [next(drawn) for _ in range(inner + (not joint))]
        labels = shares[-1][1:]
        if joint:
            game.turn(discriminator=partial(loss_d, zs[0], *shares[0]), generator=partial(fooled, zs[0], *labels))
        else:
            for z, share in zip(zs, shares, strict=False):
                game.turn(discriminator=partial(loss_d, z, *share))
            game.turn(generator=partial(fooled, zs[-1], *labels))
        after()
