"""fp16: losses are lifted by a scale before they are differentiated, and nothing else is different."""

from __future__ import annotations

import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins import MixedPrecision
from tiny import tiny_gan, tiny_networks, tiny_points, tiny_trainer
from torch.amp import GradScaler
from torch.utils.data import DataLoader, TensorDataset

from lightning_lead import CheckpointMismatchError, ConfigurationError, DivergenceError, LeadGANModule, LEADStrategy
from lightning_lead.engine._loss_scale import LossScale
from lightning_lead.engine.named_rules import find_game, game_names
from lightning_lead.objectives import R1, NonSaturating, RelativisticPairing

LIFTED = 2.0**20


class Lifted(pl.Callback):
    """Gives a run in full precision a loss scale."""

    def __init__(self, scale: float = LIFTED) -> None:
        self.scale = LossScale(init_scale=scale)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.game.loss_scale = self.scale


def half(**settings: Any) -> MixedPrecision:
    """fp16 of activations on the CPU, for which Lightning has no name."""
    return MixedPrecision("16-mixed", "cpu", GradScaler("cpu", **settings))


def weights(module: Any) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def points(dtype: torch.dtype = torch.float32) -> DataLoader[Any]:
    return DataLoader(TensorDataset(tiny_points(dtype=torch.float64).to(dtype)), 24)


GAMES = [*game_names(), "LEAD(cross='exact', form='own')", "LEAD(cross='difference')", "LEAD(cross='extrapolated')"]
GAMES += ["LEAD(cross_fraction=0.5)", "LEAD(cross='difference', cross_fraction=0.5)"]


@pytest.mark.parametrize("game", GAMES)
def test_a_power_of_two_changes_no_bit_of_any_rule(game: str) -> None:
    """In float64 nothing is rounded away by it, so a factor that is forgotten anywhere is one of 2^20."""

    def trained(*callbacks: pl.Callback) -> tuple[torch.Tensor, dict[str, float]]:
        requires_sgd = find_game(game).rule.needs.requires_sgd
        sgd = {"optimizer": torch.optim.SGD} if requires_sgd else {}
        gan = tiny_gan(game=game, batch_norm=True, **sgd)
        trainer = tiny_trainer(4, callbacks=list(callbacks), logger=True, log_every_n_steps=1)
        torch.manual_seed(0)
        trainer.fit(gan, points(torch.float64))
        logged = {name: float(value) for name, value in trainer.callback_metrics.items() if "loss_scale" not in name}
        return weights(gan), logged

    (plain, log), (lifted, its_log) = trained(), trained(Lifted())
    assert torch.equal(plain, lifted)
    assert log == its_log


@pytest.mark.parametrize(
    "settings",
    [
        {"game": LEADStrategy(), "penalty": R1(1.0), "objective": "wasserstein"},
        {"game": LEADStrategy(form="own"), "penalty": R1(1.0), "accumulate": 2},
        {"game": LEADStrategy(cross="difference"), "shared_latents": True},
        {"game": LEADStrategy(cross="difference", play="simultaneous"), "shared_latents": True},
        {"game": LEADStrategy(), "objective": RelativisticPairing()},
        {"game": LEADStrategy(), "discriminator_steps": 2, "clip": 0.01},
    ],
    ids=str,
)
def test_nor_of_the_losses_of_a_gan(settings: dict[str, Any]) -> None:
    def trained(*callbacks: pl.Callback) -> torch.Tensor:
        gan = tiny_gan(**settings)
        torch.manual_seed(0)
        tiny_trainer(4, callbacks=list(callbacks)).fit(gan, points(torch.float64))
        return weights(gan)

    plain = trained()
    assert torch.equal(plain, trained(Lifted()))

    class Unequal(Lifted):
        """A scale for each turn, as overflows make them."""

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            super().on_fit_start(trainer, pl_module)
            self.scale.update(["generator"], overflowed=True)

    assert torch.equal(plain, trained(Unequal()))


class Overflowing(torch.nn.Module):
    """Passes its input on; while it is armed, derivatives that come back through it overflow."""

    armed = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.armed and x.requires_grad:
            x = x.view_as(x)
            x.register_hook(lambda grad: grad * torch.inf)
        return x


class Overflows(pl.Callback):
    """Arms the end of a network in one game step, or in all."""

    def __init__(self, network: torch.nn.Sequential, step: int | None = None) -> None:
        self.layer, self.step = Overflowing(), step
        network.append(self.layer)

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        self.layer.armed = self.step in (None, trainer.global_step)


def fit(gan: Any, steps: int, *callbacks: Any, plugin: Any = None, **settings: Any) -> pl.Trainer:
    plugins = [plugin] if plugin is not None else None
    trainer = tiny_trainer(steps, callbacks=list(callbacks), plugins=plugins, **settings)
    torch.manual_seed(0)
    trainer.fit(gan, points(), ckpt_path=settings.pop("ckpt_path", None))
    return trainer


class Watch(pl.Callback):
    """Weights of each network and loss scales after each game step."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, torch.Tensor], dict[str, float]]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        moved = {name: weights(getattr(pl_module, name)) for name in ("generator", "discriminator")}
        self.seen.append((moved, {name: pl_module.game.loss_scale.of([name]) for name in moved}))


@pytest.mark.parametrize("form", ["exact", "extrapolated"])
def test_an_overflow_skips_that_turn_alone_and_halves_its_scale(form: str) -> None:
    watch = Watch()
    gan = tiny_gan(dtype=torch.float32, game=LEADStrategy(cross=form))
    fit(gan, 4, watch, Overflows(gan.generator, 2), plugin=half(init_scale=1024.0))
    (before, _), (after, scales), (later, _) = watch.seen[1:]
    assert torch.equal(before["generator"], after["generator"])
    assert not torch.equal(before["discriminator"], after["discriminator"])
    assert scales == {"generator": 512.0, "discriminator": 1024.0}
    assert gan.game.skipped == 1
    assert not torch.equal(after["generator"], later["generator"])


def test_in_simultaneous_play_nobody_moves() -> None:
    watch = Watch()
    gan = tiny_gan(dtype=torch.float32, game=LEADStrategy(play="simultaneous"))
    fit(gan, 4, watch, Overflows(gan.generator, 2), plugin=half(init_scale=1024.0))
    (before, _), (after, _) = watch.seen[1:3]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert gan.game.loss_scale.of(["discriminator", "generator"]) == 512.0


def test_the_scale_grows_and_backs_off_as_that_of_torch() -> None:
    settings = {"init_scale": 8.0, "growth_factor": 4.0, "backoff_factor": 0.25, "growth_interval": 3}
    ours, parameter = LossScale.like(GradScaler("cpu", **settings)), torch.nn.Parameter(torch.ones(1))
    theirs, optimizer = GradScaler("cpu", **settings), torch.optim.SGD([parameter], 0.0)
    for overflowed in [False, False, True, False, False, False, True, True, *[False] * 7]:
        theirs.scale(parameter.sum() * (torch.inf if overflowed else 1.0)).backward()
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        ours.update(["x"], overflowed=overflowed)
        assert ours.of(["x"]) == theirs.get_scale()


FORMS = [
    "LEAD(coupling=1.0)",
    "LEAD(coupling=1.0, form='own')",
    "LEAD(coupling=1.0, cross='extrapolated')",
    "LEAD(coupling=1.0, cross='difference')",
]
FORMS += ["AlternatingGDA", "OptimisticAdam", "ExtraAdam", "ConsensusOptimization"]


@pytest.mark.parametrize("game", FORMS)
def test_fifty_steps_are_those_of_float32_as_far_as_fp16_goes(game: str) -> None:
    def trained(plugin: Any) -> torch.Tensor:
        gan = tiny_gan(dtype=torch.float32, game=game)
        fit(gan, 50, plugin=plugin)
        assert gan.game.skipped == 0
        return weights(gan)

    start = weights(tiny_gan(dtype=torch.float32))
    full, mixed = trained(None), trained(half(init_scale=2.0**10))
    coarse = trained(MixedPrecision("bf16-mixed", "cpu"))
    moved = float((full - start).norm())
    assert float((mixed - full).norm()) < 0.003 * moved
    assert float((mixed - full).norm()) < 0.5 * float((coarse - full).norm())


class Faint(NonSaturating):
    """Losses of the size of 1e-6."""

    def generator_loss(self, fake_logits: torch.Tensor) -> torch.Tensor:
        return 1e-6 * super().generator_loss(fake_logits)

    def discriminator_loss(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        return 1e-6 * super().discriminator_loss(real_logits, fake_logits)


def test_underflow_is_what_the_scale_prevents() -> None:
    """Losses of 1e-6 have derivatives below the smallest fp16 number; lifted, they train as in float32."""

    def trained(plugin: Any) -> torch.Tensor:
        sgd = {"optimizer": torch.optim.SGD, "generator_lr": 1e4, "discriminator_lr": 1e4}
        gan = tiny_gan(dtype=torch.float32, game="AlternatingGDA", objective=Faint(), **sgd)
        fit(gan, 5, plugin=plugin)
        return weights(gan)

    start, full = weights(tiny_gan(dtype=torch.float32)), trained(None)
    moved = float((full - start).norm())
    assert moved > 0.01
    assert float((trained(half(init_scale=2.0**14)) - full).norm()) < 0.02 * moved
    assert float((trained(half(init_scale=1.0)) - full).norm()) > 0.2 * moved


def test_a_resumed_run_goes_on_with_the_scale_bit_for_bit(tmp_path: Any) -> None:
    def run(steps: int, ckpt: Any = None) -> Any:
        gan = tiny_gan(dtype=torch.float32, game=LEADStrategy(1.0))
        saver = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename=f"{steps}-{{step}}")
        plugin = half(init_scale=2.0**40, growth_interval=3)  # overflows at first, and grows between
        trainer = tiny_trainer(steps, callbacks=[saver], plugins=[plugin], enable_checkpointing=True)
        torch.manual_seed(0)
        trainer.fit(gan, points(), ckpt_path=ckpt)
        return gan

    whole = run(40)
    run(32)
    resumed = run(40, next(tmp_path.glob("32-step=32.ckpt")))
    assert torch.equal(weights(whole), weights(resumed))
    assert whole.game.loss_scale.state_dict() == resumed.game.loss_scale.state_dict()
    assert whole.game.skipped == resumed.game.skipped > 20
    assert not torch.equal(weights(whole), weights(tiny_gan(dtype=torch.float32)))


def test_a_checkpoint_goes_from_one_precision_to_the_other(tmp_path: Any) -> None:
    for name, first, second in (("down", half(), None), ("up", None, half())):
        saver = ModelCheckpoint(tmp_path, every_n_train_steps=2, filename=name)
        fit(tiny_gan(dtype=torch.float32), 2, saver, plugin=first, enable_checkpointing=True)
        gan = tiny_gan(dtype=torch.float32)
        trainer = tiny_trainer(4, plugins=[second] if second else None, callbacks=[saver], enable_checkpointing=True)
        trainer.fit(gan, points(), ckpt_path=tmp_path / f"{name}.ckpt")
        assert trainer.global_step == 4
        assert (gan.game.loss_scale is not None) == (second is not None)


def test_a_loss_that_is_no_number_ends_the_run_once_the_scale_is_spent() -> None:
    gan = tiny_gan(dtype=torch.float32, game="AlternatingGDA")
    before = weights(gan)
    with pytest.raises(DivergenceError, match=r"in 11 turns of 'discriminator' in a row, at loss scales of 1 and less"):
        fit(gan, 100, Overflows(gan.discriminator), plugin=half(init_scale=16.0))
    assert torch.equal(before, weights(gan))
    assert gan.game.loss_scale.of(["discriminator"]) == 2.0 ** (4 - 15)


def test_the_scaler_of_the_trainer_is_left_as_it_was() -> None:
    plugin = half(init_scale=2.0**40)
    scaler = plugin.scaler
    fit(tiny_gan(dtype=torch.float32), 5, plugin=plugin)
    assert plugin.scaler is scaler
    assert scaler.get_scale() == 2.0**40


def sgd(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, 0.1)


@pytest.mark.parametrize("game", ["LEAD(coupling=1.0)", "LEAD(coupling=1.0, cross='extrapolated')", "AlternatingGDA"])
def test_fp16_weights_train(game: str) -> None:
    """Weights are rounded to 2^-11 in every step; that is all that is lost."""

    class SameLatents(LeadGANModule):
        def sample_latents(self, n: int) -> torch.Tensor:  # torch draws other numbers in fp16
            return torch.randn(n, 3, dtype=torch.float32).to(self.generator[0].weight.dtype)

    def trained(**settings: Any) -> torch.Tensor:
        rates = {"optimizer": sgd, "generator_lr": 0.1, "discriminator_lr": 0.1}
        gan = SameLatents(*tiny_networks(dtype=torch.float32), game=game, **rates)
        torch.manual_seed(0)
        tiny_trainer(20, callbacks=[Lifted(2.0**8)], **settings).fit(gan, points())
        anchors = (gan.game.state or {}).get("anchor", {})
        assert all(t.dtype == torch.float32 for vector in anchors.values() for t in vector)
        return weights(gan).float()

    start, full, half_true = weights(tiny_gan(dtype=torch.float32)), trained(), trained(precision="16-true")
    moved = float((full - start).norm())
    assert moved > 0.1
    assert float((half_true - full).norm()) < 0.02 * moved


@pytest.mark.parametrize(("optimizer", "fits"), [({}, False), ({"eps": 1e-4}, True)])
def test_an_optimizer_that_would_divide_by_zero_in_fp16_is_refused(optimizer: dict[str, float], fits: bool) -> None:
    gan = tiny_gan(
        dtype=torch.float32, optimizer=lambda groups: torch.optim.Adam(groups, betas=(0.5, 0.9), **optimizer)
    )
    trainer = tiny_trainer(10, precision="16-true")
    if fits:
        trainer.fit(gan, points())
        assert torch.isfinite(weights(gan)).all()
        return
    with pytest.raises(ConfigurationError, match=r"Adam\(eps=1e-08\).*'16-mixed'.*eps=0.0001"):
        trainer.fit(gan, points())


def test_a_difference_of_gradients_is_refused_on_fp16_weights() -> None:
    with pytest.raises(ConfigurationError, match="LEAD on fp16 weights.*'16-mixed'"):
        tiny_trainer(1, precision="16-true").fit(tiny_gan(game=LEADStrategy(cross="difference")), points())


@pytest.mark.filterwarnings("ignore:ACGD. gmres left a relative residual")
@pytest.mark.parametrize("scale", [2.0**15.5, 60097.0])
def test_an_overflow_that_a_solver_would_hide_skips_the_turn(scale: float) -> None:
    """Gradients fit at these scales and Hessian products do not; ACGD would take plain steps instead."""

    def moved(scale: float) -> tuple[torch.Tensor, int]:
        gan = tiny_gan(dtype=torch.float32, game="ACGD", optimizer=sgd, generator_lr=0.1, discriminator_lr=0.1)
        start = weights(gan)
        fit(gan, 1, plugin=half(init_scale=scale))
        return weights(gan) - start, gan.game.skipped

    (expected, none), (found, skipped) = moved(2.0**8), moved(scale)
    assert none == 0
    assert skipped == 1 or (found - expected).norm() < 0.02 * expected.norm()
    assert skipped == 0 or not found.any()


def test_a_scale_that_has_fallen_far_comes_back() -> None:
    scale = LossScale(growth_interval=1)
    for _ in range(2000):
        scale.update(["x"], overflowed=True)
    assert 0.0 < scale.of(["x"]) < 1e-6
    for _ in range(200):
        scale.update(["x"], overflowed=False)
    assert scale.of(["x"]) == 2.0**64


def test_a_shorter_interval_after_a_resume_grows_too() -> None:
    before, after = LossScale(init_scale=4.0), LossScale(growth_interval=10)
    for _ in range(50):
        before.update(["x"], overflowed=False)
    after.load_state_dict(before.state_dict())
    after.update(["x"], overflowed=False)
    assert after.of(["x"]) == 8.0


@pytest.mark.parametrize(
    "state",
    [{"x": entry} for entry in ([math.inf, 3], [2.0**200, 1], [1.0, -5], ["a", 1], [0.0, 1], [1.0, 0.5], [1.0], None)]
    + [None],
    ids=str,
)
def test_a_damaged_scale_is_refused(state: Any) -> None:
    with pytest.raises(CheckpointMismatchError, match="loss scale of .*another copy"):
        LossScale().load_state_dict(state)


def test_a_second_fit_counts_its_own_turns() -> None:
    gan = tiny_gan(dtype=torch.float32, game="AlternatingGDA")
    spoilt = Overflows(gan.discriminator)
    with pytest.raises(DivergenceError):
        fit(gan, 100, spoilt, plugin=half(init_scale=16.0))
    before, spoilt.step = gan.game.skipped, 1  # of the second fit, one turn of each player alone
    fit(gan, 4, spoilt, plugin=half(init_scale=2.0**10))
    assert gan.game.skipped == before + 2


def test_a_scaler_that_is_switched_off_is_no_scale() -> None:
    gan = tiny_gan(dtype=torch.float32)
    fit(gan, 2, plugin=half(enabled=False))
    assert gan.game.loss_scale is None


def test_a_plugin_that_reads_its_scaler_in_a_step_finds_one_that_does_nothing() -> None:
    class Reading(MixedPrecision):
        seen: tuple[float, ...] = ()

        def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
            self.seen += (self.scaler.get_scale(),)
            return super().optimizer_step(*args, **kwargs)

    plugin = Reading("16-mixed", "cpu", GradScaler("cpu", init_scale=64.0))
    fit(tiny_gan(dtype=torch.float32), 2, plugin=plugin)
    assert plugin.seen == (1.0,) * 4
    assert plugin.scaler.get_scale() == 64.0
