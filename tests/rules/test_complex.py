"""Complex parameters move as the pairs of real numbers that they are, by every rule that does not refuse them."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from tiny import tiny_loader, tiny_trainer
from torch import nn

from lightning_lead import LeadMixin, LEADStrategy
from lightning_lead._errors import ConfigurationError
from lightning_lead.engine.named_rules import find_game, game_names

GAMES = {name: name for name in game_names()} | {
    "LEAD, own form": LEADStrategy(1.0, form="own"),
    "LEAD, difference": LEADStrategy(1.0, cross="difference"),
    "LEAD, extrapolated": LEADStrategy(1.0, cross="extrapolated"),
    "LEAD, auto": LEADStrategy(cross="auto"),
}
REFUSED = {"ACGD", "NegativeAdam"}


class Waves(LeadMixin, pl.LightningModule):
    """A complex player against a real one, whose losses are of its real and imaginary parts."""

    def __init__(self, game, *, real):
        super().__init__(game=game)
        start = torch.tensor([0.3 + 0.5j, -0.4 + 0.2j], dtype=torch.complex128)
        self.z = nn.Parameter(torch.view_as_real(start).clone() if real else start)
        self.y = nn.Parameter(torch.tensor([0.5, -0.2], dtype=torch.double))

    def players(self):
        return {"z": [self.z], "y": [self.y]}

    def player_losses(self, batch):
        z = self.z if self.z.is_complex() else torch.view_as_complex(self.z)
        turned = (z * (1 + 2j)).imag.sin() * self.y.cos() + z.abs().square() * self.y + z.real * self.y
        return {"z": turned.sum(), "y": -turned.sum()}

    def configure_optimizers(self):
        plain = self.game.rule.needs.requires_sgd
        return [torch.optim.SGD([p], 0.05, momentum=0.0 if plain else 0.5) for p in (self.z, self.y)]


def moved(name, *, real):
    game = GAMES[name]
    module = Waves(find_game(game) if isinstance(game, str) else game, real=real)
    tiny_trainer(5).fit(module, tiny_loader(24))
    z = module.z.detach()
    return (z if real else torch.view_as_real(z)), module.y.detach()


@pytest.mark.parametrize("name", sorted(GAMES.keys() - REFUSED))
def test_a_complex_player_is_two_real_ones(name):
    torch.testing.assert_close(moved(name, real=False), moved(name, real=True), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_rules_that_average_squares_refuse_complex_players(name):
    with pytest.raises(ConfigurationError, match=f"Cannot play {name} on complex parameters.*view_as_real"):
        moved(name, real=False)
