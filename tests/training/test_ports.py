"""What a loop that was ported to a `LeadMixin` may bring along: found and named, or right."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder, StochasticWeightAveraging
from tiny import tiny_gan, tiny_loader, tiny_trainer
from torch import nn
from torch.nn.functional import softplus
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR
from torch.utils.data import DataLoader, IterableDataset

from lightning_lead import GameStrategy, GeneratorEMA, LeadGANModule, LeadMixin, LeadModule, LEADStrategy, Turn
from lightning_lead._errors import ConfigurationError
from lightning_lead.engine import find_game, game_names, name_game
from lightning_lead.rules import LEAD


class Port(LeadMixin, pl.LightningModule):
    """A GAN on points with an optimizer per player, in float64."""

    def __init__(self, game: Any = "GradientPlay") -> None:
        super().__init__(game=game)
        torch.manual_seed(3)
        self.generator = nn.Linear(2, 2, dtype=torch.float64)
        self.discriminator = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double()

    def players(self):
        return {"d": self.discriminator.parameters(), "g": self.generator.parameters()}

    def player_losses(self, batch):
        (real,) = batch
        fake = self.discriminator(self.generator(real))
        return {"d": softplus(-self.discriminator(real)).mean() + softplus(fake).mean(), "g": softplus(-fake).mean()}

    def configure_optimizers(self):
        return [torch.optim.SGD(m.parameters(), lr=0.1) for m in (self.discriminator, self.generator)]


class Scheduled(Port):
    """One optimizer with a scheduler, per epoch."""

    interval = "epoch"

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        scheduler = {"scheduler": ExponentialLR(optimizer, 0.5), "interval": self.interval}
        return [optimizer], [scheduler]


def fit(module: pl.LightningModule, **settings: Any) -> pl.Trainer:
    trainer = tiny_trainer(**({"max_steps": -1, "max_epochs": 3} | settings))
    trainer.fit(module, tiny_loader(24))
    return trainer


def without_super(hook: str, base: type[Port] = Port) -> Port:
    """A module whose override of a hook forgets `super()`."""
    return type("Forgetful", (base,), {hook: lambda self, *args: None})()


# ---- a loss per player ----------------------------------------------------------------------------------------------


class PerPlayer(Port):
    """The same losses, one method per player; counts how often each is computed."""

    player_losses = LeadMixin.player_losses
    asked: list[str] = []  # noqa: RUF012 (of the class: what a module holds must not move in a loss that is repeated)

    def players(self):
        return {"d": self.discriminator.parameters(), "g": self.generator.parameters()}

    def d_loss(self, batch):
        self.asked.append("d")
        return Port.player_losses(self, batch)["d"]

    def g_loss(self, batch):
        self.asked.append("g")
        return Port.player_losses(self, batch)["g"]


@pytest.mark.parametrize("game", ["GradientPlay", "LEAD", "LEAD(cross='extrapolated')", "ExtraAdam"])
def test_a_loss_per_player_trains_as_both_at_once(game):
    one, both = PerPlayer(game), Port(game)
    for module in (one, both):
        torch.manual_seed(4)
        fit(module, max_steps=4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), both.parameters(), strict=True))


def test_only_the_moving_player_s_loss_is_computed_in_plain_play():
    class Counted(PerPlayer):
        def on_train_batch_start(self, batch, batch_idx):
            self.asked.clear()

        def on_train_batch_end(self, *_):
            self.steps = [*getattr(self, "steps", []), list(self.asked)]

    module = Counted()
    fit(module, max_steps=3)
    assert module.steps == [["d", "g"]] * 3


def test_a_missing_loss_names_both_ways_to_write_it():
    class Missing(PerPlayer):
        g_loss = None

    with pytest.raises(NotImplementedError, match=r"loss of 'g' is missing; define player_losses.*or g_loss"):
        fit(Missing())


# ---- an adversarial part that begins late, or ends ------------------------------------------------------------------


class Warmup(Port):
    """The generator learns by content alone on some steps."""

    def __init__(self, game: Any, adversarial: Any) -> None:
        super().__init__(game)
        self.adversarial = adversarial

    def g_loss(self, batch):
        (real,) = batch
        fakes = self.generator(real)
        content = (fakes - real).square().mean()
        adversarial = softplus(-self.discriminator(fakes)).mean()
        return content + adversarial if self.adversarial(self.global_step) else content

    def d_loss(self, batch):
        return Port.player_losses(self, batch)["d"]

    player_losses = LeadMixin.player_losses


FORMS = ["LEAD", "LEAD(form='own')", "LEAD(cross='difference')", "LEAD(cross='extrapolated')", "LEAD(cross='auto')"]


@pytest.mark.parametrize("game", [*FORMS, "ExtraAdam", "ConsensusOptimization"])
@pytest.mark.parametrize("when", [lambda s: s >= 3, lambda s: s < 3], ids=["from step 3 on", "until step 3"])
def test_the_run_goes_on_where_a_loss_ignores_the_opponent(game, when):
    assert fit(Warmup(game, when), max_steps=6).global_step == 6


@pytest.mark.parametrize("game", FORMS[1:])
def test_such_a_step_is_the_plain_one_for_that_player(game):
    """But in the opponent form, whose cross term is of the opponent's loss."""
    lead, plain = Warmup(game, lambda s: False), Warmup("GradientPlay", lambda s: False)
    for module in (lead, plain):
        fit(module, max_steps=4)
    for a, b in zip(lead.generator.parameters(), plain.generator.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


@pytest.mark.parametrize("game", ["LEAD", "LEAD(cross='difference')"])
def test_players_coupled_one_way_train(game):
    name, _, settings = game.partition("(")
    text = f"{name}(coupling={{'d': 0.0, 'g': 1.0}}{', ' + settings if settings else ')'}"
    assert fit(Warmup(text, lambda s: False), max_steps=3).global_step == 3


# ---- hooks that were forgotten --------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "training_step"])
def test_an_override_without_super_is_refused_within_a_step(hook):
    module = without_super(hook)
    with pytest.raises(ConfigurationError, match=rf"Forgetful\.{hook}\(\) does not call super"):
        fit(module)
    assert module._trainer is None or module.trainer.global_step <= 1


def test_an_epoch_end_without_super_is_refused_where_schedulers_wait_for_it():
    fit(without_super("on_train_epoch_end"))  # nothing to step
    with pytest.raises(ConfigurationError, match=r"on_train_epoch_end\(\) does not call super.*did not step"):
        fit(without_super("on_train_epoch_end", Scheduled))


def test_a_checkpoint_that_would_hold_no_game_is_refused(tmp_path):
    class Saving(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.save_checkpoint(tmp_path / "a.ckpt")

    with pytest.raises(ConfigurationError, match=r"on_save_checkpoint\(\) does not call super"):
        fit(without_super("on_save_checkpoint"), callbacks=[Saving()])


def test_a_game_that_a_resume_did_not_read_is_refused(tmp_path):
    fit(Port("LEAD(coupling=3.0)"), max_steps=2).save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ConfigurationError, match=r"on_load_checkpoint\(\) does not call super"):
        tiny_trainer(4).fit(without_super("on_load_checkpoint"), tiny_loader(24), ckpt_path=tmp_path / "a.ckpt")


def test_overrides_that_call_super_pass():
    class Careful(Scheduled):
        def training_step(self, batch, batch_idx):
            self.steps = getattr(self, "steps", 0) + 1
            return super().training_step(batch, batch_idx)

        def on_train_epoch_end(self):
            super().on_train_epoch_end()

    module = Careful()
    trainer = fit(module)
    assert module.steps == trainer.global_step == 12
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.125


def test_one_watch_is_enough_for_several_fits():
    trainer = tiny_trainer(2)
    trainer.fit(Port(), tiny_loader(24))
    trainer.fit_loop.epoch_loop.max_steps = 4
    trainer.fit(Port(), tiny_loader(24))
    assert [type(callback).__name__ for callback in trainer.callbacks].count("HookWatch") == 1


# ---- schedulers and optimizers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_before_optimizer_step"])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_scheduler_stepped_by_hand_is_refused(interval, hook):
    def step(self, *_):
        self.lr_schedulers().step()

    module = type("Hand", (Scheduled,), {hook: step, "interval": interval})()
    with pytest.raises(ConfigurationError, match="ExponentialLR was stepped by hand"):
        fit(module)


def test_schedulers_of_one_s_own_are_left_alone():
    class Own(Port):
        def configure_optimizers(self):
            optimizers = super().configure_optimizers()
            self.mine = LambdaLR(optimizers[0], lambda epoch: 0.5**epoch)
            return optimizers

        def on_train_batch_end(self, *_):
            self.mine.step()

    module = Own()
    assert fit(module, max_steps=3).optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 8)


def test_a_parameter_in_two_optimizers_is_refused():
    class Third(Port):
        def configure_optimizers(self):
            return [*super().configure_optimizers(), torch.optim.Adam(self.generator.parameters())]

    with pytest.raises(ConfigurationError, match=r"2 parameter\(s\) of player 'g' because several optimizers"):
        fit(Third())


def test_a_parameter_in_no_optimizer_is_refused():
    class Lost(Port):
        def configure_optimizers(self):
            return [torch.optim.SGD([*self.discriminator.parameters(), self.generator.weight], lr=0.1)]

    with pytest.raises(ConfigurationError, match=r"1 parameter\(s\) of player 'g' because no optimizer holds them"):
        fit(Lost())


def with_frequencies(optimizers):
    first, second = ({"optimizer": optimizer, "frequency": k} for k, optimizer in enumerate(optimizers, start=1))
    return [first, second]


@pytest.mark.parametrize("arranged", [with_frequencies, lambda both: with_frequencies(both)[::-1], tuple])
@pytest.mark.parametrize("in_instance", [False, True], ids=["method", "in the instance"])
def test_a_frequency_beside_an_optimizer_is_refused_in_every_fit(arranged, in_instance):
    class Configured(Port):
        def configure_optimizers(self):
            return arranged(super().configure_optimizers())

    module = Configured()
    if in_instance:  # as a command line puts it there
        module.configure_optimizers = lambda: arranged(Port.configure_optimizers(module))
    before = vars(module).copy()
    for _ in range(2):
        if arranged is tuple:  # no frequency
            fit(module)
        else:
            with pytest.raises(ConfigurationError, match=r"Lightning 2 leaves it aside.*discriminator_steps="):
                fit(module)
        assert vars(module).get("configure_optimizers") is before.get("configure_optimizers")


def test_a_module_without_optimizers_gets_lightning_s_own_message():
    class Bare(LeadMixin, pl.LightningModule):
        players, player_losses = Port.players, Port.player_losses

    module = Bare(game="GradientPlay")
    module.generator, module.discriminator = nn.Linear(2, 2).double(), nn.Linear(2, 1).double()
    with pytest.raises(pl.utilities.exceptions.MisconfigurationException, match="No `configure_optimizers"):
        fit(module)


def test_a_copy_of_a_module_whose_fit_ended_early_configures_its_optimizers():
    class Late(Port):
        def setup(self, stage):
            raise KeyboardInterrupt

    module = Late()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(module)
    copied = copy.copy(module)
    assert len(module.configure_optimizers()) == len(copied.configure_optimizers()) == 2


def test_a_scheduler_s_own_frequency_is_kept():
    class Every(Scheduled):
        def configure_optimizers(self):
            (optimizer,), (scheduler,) = super().configure_optimizers()
            return {"optimizer": optimizer, "lr_scheduler": scheduler | {"frequency": 2}}

    assert fit(Every()).optimizers[0].param_groups[0]["lr"] == 0.5


# ---- gradients as other tools see them ------------------------------------------------------------------------------


@pytest.mark.parametrize("joint", [False, True])
def test_on_before_optimizer_step_comes_for_every_optimizer_with_gradients_in_place(joint):
    seen = []

    class Watching(Port):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1) if joint else super().configure_optimizers()

        def on_before_optimizer_step(self, optimizer):
            held = {id(p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None}
            seen.append([name for name, params in self.players().items() if all(id(p) in held for p in params)])

    fit(Watching(), max_steps=2)
    assert seen == [["d"], ["g"]] * 2


def test_an_edit_of_gradients_in_the_hook_decides_the_step():
    class Halved(Port):
        def on_before_optimizer_step(self, optimizer):
            for group in optimizer.param_groups:
                for p in group["params"]:
                    p.grad *= 0.5

    class Slow(Port):
        def configure_optimizers(self):
            return [torch.optim.SGD(m.parameters(), lr=0.05) for m in (self.discriminator, self.generator)]

    halved, slow = Halved(), Slow()
    for module in (halved, slow):
        fit(module, max_steps=3)
    for a, b in zip(halved.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=0)


def test_a_player_s_direction_is_edited_once_per_turn_and_then_clipped():
    seen = []

    class Edited(Port):
        def on_before_player_step(self, player):
            seen.append(player)
            for p in self.discriminator.parameters() if player == "d" else self.generator.parameters():
                p.grad *= 0 if player == "d" else 1000

    module, start = Edited(), Port()
    module.clip = 1e-3
    fit(module, max_steps=1)
    assert seen == ["d", "g"]
    assert all(
        torch.equal(a, b)
        for a, b in zip(module.discriminator.parameters(), start.discriminator.parameters(), strict=True)
    )
    moved = [
        (a - b).flatten() for a, b in zip(module.generator.parameters(), start.generator.parameters(), strict=True)
    ]
    torch.testing.assert_close(torch.cat(moved).norm().item(), 0.1 * 1e-3, rtol=1e-6, atol=0)  # at a rate of 0.1


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_gradient_hooks_of_parameters_see_each_turn_s_direction_once(kind):
    module, plain, seen = Port(), Port(), []
    for name, p in module.named_parameters():
        if kind == "register_hook":  # wandb.watch looks here
            p.register_hook(lambda grad, name=name: seen.append((name, grad.norm().item())))
        else:
            p.register_post_accumulate_grad_hook(lambda p, name=name: seen.append((name, p.grad.norm().item())))
    fit(module, max_steps=2)
    fit(plain, max_steps=2)
    assert sorted({name for name, _ in seen}) == sorted(name for name, _ in module.named_parameters())
    assert len(seen) == 2 * len(list(module.parameters()))
    assert all(size > 0 for _, size in seen)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), plain.parameters(), strict=True))


def test_a_gradient_mask_set_by_a_hook_holds():
    module = Port()
    before = module.generator.weight[0].detach().clone()
    module.generator.weight.register_hook(lambda grad: grad * torch.tensor([[0.0], [1.0]], dtype=grad.dtype))
    fit(module, max_steps=3)
    assert torch.equal(module.generator.weight[0], before)
    assert not torch.equal(module.generator.weight[1], Port().generator.weight[1])


# ---- callbacks and data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("callback", "remedy"),
    [
        (BatchSizeFinder(), "max_steps=3"),
        (LearningRateFinder(), "docs/choosing.md"),
        (StochasticWeightAveraging(swa_lrs=0.01), "GeneratorEMA"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_callbacks_that_train_in_their_own_way_are_refused(callback, remedy):
    with pytest.raises(ConfigurationError, match=rf"by {type(callback).__name__} because .*{remedy}"):
        fit(tiny_gan(), callbacks=[callback])


@pytest.mark.parametrize("batch_size", [8, 7])
def test_a_stream_without_a_length_trains(batch_size):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(torch.zeros(32, 2, dtype=torch.float64))

    trainer = tiny_trainer(4)
    trainer.fit(tiny_gan(), DataLoader(Stream(), batch_size=batch_size))
    assert trainer.global_step == 4


def test_a_discriminator_that_returns_no_tensor_is_named():
    class Two(nn.Linear):
        def forward(self, x):
            return [super().forward(x), x]

    gan = LeadGANModule(nn.Linear(3, 2), Two(2, 1), latent_dim=3)
    with pytest.raises(ConfigurationError, match=r"what Two returns because it is no tensor.*got list"):
        tiny_trainer(2).fit(gan, DataLoader(torch.zeros(16, 2), 8))


# ---- the average ----------------------------------------------------------------------------------------------------


def test_the_average_counts_the_images_of_any_module():
    ema = GeneratorEMA(halflife_images=48, rampup=None)
    module = Port()
    fit(module, max_steps=3, callbacks=[ema])
    assert ema.state_dict()["seen"] == 3 * 24
    assert ema.average(module).keys() == {"generator.weight", "generator.bias"}


def test_the_average_of_a_generator_that_grows_takes_the_new_layer_as_it_is():
    class Grow(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 1:
                module.generator.append(nn.Linear(2, 2, dtype=torch.float64))
                trainer.optimizers[0].add_param_group({"params": list(module.generator[-1].parameters())})

    ema, gan = GeneratorEMA(halflife_images=100), tiny_gan()
    fit(gan, max_epochs=2, callbacks=[Grow(), ema])
    averaged = ema.average(gan)
    assert averaged.keys() == {f"generator.{name}" for name, _ in gan.generator.named_parameters()}
    assert not torch.equal(averaged["generator.3.weight"], gan.generator[3].weight)


# ---- hyperparameters ------------------------------------------------------------------------------------------------


class WithHyperparameters(LeadGANModule):
    def __init__(self, game: Any = None, width: int = 4) -> None:
        super().__init__(nn.Linear(3, width), nn.Linear(width, 1), latent_dim=3, game=game)
        self.save_hyperparameters()


@pytest.mark.parametrize("game", [LEADStrategy(coupling=3.0, cross="difference"), LEAD(2.0), "ExtraAdam", None])
def test_a_game_among_the_hyperparameters_loads_and_resumes(game, tmp_path):
    data, path = DataLoader(torch.zeros(32, 4), 8), tmp_path / "a.ckpt"
    module = WithHyperparameters(game)
    trainer = tiny_trainer(2)
    trainer.fit(module, data)
    trainer.save_checkpoint(path)
    loaded = WithHyperparameters.load_from_checkpoint(path, weights_only=True)
    assert loaded.game.description == module.game.description
    assert loaded.hparams.width == 4
    tiny_trainer(4).fit(loaded, data, ckpt_path=path)


def test_every_game_is_named_by_a_text_that_builds_it_again():
    for name in game_names():
        for rule in [find_game(name).rule, *type(find_game(name).rule).variants()]:
            for play in rule.plays:
                game = GameStrategy(rule, play=play, skip_limit=3)
                again = find_game(name_game(game))
                assert (again.description, again.skip_limit) == (game.description, 3)
                assert type(again.rule) is type(rule)


# ---- players that are none ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda m: m.generator, r"players\(\) returned its network; return its parameters\(\).*\(got Linear\)"),
        (lambda m: [m.generator], r"returned what is no parameter; return network\.parameters\(\).*\(got Linear\)"),
        (lambda m: m.generator.named_parameters(), r"returned what is no parameter.*\(got tuple\)"),
        (lambda m: m.parameters(), r"they share 4 parameter\(s\)"),
    ],
    ids=["a network", "a list of networks", "named parameters", "parameters of both"],
)
@pytest.mark.parametrize("base", [Port, LeadModule])
def test_what_is_no_player_is_named_in_every_module(given, told, base):
    class Wrong(base):
        def __init__(self):
            super().__init__(game="GradientPlay")
            port = Port()
            self.generator, self.discriminator = port.generator, port.discriminator

        def players(self):
            return {"d": self.discriminator.parameters(), "g": given(self)}

        def player_losses(self, batch):
            return Port.player_losses(self, batch)

    with pytest.raises(ConfigurationError, match=told):
        fit(Wrong(), max_steps=1)


def test_a_layer_in_both_networks_is_named():
    shared = nn.Linear(2, 2)
    gan = LeadGANModule(nn.Sequential(nn.Linear(4, 2), shared), nn.Sequential(shared, nn.Linear(2, 1)), latent_dim=4)
    with pytest.raises(ConfigurationError, match=r"they share 2 parameter\(s\); give each network its own"):
        tiny_trainer(1).fit(gan, tiny_loader(24))


# ---- loops of other shapes ------------------------------------------------------------------------------------------


class Lazy(PerPlayer):
    """The generator moves every second step; every third one has a regulariser of D as an update of its own."""

    def due(self, step):
        return ["d"] + ["r1"] * (step % 3 == 0) + ["g"] * (step % 2 == 0)

    def game_turns(self, batch):
        return [Turn(("d" if what == "r1" else what,), [(what, batch)], 24) for what in self.due(self.global_step)]

    def d_loss(self, part):
        what, batch = part
        if what != "r1":
            return PerPlayer.d_loss(self, batch)
        real = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.discriminator(real).sum(), real, create_graph=True)
        return slope.square().sum(1).mean()

    def g_loss(self, part):
        return PerPlayer.g_loss(self, part[1])


class Split(Lazy):
    """With two optimizers for the discriminator."""

    def configure_optimizers(self):
        first, last = self.discriminator[0].parameters(), self.discriminator[2].parameters()
        return [torch.optim.SGD(p, lr=0.1) for p in (first, last, self.generator.parameters())]


@pytest.mark.parametrize("kind", [Lazy, Split])
def test_lazy_turns_and_several_optimizers_are_the_loop_they_came_from(kind):
    module, loop = kind(), kind()
    trainer = fit(module, max_steps=8)
    optimizers, data = loop.configure_optimizers(), list(tiny_loader(24)) * 2
    for step, batch in enumerate(data[:8]):
        for what in loop.due(step):
            player = "d" if what == "r1" else what
            parameters = list(loop.players()[player])
            loss = loop.player_loss(player, (what, batch))
            loss.backward(inputs=parameters)
            for optimizer in optimizers:
                optimizer.step()  # steps those that have a gradient
            for parameter in parameters:
                parameter.grad = None
    assert trainer.global_step == 8
    for a, b in zip(module.parameters(), loop.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("game", [*FORMS, "OptimisticAdam"])
def test_lazy_turns_train_by_every_form(game):
    assert fit(Lazy(game), max_steps=6).global_step == 6


# ---- what is left over from a loop -----------------------------------------------------------------------------------


@pytest.mark.parametrize("game", ["GradientPlay", "LEAD(cross='extrapolated')"])
@pytest.mark.parametrize("part", ["step", "copy_"])
def test_a_loss_that_moves_parameters_is_refused(game, part):
    class Left(Port):
        def player_losses(self, batch):
            losses = super().player_losses(batch)
            if part == "copy_":
                with torch.no_grad():
                    self.trainer.optimizers[0].param_groups[0]["params"][0].mul_(0.9)
            else:
                (optimizer, *_) = self.optimizers()
                for p in optimizer.param_groups[0]["params"]:
                    p.grad = torch.ones_like(p)
                optimizer.step()
            return losses

    with pytest.raises(ConfigurationError, match=r"a loss has moved parameters.*take optimizer\.step\(\) out"):
        fit(Left(game), max_steps=1)


@pytest.mark.parametrize("game", ["GradientPlay", "LEAD", "LEAD(cross='extrapolated')"])
@pytest.mark.parametrize("where", ["batch", "inside"])
def test_a_batch_that_a_network_has_made_is_refused(game, where):
    class Early(Port):
        def game_turns(self, batch):
            turns = super().game_turns(batch)
            made = self.generator(torch.randn(4, self.generator.in_features, dtype=self.generator.weight.dtype))
            return [turn._replace(micro_batches=[made if where == "batch" else {"fake": [made]}]) for turn in turns]

    with pytest.raises(ConfigurationError, match=r"turn of d because its batch is the output of a network"):
        fit(Early(game), max_steps=1)


def test_a_game_step_without_a_turn_is_refused():
    class Nobody(Port):
        def game_turns(self, batch):
            return []

    with pytest.raises(ConfigurationError, match=r"nobody moves.*return one turn at least"):
        fit(Nobody(), max_steps=1)


def test_a_step_in_the_losses_of_a_gan_is_refused_too():
    class Left(LeadGANModule):
        def wanted_losses(self, batch, wanted):
            losses = super().wanted_losses(batch, wanted)
            with torch.no_grad():
                self.trainer.optimizers[0].param_groups[0]["params"][0].mul_(0.9)
            return losses

    gan = Left(nn.Linear(3, 2), nn.Linear(2, 1), latent_dim=3, game="AlternatingGDA")
    with pytest.raises(ConfigurationError, match="a loss has moved parameters"):
        tiny_trainer(1).fit(gan, DataLoader(torch.zeros(16, 2), 8))


# ---- losses that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("game", ["GradientPlay", LEADStrategy(), LEADStrategy(cross="extrapolated")], ids=str)
@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda d, g: (d, g), r"no losses by name; return \{name: scalar loss\} for .* \(got tuple\)"),
        (lambda d, g: d + g, r"no losses by name.*\(got Tensor\)"),
        (lambda d, g: None, r"no losses by name.*\(got NoneType\)"),
        (lambda d, g: {"d": d, "generator": g}, r"no loss for \['g'\]; .*got \['d', 'generator'\]"),
        (lambda d, g: {"d": d.item(), "g": g.item()}, r"no tensors; return them with their graph.*'float'"),
    ],
)
def test_what_is_no_loss_of_each_player_is_refused_by_name(returned, message, game):
    class Returning(Port):
        def player_losses(self, batch):
            losses = super().player_losses(batch)
            return returned(losses["d"], losses["g"])

    with pytest.raises(ConfigurationError, match=message):
        fit(Returning(game))
