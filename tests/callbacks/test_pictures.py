"""SampleGrid and ImageWriter: the same latents, files where they belong, loggers that take images."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader

from lightning_lead import ConfigurationError
from lightning_lead.callbacks import GeneratorEMA, ImageWriter, SampleGrid, generate, to_uint8


def fit(kit, folder, *callbacks, steps=6, model=None, data=None, **settings):
    trainer = kit.trainer(folder, steps, callbacks=list(callbacks), **settings)
    torch.manual_seed(1)
    trainer.fit(model or kit.gan(), **(data or {"train_dataloaders": kit.loader()}))
    return trainer


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def pixels(path):
    return torch.from_numpy(np.array(Image.open(path)))


def tile(picture, row, column, side=32):
    """The image at a place of a grid, without enlargement."""
    top, left = 2 + row * (side + 2), 2 + column * (side + 2)
    return picture[top : top + side : 8, left : left + side : 8, 0]


def test_files_at_steps_and_at_the_end(kit, tmp_path):
    fit(kit, tmp_path, SampleGrid(every_n_steps=2, num_samples=4), steps=5)
    assert names(tmp_path / "samples") == ["sample_00000002.png", "sample_00000004.png", "sample_00000005.png"]


def test_files_at_validations(kit, tmp_path):
    data = {"train_dataloaders": kit.loader(), "val_dataloaders": kit.loader(10)}
    fit(kit, tmp_path, SampleGrid(num_samples=4, dirpath=tmp_path / "here"), data=data, val_check_interval=3)
    assert names(tmp_path / "here") == ["sample_00000003.png", "sample_00000006.png"]


def test_fast_dev_run_leaves_no_file(kit, tmp_path):
    fit(kit, tmp_path, SampleGrid(every_n_steps=1), fast_dev_run=2)
    assert names(tmp_path) == []


def test_the_picture_is_that_of_the_fixed_latents(kit, tmp_path):
    model = kit.gan()
    fit(kit, tmp_path, SampleGrid(num_samples=6, nrow=3), model=model, steps=2)
    picture = pixels(tmp_path / "samples" / "sample_00000002.png")
    assert picture.shape == (2 + 2 * 34, 2 + 3 * 34, 3)
    expected = to_uint8(next(generate(model, 6, seed=0, batch_size=6)))
    for i in range(6):
        assert torch.equal(tile(picture, i // 3, i % 3), expected[i, 0])


def test_the_latents_are_the_same_in_every_run_and_training_is_not_disturbed(kit, tmp_path):
    plain, watched = kit.gan(), kit.gan()
    fit(kit, tmp_path, model=plain)
    fit(kit, tmp_path, SampleGrid(every_n_steps=1, num_samples=4), model=watched)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    first = pixels(tmp_path / "samples" / "sample_00000006.png")
    torch.rand(5)
    fit(kit, tmp_path / "again", SampleGrid(every_n_steps=6, num_samples=4))
    assert torch.equal(first, pixels(tmp_path / "again" / "samples" / "sample_00000006.png"))
    fit(kit, tmp_path / "other", SampleGrid(every_n_steps=6, num_samples=4, seed=1))
    assert not torch.equal(first, pixels(tmp_path / "other" / "samples" / "sample_00000006.png"))


def test_the_average_is_drawn(kit, tmp_path):
    model, ema = kit.gan(), GeneratorEMA(halflife_images=500, rampup=None)
    fit(kit, tmp_path, SampleGrid(every_n_steps=6, num_samples=4), ema, model=model)
    picture = pixels(tmp_path / "samples" / "sample_00000006.png")
    averaged, live = (to_uint8(next(generate(model, 4, seed=0, batch_size=4, ema=e))) for e in (ema, None))
    assert torch.equal(tile(picture, 0, 0), averaged[0, 0])
    assert not torch.equal(averaged, live)


def test_loggers_that_take_images(kit, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    got = []

    class Takes(CSVLogger):
        def log_image(self, key, images, step):
            got.append((key, [image.size for image in images], step))

    board, takes = TensorBoardLogger(tmp_path, "tb"), Takes(tmp_path, "takes")
    fit(
        kit,
        tmp_path,
        SampleGrid(every_n_steps=2, num_samples=4, nrow=2),
        logger=[board, takes, CSVLogger(tmp_path)],
        steps=4,
    )
    assert got == [("samples", [(70, 70)], 2), ("samples", [(70, 70)], 4)]
    events = EventAccumulator(board.log_dir, size_guidance={"images": 0})
    events.Reload()
    assert [event.step for event in events.Images("samples")] == [2, 4]
    assert names(tmp_path / "tb" / "version_0" / "samples") == ["sample_00000002.png", "sample_00000004.png"]


def test_a_diverged_generator_still_has_a_picture(kit, tmp_path):
    model = kit.gan()
    nn.init.constant_(model.generator.last.bias, float("nan"))
    (tmp_path / "a").mkdir()
    trainer = kit.trainer(tmp_path / "a", callbacks=[SampleGrid(num_samples=4)])
    trainer.validate(model, kit.loader(10), verbose=False)
    assert pixels(tmp_path / "a" / "samples" / "sample_00000000.png").max() == 0


class Points(nn.Linear):
    latent_dim = 4

    def __init__(self):
        super().__init__(4, 2)


def points_model(kit):
    model = kit.gan(Points())
    model.discriminator = nn.Linear(2, 1)
    return model


def test_points_are_a_scatter_plot(kit, tmp_path):
    pytest.importorskip("matplotlib")
    data = {"train_dataloaders": DataLoader(torch.randn(20, 2), 10)}
    fit(kit, tmp_path, SampleGrid(every_n_steps=2), model=points_model(kit), data=data, steps=2)
    picture = pixels(tmp_path / "samples" / "sample_00000002.png")
    assert picture.shape == (480, 480, 3)
    assert picture.float().std() > 1


def test_points_without_matplotlib(kit, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigurationError, match=r"matplotlib is not installed.*lightning-lead\[plots\]"):
        SampleGrid().on_train_start(None, points_model(kit))


def test_samples_that_cannot_be_drawn(kit):
    model = kit.gan()
    model.forward = lambda latents: torch.zeros(len(latents), 2, 4, 4)
    with pytest.raises(ConfigurationError, match=r"neither images.*got \(2, 2, 4, 4\)"):
        SampleGrid().on_train_start(None, model)


@pytest.mark.parametrize("settings", [{"every_n_steps": 0}, {"num_samples": 0}, {"nrow": 0}, {"value_range": (1, 1)}])
def test_grid_settings(settings):
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        SampleGrid(**settings)


def test_writer(kit, tmp_path):
    trainer = kit.trainer(tmp_path, callbacks=[ImageWriter(tmp_path / "out")])
    model = kit.gan(kind=kit.Predicts)
    predictions = trainer.predict(model, DataLoader(range(5), 3))
    expected = [f"image_{i:08d}.png" for i in range(5)]
    assert names(tmp_path / "out") == ["grid_00000000.png", "grid_00000003.png", *expected]
    joint = to_uint8(torch.cat(predictions))
    for i, name in enumerate(expected):
        assert torch.equal(pixels(tmp_path / "out" / name), joint[i, 0])


def test_writer_without_grids_and_with_several_loaders(kit, tmp_path):
    trainer = kit.trainer(tmp_path, callbacks=[ImageWriter(tmp_path / "out", grid=False)])

    class Several(kit.Predicts):
        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            return super().predict_step(batch, batch_idx)

    trainer.predict(kit.gan(kind=Several), [DataLoader(range(2), 2), DataLoader(range(1), 1)])
    assert names(tmp_path / "out") == ["dataloader_1", "image_00000000.png", "image_00000001.png"]
    assert names(tmp_path / "out" / "dataloader_1") == ["image_00000000.png"]


def test_writer_refuses_what_is_no_image(kit, tmp_path):
    class Scalar(kit.Predicts):
        def predict_step(self, batch, batch_idx):
            return torch.zeros(len(batch))

    trainer = kit.trainer(tmp_path, callbacks=[ImageWriter(tmp_path)])
    with pytest.raises(ConfigurationError, match=r"no batch of images.*got \(3,\)"):
        trainer.predict(kit.gan(kind=Scalar), DataLoader(range(3), 3))
