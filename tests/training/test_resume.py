"""A run that was stopped and resumed is the uninterrupted run, bit for bit."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from tiny import tiny_gan, tiny_points, tiny_trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_lead import CheckpointMismatchError, GameStrategy, LEADStrategy
from lightning_lead.rules import GradientPlay

STEPS = 6


class Sequential(DataLoader):
    """The points in order, from where it was stopped; the interface of a resumable loader."""

    handed_out = 0
    begin = 0

    def __iter__(self):
        batches = tiny_points().split(16)
        begin, self.begin = self.begin, 0
        self.handed_out = begin
        for batch in batches[begin:]:
            self.handed_out += 1
            yield (batch,)

    def state_dict(self):
        return {"batches": self.handed_out}

    def load_state_dict(self, state):
        self.begin = state["batches"] % len(self)


def loader():
    return Sequential(TensorDataset(tiny_points()), 16)


def model(**settings):
    gan = tiny_gan(batch_norm=True, **({"game": LEADStrategy(1.0), "discriminator_steps": 2} | settings))
    gan.discriminator.insert(2, nn.Dropout(0.3))
    return gan


def everything(gan, trainer):
    state = gan.game.state_dict()["state"]
    optimizer = trainer.optimizers[0].state_dict()["state"]
    return [
        *gan.state_dict().values(),
        *(t for v in state["anchor"].values() for t in v),
        *(t for entry in optimizer.values() for t in entry.values()),
    ]


def fit(folder, steps, *, gan=None, ckpt=None, seed=1, prefix=""):
    gan = gan or model()
    saver = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename=prefix + "{step}")
    trainer = tiny_trainer(steps, callbacks=[saver], enable_checkpointing=True)
    torch.manual_seed(seed)
    trainer.fit(gan, loader(), ckpt_path=ckpt)
    return gan, trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    gan, trainer = fit(folder, 9)
    return folder, everything(gan, trainer)


@pytest.mark.parametrize(
    "settings",
    [
        {"game": LEADStrategy(cross="difference")},
        {"game": LEADStrategy(play="simultaneous"), "discriminator_steps": 1},
        {"scheduler": lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.1, 9)},
        {"clip": 0.1, "accumulate": 2},
        {"game": LEADStrategy(cross="extrapolated")},
        {"game": LEADStrategy(cross="extrapolated", play="simultaneous"), "discriminator_steps": 1, "accumulate": 2},
    ],
    ids=["difference", "simultaneous", "scheduler", "clip", "extrapolated", "extrapolated, simultaneous"],
)
def test_every_kind_of_game_resumes(settings, tmp_path):
    gan, trainer = fit(tmp_path, 5, gan=model(**settings))
    expected = everything(gan, trainer)
    again, trainer = fit(tmp_path, 5, gan=model(**settings), ckpt=tmp_path / "step=2.ckpt", prefix="again-", seed=77)
    assert all(torch.equal(a, b) for a, b in zip(everything(again, trainer), expected, strict=True))
    assert trainer.optimizers[0].param_groups[0]["lr"] < 0.01 or "scheduler" not in settings


@pytest.mark.parametrize("cross", ["exact", "difference", "extrapolated", "auto"])
def test_a_checkpoint_of_an_earlier_version_s_exact_form_goes_on_in_every_form(cross, whole):
    """Of the version that knew alpha alone: the rule's state is the same, and its settings are those of the run."""
    folder = whole[0]
    checkpoint = torch.load(folder / "step=3.ckpt", weights_only=True)
    game = checkpoint["lightning_lead"]
    assert game["game"]["state"].keys() == {"anchor", "moved"}
    game["description"] = "LEAD(alpha=1.0, cross='exact', form='opponent', cross_fraction=1.0), alternating play"
    torch.save(checkpoint, folder / f"old-{cross}.ckpt")
    gan = model(game=LEADStrategy(1.0, cross=cross))
    _, trainer = fit(folder, 5, gan=gan, ckpt=folder / f"old-{cross}.ckpt", prefix=f"{cross}-", seed=77)
    assert trainer.global_step == 5
    exact = torch.load(folder / "step=5.ckpt", weights_only=True)["state_dict"]
    off = max(float((value - exact[name]).abs().max()) for name, value in gan.state_dict().items())
    assert off == 0 if cross == "exact" else 0 < off < 0.05  # two steps of Adam


@pytest.mark.parametrize("stop", range(1, 9))
def test_resumed_after_any_game_step_it_is_bitwise_the_same(whole, stop):
    folder, expected = whole
    gan, trainer = fit(folder, 9, prefix=f"from{stop}-", ckpt=folder / f"step={stop}.ckpt", seed=77)
    assert trainer.global_step == 9
    got = everything(gan, trainer)
    assert len(got) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_another_seed_is_another_run(whole, tmp_path):
    gan, trainer = fit(tmp_path, 9, seed=2)
    assert not all(torch.equal(a, b) for a, b in zip(everything(gan, trainer), whole[1], strict=True))


def test_the_checkpoint_loads_with_weights_only(whole):
    checkpoint = torch.load(whole[0] / "step=3.ckpt", weights_only=True)
    assert checkpoint["lightning_lead"]["game"]["rule"] == "LEAD"
    assert checkpoint["global_step"] == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"game": GameStrategy(GradientPlay())}, "rule 'LEAD'"),
        ({"game": LEADStrategy(play="simultaneous"), "discriminator_steps": 1}, "play 'alternating'"),
    ],
)
def test_a_checkpoint_of_another_game_is_refused(whole, tmp_path, settings, message):
    with pytest.raises(CheckpointMismatchError, match=message):
        fit(tmp_path, 9, gan=model(**settings), ckpt=whole[0] / "step=3.ckpt")


def test_a_checkpoint_of_another_network_is_refused(whole, tmp_path):
    other = model()
    other.generator[0] = nn.Linear(3, 7).double()
    with pytest.raises(CheckpointMismatchError, match="generator.0.bias has shape \\[6\\]"):
        fit(tmp_path, 9, gan=other, ckpt=whole[0] / "step=3.ckpt")


def test_a_checkpoint_of_a_later_layout_is_refused(whole, tmp_path):
    checkpoint = torch.load(whole[0] / "step=3.ckpt", weights_only=True)
    checkpoint["lightning_lead"]["version"] += 2
    torch.save(checkpoint, tmp_path / "later.ckpt")
    with pytest.raises(CheckpointMismatchError, match="got layout 3, know up to 2"):
        fit(tmp_path, 9, gan=model(), ckpt=tmp_path / "later.ckpt")


def test_a_checkpoint_without_a_game_is_refused_in_a_fit_and_serves_elsewhere(whole, tmp_path):
    checkpoint = torch.load(whole[0] / "step=3.ckpt", weights_only=True)
    del checkpoint["lightning_lead"]
    torch.save(checkpoint, tmp_path / "plain.ckpt")
    with pytest.raises(CheckpointMismatchError, match="holds no game"):
        fit(tmp_path, 9, gan=model(), ckpt=tmp_path / "plain.ckpt")
    gan = model()
    with pytest.warns(UserWarning, match="callbacks used to create"):
        tiny_trainer(1).validate(gan, loader(), ckpt_path=tmp_path / "plain.ckpt", verbose=False)
    assert torch.equal(gan.generator[0].weight, checkpoint["state_dict"]["generator.0.weight"])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda anchor: anchor.__setitem__("generator", anchor["generator"][:-1]),
        lambda anchor: anchor.__setitem__("generator", [t.flatten()[:1] for t in anchor["generator"]]),
        lambda anchor: anchor.__setitem__("discriminator", [t.long() for t in anchor["discriminator"]]),
    ],
    ids=["count", "shape", "integers"],
)
def test_a_memory_that_does_not_fit_is_refused(spoil, whole, tmp_path):
    checkpoint = torch.load(whole[0] / "step=3.ckpt", weights_only=True)
    spoil(checkpoint["lightning_lead"]["game"]["state"]["anchor"])
    torch.save(checkpoint, tmp_path / "spoilt.ckpt")
    with pytest.raises(CheckpointMismatchError, match="the rule's memory of"):
        fit(whole[0], 9, gan=model(), ckpt=tmp_path / "spoilt.ckpt", prefix="spoilt-")
