"""A player whose network is frozen as a whole stays, while the other one goes on."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning import Callback, LightningModule
from tiny import tiny_gan, tiny_loader, tiny_networks, tiny_trainer
from torch.nn.functional import softplus

from lightning_lead import ConfigurationError, LeadMixin, LEADStrategy, Turn

GAMES = ["GradientPlay", LEADStrategy(), LEADStrategy(cross="difference"), LEADStrategy(cross="extrapolated")]
GAMES += [LEADStrategy(cross="auto"), "OptimisticAdam", "LookaheadMinmax", "Prediction"]
LABELS = ["plain", "exact", "difference", "extrapolated", "auto", "OptimisticAdam", "LookaheadMinmax", "Prediction"]


def weights(network):
    return torch.cat([p.detach().reshape(-1) for p in network.parameters()])


class Frozen(Callback):
    """Freezes a player until a game step, and records who has moved in each."""

    def __init__(self, player, until):
        self.player, self.until, self.moved = player, until, []

    def on_fit_start(self, trainer, module):
        getattr(module, self.player).requires_grad_(False)

    def on_train_batch_start(self, trainer, module, *_):
        self.before = {name: weights(getattr(module, name)) for name in ("discriminator", "generator")}

    def on_train_batch_end(self, trainer, module, *_):
        now = {name for name, vector in self.before.items() if not torch.equal(vector, weights(getattr(module, name)))}
        self.moved.append(now)
        if trainer.global_step == self.until:
            getattr(module, self.player).requires_grad_(True)


class Saved(Callback):
    """Writes a checkpoint after the fourth game step."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 4:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("player", ["discriminator", "generator"])
@pytest.mark.parametrize("game", GAMES, ids=LABELS)
def test_a_frozen_player_stays_until_it_is_unfrozen(game, player):
    gan, frozen = tiny_gan(game=game), Frozen(player, until=3)
    trainer = tiny_trainer(5, callbacks=[frozen])
    trainer.fit(gan, tiny_loader(24))
    both = {"discriminator", "generator"}
    assert frozen.moved == [both - {player}] * 3 + [both] * 2
    assert trainer.global_step == 5


@pytest.mark.parametrize("settings", [{"discriminator_steps": 2}, {"shared_latents": True}, {"accumulate": 2}], ids=str)
def test_a_frozen_discriminator_has_no_turn_under_any_schedule(settings):
    gan, frozen = tiny_gan(**settings), Frozen("discriminator", until=3)
    tiny_trainer(3, callbacks=[frozen]).fit(gan, tiny_loader(24))
    assert frozen.moved == [{"generator"}] * 3


class Pair(LeadMixin, LightningModule):
    def __init__(self, game, **settings):
        super().__init__(game=game, **settings)
        self.generator, self.discriminator = tiny_networks()

    def players(self):
        return {"discriminator": self.discriminator.parameters(), "generator": self.generator.parameters()}

    def discriminator_loss(self, batch):
        fakes = self.generator(batch[0].new_ones(len(batch[0]), 3))
        return softplus(-self.discriminator(batch[0])).mean() + softplus(self.discriminator(fakes)).mean()

    def generator_loss(self, batch):
        return softplus(-self.discriminator(self.generator(batch[0].new_ones(len(batch[0]), 3)))).mean()

    def configure_optimizers(self):
        return [torch.optim.SGD(network.parameters(), lr=0.1) for network in (self.discriminator, self.generator)]


@pytest.mark.parametrize("game", GAMES[:5], ids=LABELS[:5])
def test_against_a_discriminator_that_stays_every_form_is_gradient_descent(game):
    module = Pair(game)
    tiny_trainer(4, callbacks=[Frozen("discriminator", until=4)]).fit(module, tiny_loader(24))
    generator, discriminator = tiny_networks()
    sgd = torch.optim.SGD(generator.parameters(), lr=0.1)
    for _ in range(4):
        loss = softplus(-discriminator(generator(torch.ones(24, 3, dtype=torch.float64)))).mean()
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    assert (weights(module.generator) - weights(generator)).abs().max() < 1e-14
    assert torch.equal(weights(module.discriminator), weights(discriminator))


def test_resumed_while_a_player_is_frozen_it_ends_the_same(tmp_path):
    ends = []
    for resumed in (False, True):
        gan = tiny_gan()
        torch.manual_seed(1)
        callbacks = [Frozen("discriminator", until=6), *([] if resumed else [Saved(tmp_path / "a.ckpt")])]
        trainer = tiny_trainer(8, callbacks=callbacks)
        # all epochs are alike, so that it does not matter that a plain loader begins anew
        trainer.fit(gan, tiny_loader(24, count=24), ckpt_path=tmp_path / "a.ckpt" if resumed else None)
        ends.append(weights(gan))
    assert torch.equal(*ends)


@pytest.mark.parametrize("frozen", [["discriminator", "generator"], ["discriminator"]])
def test_where_nobody_moves_or_both_move_at_once_a_frozen_player_is_refused(frozen):
    gan = tiny_gan(game=LEADStrategy(play="simultaneous")) if len(frozen) == 1 else tiny_gan()
    for name in frozen:
        getattr(gan, name).requires_grad_(False)
    with pytest.raises(ConfigurationError, match="no parameter that requires a gradient.*alternating play"):
        tiny_trainer(2).fit(gan, tiny_loader(24))


def test_a_warm_up_of_a_discriminator_that_is_frozen_is_refused():
    gan = tiny_gan(discriminator_warmup=2)
    gan.discriminator.requires_grad_(False)
    with pytest.raises(ConfigurationError, match="discriminator alone would move"):
        tiny_trainer(2).fit(gan, tiny_loader(24))


@pytest.mark.parametrize("player", ["discriminator", "generator"])
@pytest.mark.parametrize(
    "game", [LEADStrategy(1.0), LEADStrategy(1.0, cross="extrapolated"), "LookaheadMinmax", "NuPI"]
)
def test_what_one_does_alone_is_no_move_in_the_game(game, player):
    """Where it thaws, all goes on as in a game that begins there."""
    settings = {"optimizer": torch.optim.SGD, "generator_lr": 0.1, "discriminator_lr": 0.1}

    class Begun(Frozen):
        def on_train_batch_start(self, trainer, module, batch, *_):
            super().on_train_batch_start(trainer, module, batch)
            if trainer.global_step == 4:
                module._start_game(module._live())

    ends = []
    for callback in (Frozen, Begun):
        gan = tiny_gan(game=game, **settings)
        torch.manual_seed(3)
        tiny_trainer(6, callbacks=[callback(player, until=4)]).fit(gan, tiny_loader(24))
        ends.append(weights(gan))
    assert torch.equal(*ends)


def test_frozen_in_mid_run_nothing_moves_it_any_more():
    class Later(Frozen):
        def on_fit_start(self, trainer, module):
            """Not yet."""

        def on_train_batch_start(self, trainer, module, *_):
            if trainer.global_step == 2:
                module.discriminator.requires_grad_(False)
                for parameter in module.discriminator.parameters():
                    parameter.grad = torch.ones_like(parameter)
            super().on_train_batch_start(trainer, module)

    frozen = Later("discriminator", until=99)
    optimizer = lambda groups: torch.optim.SGD(groups, momentum=0.9, weight_decay=0.1)  # noqa: E731
    gan = tiny_gan(game="LookaheadMinmax", optimizer=optimizer)
    tiny_trainer(8, callbacks=[frozen]).fit(gan, tiny_loader(24))
    assert frozen.moved == [{"discriminator", "generator"}] * 2 + [{"generator"}] * 6


def test_a_critic_that_stays_for_good_needs_no_optimizer():
    class Fixed(Pair):
        def configure_optimizers(self):
            return torch.optim.SGD(self.generator.parameters(), lr=0.1)

    module = Fixed(LEADStrategy())
    module.discriminator.requires_grad_(False)
    before = weights(module.generator)
    tiny_trainer(2).fit(module, tiny_loader(24))
    assert not torch.equal(weights(module.generator), before)


def test_a_turn_of_both_is_refused_where_one_is_frozen():
    class Together(Pair):
        def game_turns(self, batch):
            return [Turn(("discriminator", "generator"), [batch], len(batch[0]))]

    module = Together("GradientPlay")
    module.discriminator.requires_grad_(False)
    with pytest.raises(ConfigurationError, match="discriminator is frozen as a whole; give each a turn"):
        tiny_trainer(2).fit(module, tiny_loader(24))


@pytest.mark.parametrize("cross", ["exact", "extrapolated"])
def test_a_loss_that_freezes_the_other_player_is_refused(cross):
    class Toggling(Pair):
        def generator_loss(self, batch):
            self.toggle_optimizer(self.optimizers()[1])
            return super().generator_loss(batch)

    with pytest.raises(ConfigurationError, match=r"a loss has frozen parameters.*toggle_optimizer\(\)"):
        tiny_trainer(4).fit(Toggling(LEADStrategy(cross=cross)), tiny_loader(24))
