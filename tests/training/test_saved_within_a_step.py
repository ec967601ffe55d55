"""A checkpoint that is saved at any moment of a fit, as by an exception: the resumed run is the uninterrupted one."""

from __future__ import annotations

import pytest
import torch
from bitwise import differing
from pairs import some
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint, OnExceptionCheckpoint
from tiny import tiny_gan, tiny_loader, tiny_networks, tiny_points, tiny_trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_lead import CheckpointMismatchError, GeneratorEMA, LeadGANModule, LEADStrategy
from lightning_lead.data import ResumableDataLoader

STEPS = 7  # of 3 batches an epoch
POINTS = TensorDataset(tiny_points(48))

GAMES = {
    "exact": lambda: {"game": LEADStrategy(1.0), "discriminator_steps": 2},
    "difference": lambda: {"game": LEADStrategy(1.0, cross="difference"), "accumulate": 2},
    "extrapolated": lambda: {"game": LEADStrategy(1.0, cross="extrapolated"), "discriminator_steps": 2, "clip": 0.5},
    "simultaneous": lambda: {"game": LEADStrategy(1.0, play="simultaneous")},
    "LookaheadMinmax": lambda: {"game": "LookaheadMinmax(steps=2)", "discriminator_warmup": 2},
    "ExtraAdam": lambda: {"game": "ExtraAdam"},
    "two optimizers": lambda: {"game": LEADStrategy(1.0)},
    "epochs": lambda: {"game": LEADStrategy(1.0, cross="extrapolated")},
    "shared": lambda: {"game": LEADStrategy(1.0, cross="difference"), "shared_latents": True},
}


class Clock(Callback):
    """Calls `strike` with the name of each event of a fit, inside of hooks, losses and optimizers."""

    def __init__(self, strike):
        self.strike, self.handles = strike, []

    def on_train_start(self, trainer, gan):
        for where, network in (("G", gan.generator), ("D", gan.discriminator)):
            self.handles.append(network[-1].register_forward_hook(lambda *_, w=where: self.tick(trainer, f"in {w}")))
        for optimizer in trainer.optimizers:
            optimizer.register_step_pre_hook(lambda *_: self.tick(trainer, "before an optimizer's step"))
            optimizer.register_step_post_hook(lambda *_: self.tick(trainer, "after an optimizer's step"))
        gan.on_before_player_step = lambda player: self.tick(trainer, "on_before_player_step")
        gan.on_game_step_end = lambda batch: self.tick(trainer, "on_game_step_end")

    def tick(self, trainer, name):
        if trainer.state.stage == "train":
            self.strike(trainer, name)

    def on_train_batch_start(self, trainer, *_):
        self.tick(trainer, "on_train_batch_start")

    def on_before_optimizer_step(self, trainer, *_):
        self.tick(trainer, "on_before_optimizer_step")

    def on_train_batch_end(self, trainer, *_):
        self.tick(trainer, "on_train_batch_end")

    def on_train_epoch_start(self, trainer, *_):
        self.tick(trainer, "on_train_epoch_start")

    def on_train_epoch_end(self, trainer, *_):
        self.tick(trainer, "on_train_epoch_end")

    def on_train_end(self, *_):
        for handle in self.handles:
            handle.remove()


def model(kind):
    torch.manual_seed(2)
    gan = tiny_gan(batch_norm=True, scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9), **GAMES[kind]())
    gan.discriminator.insert(2, nn.Dropout(0.3))
    gan.discriminator[0] = nn.utils.parametrizations.spectral_norm(gan.discriminator[0])
    if kind == "epochs":
        gan._scheduler = None
        adam = torch.optim.Adam(gan.parameters(), 0.01)
        gan.configure_optimizers = lambda: ([adam], [torch.optim.lr_scheduler.StepLR(adam, 1, 0.5)])
    if kind == "two optimizers":
        gan._scheduler = None
        gan.configure_optimizers = lambda: [torch.optim.Adam(p, 0.01) for p in map(list, gan.players().values())]
    return gan


class InOrder(DataLoader):
    """A loader of somebody else, with the interface of one that resumes."""

    taken = begin = 0

    def __iter__(self):
        self.taken, self.begin = self.begin, 0
        for (batch,) in list(super().__iter__())[self.taken :]:
            self.taken += 1
            yield (batch,)

    def state_dict(self):
        return {"taken": self.taken}

    def load_state_dict(self, state):
        self.begin = state["taken"] % len(self)


def fit(gan, *callbacks, ckpt=None, seed=1, loader=None):
    ema = GeneratorEMA(halflife_images=50)
    trainer = tiny_trainer(
        STEPS, callbacks=[*callbacks, ema], enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks)
    )
    torch.manual_seed(seed)
    trainer.fit(gan, loader or ResumableDataLoader(POINTS, 16, seed=3), ckpt_path=ckpt)
    return end_of(gan, trainer, ema)


def end_of(gan, trainer, ema):
    assert trainer.global_step == STEPS
    return {
        "weights": gan.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [vars(config.scheduler)["_last_lr"] for config in trainer.lr_scheduler_configs],
        "game": gan.game.state_dict(),
        "turns": dict(gan._turns_played),
        "average": ema.state_dict(),
        "epoch": trainer.current_epoch,
        "batches": trainer.fit_loop.epoch_loop.batch_progress.current.ready,
        "total": trainer.fit_loop.epoch_loop.batch_progress.total.ready,
    }


@pytest.mark.parametrize("kind", GAMES)
def test_saved_at_any_moment_it_is_resumed_bit_for_bit(kind, tmp_path):
    events = []

    def save(trainer, name):
        if trainer.global_step in (2, 3):  # the last of an epoch and the first of the next
            trainer.save_checkpoint(tmp_path / f"{len(events)}.ckpt", weights_only=False)
            events.append(name)

    expected = fit(model(kind))
    assert not differing(fit(model(kind), Clock(save)), expected)  # a save changes nothing
    assert {"in D", "on_game_step_end", "on_before_optimizer_step", "on_train_epoch_end"} <= set(events)
    torn = 0
    for number, name in some(list(enumerate(events)), 5):
        file = tmp_path / f"{number}.ckpt"
        if torch.load(file, weights_only=True)["lightning_lead"].get("torn"):
            torn += 1
            assert name == "after an optimizer's step" or kind in ("ExtraAdam", "shared", "two optimizers"), name
            with pytest.raises(CheckpointMismatchError, match="saved in game step [34], when some of"):
                fit(model(kind), ckpt=file)
        else:
            assert not differing(fit(model(kind), ckpt=file, seed=77), expected), (number, name)
    assert torn < len(events) // 2


class Stop(Exception):
    pass


@pytest.mark.parametrize("make", [lambda: ResumableDataLoader(POINTS, 16, num_workers=2), lambda: InOrder(POINTS, 16)])
@pytest.mark.parametrize("saver", [OnExceptionCheckpoint, None])
@pytest.mark.filterwarnings("ignore:.*(The last model of|no last checkpoint|callbacks used to create)")
def test_the_checkpoint_of_an_exception_in_the_last_turn_goes_on_with_that_turn(make, saver, tmp_path):
    expected = fit(model("extrapolated"), loader=make())
    turns = []

    def stop(trainer, name):
        turns.append(name)
        if trainer.global_step == 4 and turns[-3:] == ["on_before_optimizer_step", "after an optimizer's step", "in G"]:
            raise Stop  # in the forward of the second turn

    saver = (
        OnExceptionCheckpoint(tmp_path) if saver else ModelCheckpoint(tmp_path, "on_exception", save_on_exception=True)
    )
    saver.teardown = lambda *_: None
    with pytest.raises(Stop):
        fit(model("extrapolated"), Clock(stop), saver, loader=make())
    file = tmp_path / "on_exception.ckpt"
    saved = torch.load(file, weights_only=True)
    assert saved["global_step"] == 4
    assert saved["lightning_lead"]["turns_made"] == 1
    assert not differing(fit(model("extrapolated"), ckpt=file, seed=77, loader=make()), expected)


def test_an_earlier_version_refuses_a_step_that_it_would_begin_anew(tmp_path):
    """It knows layouts up to 1."""
    layouts = {}

    def save(trainer, name):
        trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
        game = torch.load(tmp_path / "a.ckpt", weights_only=True)["lightning_lead"]
        layouts.setdefault(game.get("turns_made", 0) or game.get("torn", False), set()).add(game["version"])

    fit(model("extrapolated"), Clock(save))
    assert layouts == {0: {1}, 1: {2}, 2: {2}}


class Poison(Callback):
    """Batches that are not finite, of some steps."""

    def __init__(self, *steps):
        self.steps = steps

    def on_train_batch_start(self, trainer, gan, batch, index):
        if trainer.global_step in self.steps:
            batch[0].mul_(float("nan"))


class SaveEach(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, *_):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt", weights_only=False)


@pytest.mark.parametrize("kind", some(GAMES, 4))
def test_a_resume_that_begins_with_a_skipped_step_is_the_uninterrupted_run(kind, tmp_path):
    """What the first look finds on samples that are not finite is nothing: the run goes on by what it had found."""
    for steps in ((4, 5), (0, 1, 3)):
        expected = fit(model(kind), Poison(*steps), SaveEach(tmp_path))
        assert expected["game"]["skipped"]
        for step in (2, 4, 5):
            found = fit(model(kind), Poison(*steps), ckpt=tmp_path / f"{step}.ckpt", seed=77)
            assert not differing(found, expected), (steps, step)


class Late(nn.Module):
    """Passes samples on one by one; from a forward on, or until then, it centres them."""

    def __init__(self, since, until):
        super().__init__()
        self.since, self.until = since, until
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            self.calls += 1
        return x - x.mean(0) if self.since < int(self.calls) <= self.until else x


@pytest.mark.parametrize(("since", "until"), [(9, 1000), (0, 9)], ids=["begins", "ends"])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_a_discriminator_that_has_changed_is_differentiated_the_same_way_after_a_resume(
    since, until, activation, tmp_path
):
    def changing():
        gan = model("exact")
        gan.discriminator = nn.Sequential(nn.Linear(2, 6), Late(since, until), activation(), nn.Linear(6, 1)).double()
        return gan

    expected = fit(changing(), SaveEach(tmp_path))
    for step in range(1, STEPS):
        assert not differing(fit(changing(), ckpt=tmp_path / f"{step}.ckpt", seed=77), expected), step


class Banks(LeadGANModule):
    """Keeps features in buffers that grow, vanish, and change their type."""

    def __init__(self, *networks, **settings):
        super().__init__(*networks, **settings)
        self.register_buffer("bank", torch.zeros(1, 2, dtype=torch.float64))
        self.register_buffer("other", torch.zeros(2))

    def on_game_step_end(self, batch):
        self.bank = torch.cat([self.bank, batch[0][:2]])
        self.other = None if self.global_step == 2 else torch.ones(self.global_step, dtype=torch.float64)


def test_buffers_may_grow_and_vanish():
    module = Banks(*tiny_networks(), game=LEADStrategy(cross="extrapolated"))
    tiny_trainer(4).fit(module, tiny_loader(24))
    assert len(module.bank) == 9
    assert module.other.shape == (4,)
