"""Data modules of images: the same batches whoever loads them, and what is refused; CIFAR-10 has 60 images here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from png16 import write_png16
from torch import Tensor, nn

from lightning_lead import ConfigurationError
from lightning_lead.data import CIFAR10DataModule, ImageFolderDataModule, STL10DataModule, cifar10, stl10
from lightning_lead.fetch._store import install

SIZES = {"train": 50, "test": 10}


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTNING_LEAD_HOME", str(tmp_path / "store"))
    return tmp_path / "store"


def write_cifar10(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """A complete store of a few images."""
    rng, arrays, made = np.random.default_rng(0), {}, folder / "made"
    made.mkdir(parents=True)
    for split, size in SIZES.items():
        arrays[f"{split}_images.npy"] = rng.integers(0, 256, (size, 3, 32, 32), dtype=np.uint8)
        arrays[f"{split}_labels.npy"] = np.arange(size) % 10
    for name, array in arrays.items():
        np.save(made / name, array)
    install(made, folder, list(arrays), {"source": "a test"})
    return arrays


@pytest.fixture
def arrays(store: Path) -> dict[str, np.ndarray[Any, Any]]:
    return write_cifar10(store / "cifar10")


def epochs(data: CIFAR10DataModule, count: int = 2) -> list[list[Tensor]]:
    """Batches of the first epochs."""
    loader, batches = data.train_dataloader(), []
    for epoch in range(count):
        loader.order.set_epoch(epoch)
        batches += list(loader)
    return batches


def same(one: list[list[Tensor]], other: list[list[Tensor]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


class FakeTrainer:
    """What a data module asks a trainer for."""

    def __init__(self, rank: int = 0, ranks: int = 1) -> None:
        self.world_size, self.global_rank = ranks, rank
        self.strategy = self
        self.root_device = torch.device("cpu")


AUGMENTED: dict[str, Any] = {"batch_size": 8, "flip": True, "noise": 1 / 128, "seed": 3}


# ---- the same batches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"num_workers": 2}, {"on_device": True}, {"pin_memory": False}], ids=str)
def test_batches_are_the_same_however_they_are_loaded(arrays: Any, settings: dict[str, Any]) -> None:
    plain = epochs(CIFAR10DataModule(**AUGMENTED))
    assert len(plain) == 12
    assert same(epochs(CIFAR10DataModule(**AUGMENTED, **settings)), plain)
    assert not same(epochs(CIFAR10DataModule(**(AUGMENTED | {"seed": 4}), **settings)), plain)  # the control


@pytest.mark.parametrize("settings", [{}, {"num_workers": 2}, {"on_device": True}], ids=str)
def test_loading_goes_on_in_mid_epoch(arrays: Any, settings: dict[str, Any]) -> None:
    whole = epochs(CIFAR10DataModule(**AUGMENTED))
    loader = CIFAR10DataModule(**AUGMENTED, **settings).train_dataloader()
    loader.order.set_epoch(1)
    running = iter(loader)
    for _ in range(2):
        next(running)
    resumed = CIFAR10DataModule(**AUGMENTED, **settings).train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert same(list(resumed), whole[8:])


def test_ranks_together_have_the_batches_of_one(arrays: Any) -> None:
    shares = []
    for rank in (0, 1):
        data = CIFAR10DataModule(**(AUGMENTED | {"batch_size": 4}))
        data.trainer = FakeTrainer(rank, 2)  # type: ignore[assignment]
        shares.append(epochs(data))
    joint = [
        [torch.stack([a, b], 1).flatten(0, 1) for a, b in zip(*pair, strict=True)] for pair in zip(*shares, strict=True)
    ]
    assert same(joint, epochs(CIFAR10DataModule(**AUGMENTED)))


def test_flips_and_noise_differ_from_epoch_to_epoch(arrays: Any) -> None:
    data = CIFAR10DataModule(**(AUGMENTED | {"batch_size": 50}))
    first, second = epochs(data)
    one, two = first[0][first[1].argsort(stable=True)], second[0][second[1].argsort(stable=True)]
    assert not torch.equal(one.flatten().sort().values, two.flatten().sort().values)
    plain = CIFAR10DataModule(batch_size=50)
    first, second = epochs(plain)
    assert torch.equal(first[0].flatten().sort().values, second[0].flatten().sort().values)


def test_the_global_random_state_is_left_alone(arrays: Any) -> None:
    before = torch.get_rng_state()
    epochs(CIFAR10DataModule(**AUGMENTED))
    assert torch.equal(before, torch.get_rng_state())


class Recorder(pl.LightningModule):
    """Writes down its batches; keeps a checkpoint after the eighth."""

    def __init__(self, keep: Path | None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[list[Tensor]] = []
        self.keep = keep

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.seen.append([part.clone() for part in batch])
        optimizer: Any = self.optimizers()
        optimizer.step()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.keep is not None and self.trainer.global_step == 8:
            self.trainer.save_checkpoint(self.keep)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(steps: int, *, keep: Path | None = None, ckpt: Path | None = None, **settings: Any) -> list[list[Tensor]]:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    model = Recorder(keep)
    more: dict[str, Any] = {} if ckpt is None else {"ckpt_path": ckpt, "weights_only": True}
    trainer.fit(model, CIFAR10DataModule(**AUGMENTED, **settings), **more)
    return model.seen


@pytest.mark.parametrize("on_device", [False, True])
def test_a_trainer_resumes_bitwise_and_may_change_where_the_data_are(
    arrays: Any, tmp_path: Path, on_device: bool
) -> None:
    whole = fit(15, keep=tmp_path / "a.ckpt", on_device=on_device)
    assert same(whole[:12], epochs(CIFAR10DataModule(**AUGMENTED)))
    assert same(fit(15, ckpt=tmp_path / "a.ckpt", on_device=not on_device), whole[8:])


# ---- CIFAR-10 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["train", "test"])
def test_the_reference(arrays: Any, reference: str) -> None:
    data = CIFAR10DataModule(reference=reference, flip=True, noise=1 / 128, batch_size=7)
    images, labels = data.reference_images(), data.reference_labels()
    assert images.dtype == torch.uint8
    assert np.array_equal(images.numpy(), arrays[f"{reference}_images.npy"])
    assert np.array_equal(labels.numpy(), arrays[f"{reference}_labels.npy"])
    seen = [torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True)]  # in order, not augmented
    assert torch.equal(((seen[0] + 1) * 127.5).round().to(torch.uint8), images)
    assert torch.equal(seen[1], labels)


def test_the_images_are_mapped_and_the_file_cannot_be_written(arrays: Any, store: Path) -> None:
    images = CIFAR10DataModule().reference_images()
    assert "train_images.npy" in Path("/proc/self/maps").read_text() if Path("/proc/self/maps").exists() else True
    images.zero_()
    assert np.array_equal(np.load(store / "cifar10" / "train_images.npy"), arrays["train_images.npy"])


def test_a_subset_is_the_first_images_of_each_split(arrays: Any) -> None:
    data = CIFAR10DataModule(subset=6, batch_size=3, reference="test")
    assert np.array_equal(data.reference_images().numpy(), arrays["test_images.npy"][:6])
    known = {image.tobytes() for image in arrays["train_images.npy"][:6]}
    for images, _ in data.train_dataloader():
        assert {image.numpy().tobytes() for image in ((images + 1) * 127.5).round().to(torch.uint8)} <= known


def test_what_is_missing_shows_at_construction(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"`lightning-lead fetch cifar10`.*\(got nothing in the store\)"):
        CIFAR10DataModule()
    with pytest.raises(ConfigurationError, match=r"nothing in the store and .*here"):
        CIFAR10DataModule(root=str(tmp_path / "here"))
    late = CIFAR10DataModule(download=True)
    with pytest.raises(ConfigurationError, match="lightning-lead fetch"):
        late.train_dataloader()  # prepare_data has not been called
    other = write_cifar10(tmp_path / "other")
    images = CIFAR10DataModule(folder=str(tmp_path / "other")).reference_images()
    assert np.array_equal(images.numpy(), other["train_images.npy"])


def test_download_fetches_once_per_node_and_only_if_asked(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Any] = []

    def fetch(folder: Any) -> None:
        fetched.append(folder)
        write_cifar10(store / "cifar10")

    monkeypatch.setattr(cifar10, "fetch_cifar10", fetch)
    data = CIFAR10DataModule(download=True, batch_size=8)
    assert data.prepare_data_per_node
    data.prepare_data()
    assert fetched == [None]
    assert len(data.train_dataloader()) == 6
    CIFAR10DataModule().prepare_data()
    assert fetched == [None]


def test_torchvisions_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)

    class Stand_in:
        def __init__(self, root: str, *, train: bool) -> None:
            self.data, self.targets = (pixels, list(range(20))) if train else (pixels[:5], list(range(5)))

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Stand_in)
    (tmp_path / "cifar-10-batches-py").mkdir()
    data = CIFAR10DataModule(root=str(tmp_path), download=True)
    data.prepare_data()  # nothing to fetch
    assert np.array_equal(data.reference_images().numpy(), pixels.transpose(0, 3, 1, 2))
    assert data.reference_labels().tolist() == list(range(20))
    assert len(CIFAR10DataModule(root=str(tmp_path), reference="test").reference_images()) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reference": "val"}, r"reference='train' or 'test' \(got 'val'\)"),
        ({"noise": -0.1}, "noise is a width"),
        ({"noise": float("nan")}, "got nan"),
        ({"subset": 0}, "subset must be an integer ≥ 1"),
        ({"batch_size": 0}, "batch_size"),
        ({"on_device": True, "num_workers": 2}, r"num_workers=0 or on_device=False \(got num_workers=2\)"),
    ],
    ids=str,
)
def test_refused_settings(arrays: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        CIFAR10DataModule(**settings)


# ---- folders of pictures ---------------------------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Two classes of grey-levelled pictures of several shapes and kinds, and things that are no pictures."""
    folder = tmp_path / "album"
    for k, name in enumerate(["cats", "dogs/small", "dogs"]):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20 + k), (10 * k, 100, 200)).save(folder / name / "a.png")
    Image.new("L", (9, 9), 50).save(folder / "cats" / "b.JPG")
    (folder / "cats" / "notes.txt").write_text("no picture")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "c.png").write_text("no picture either")
    return folder


def test_a_folder_of_classes(album: Path) -> None:
    data = ImageFolderDataModule(folder=str(album), image_size=16, batch_size=2)
    assert (data.classes, data.num_classes, data.image_shape) == (("cats", "dogs"), 2, (3, 16, 16))
    images = data.reference_images()
    assert images.shape == (4, 3, 16, 16)
    assert images[:, :, 8, 8].tolist()[0] == [0, 100, 200]
    assert data.reference_labels().tolist() == [0, 0, 1, 1]
    assert len(next(iter(data.train_dataloader()))) == 2


def test_pictures_are_upright_scaled_and_cropped_in_the_middle(tmp_path: Path) -> None:
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, 10:30, 0] = 255  # the middle square is red
    picture[:, 10:20, 1] = 255  # its left half yellow
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture).save(tmp_path / "b.png", exif=turned)
    images = ImageFolderDataModule(folder=str(tmp_path), image_size=10).reference_images()
    assert (images[:, 0, :, 1:-1] >= 253).all()  # at the edges the filter sees what is cropped, and it rings a little
    assert (images[:, 1, 5, [1, 8]] > 128).tolist() == [[True, False], [False, True]]
    grey = ImageFolderDataModule(folder=str(tmp_path), image_size=10, channels=1)
    assert grey.image_shape == grey.reference_images().shape[1:] == (1, 10, 10)


def test_scaling_does_not_alias(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    images = ImageFolderDataModule(folder=str(tmp_path), image_size=8).reference_images()
    assert images.float().mean().item() == pytest.approx(127.5, abs=1.5)
    assert images.float().std().item() < 3


def test_pictures_are_read_once_and_again_if_something_changes(album: Path, store: Path) -> None:
    def made() -> set[str]:
        ImageFolderDataModule(folder=str(album), image_size=8).prepare_data()
        return {folder.name for folder in (store / "images").iterdir()}

    first = made()
    before = [file.stat().st_mtime_ns for file in sorted((store / "images").rglob("*.npy"))]
    assert made() == first
    assert [file.stat().st_mtime_ns for file in sorted((store / "images").rglob("*.npy"))] == before
    Image.new("RGB", (8, 8), (1, 2, 3)).save(album / "dogs" / "new.png")
    assert len(made()) == 2
    assert (
        ImageFolderDataModule(folder=str(album), image_size=8).reference_images()[-2, :, 0, 0]
        == torch.tensor([1, 2, 3])
    ).all()
    assert len(list((store / "images").glob("*/labels.npy"))) == 2


def test_no_classes_where_pictures_lie_beside_the_subfolders(album: Path) -> None:
    Image.new("RGB", (8, 8)).save(album / "top.png")
    data = ImageFolderDataModule(folder=str(album), image_size=8, batch_size=2)
    assert (data.classes, data.num_classes) == ((), None)
    assert [part.shape for part in next(iter(data.train_dataloader()))] == [(2, 3, 8, 8)]
    with pytest.raises(ConfigurationError, match="have none"):
        data.reference_labels()


def test_a_subset_is_spread_over_the_folder(album: Path) -> None:
    data = ImageFolderDataModule(folder=str(album), image_size=8, subset=2, batch_size=2)
    assert data.reference_labels().tolist() == [0, 1]


def test_folders_that_are_refused(album: Path, tmp_path: Path) -> None:
    (album / "dogs" / "bad.png").write_text("no picture")
    data = ImageFolderDataModule(folder=str(album), image_size=8)
    with pytest.raises(ConfigurationError, match=r"Cannot read .*bad.png because"):
        data.prepare_data()
    (album / "dogs" / "bad.png").unlink()
    assert len(ImageFolderDataModule(folder=str(album), image_size=8).reference_images()) == 4  # a retry completes
    with pytest.raises(ConfigurationError, match="no such folder"):
        ImageFolderDataModule(folder=str(tmp_path / "nothing"), image_size=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=r"no picture in it .*\.jpg, .*\(got none\)"):
        ImageFolderDataModule(folder=str(tmp_path / "empty"), image_size=8)
    with pytest.raises(ConfigurationError, match="image_size"):
        ImageFolderDataModule(folder=str(album), image_size=0)
    with pytest.raises(ConfigurationError, match="channels=3 or channels=1"):
        ImageFolderDataModule(folder=str(album), image_size=8, channels=4)


@pytest.mark.parametrize(("mode", "ending"), [("I;16", "png"), ("I", "tiff"), ("F", "tiff")])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_deeper_than_eight_bits_are_refused(tmp_path: Path, mode: str, ending: str, channels: int) -> None:
    kind: Any = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    Image.fromarray(np.full((4, 4), 1000, kind)).save(tmp_path / f"deep.{ending}")
    data = ImageFolderDataModule(folder=str(tmp_path), image_size=4, channels=channels)
    # pillow before 10.3 reads a PNG of 16 bits as mode I
    with pytest.raises(ConfigurationError, match=rf"deep\.{ending} because it has more than 8.*got mode '{mode[0]}"):
        data.prepare_data()


@pytest.mark.parametrize("channels_of_file", [2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_deep_colours_are_refused_which_pillow_reads_as_bytes(
    tmp_path: Path, channels_of_file: int, channels: int
) -> None:
    write_png16(tmp_path / "deep.png", np.full((4, 4, channels_of_file), 4095, np.uint16))
    with pytest.raises(ConfigurationError, match=r"deep\.png because it has more than 8 bits.*;16B'"):
        ImageFolderDataModule(folder=str(tmp_path), image_size=4, channels=channels).prepare_data()


@pytest.mark.parametrize("ending", ["png", "bmp", "ppm", "tiff", "jpg", "webp"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_files_of_eight_bits_are_read(tmp_path: Path, ending: str, mode: str) -> None:
    Image.new(mode, (4, 4), 90 if mode == "L" else (90, 90, 90)).save(tmp_path / f"a.{ending}")
    images = ImageFolderDataModule(folder=str(tmp_path), image_size=4).reference_images()
    assert (images.float() - 90).abs().max() <= 2


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparent_pictures_are_refused_and_opaque_ones_are_read(tmp_path: Path, mode: str) -> None:
    colour: Any = {"LA": (90, 255), "RGBA": (90, 90, 90, 255), "P": 0}[mode]
    picture = Image.new(mode, (4, 4), colour)
    if mode == "P":
        picture.putpalette([90, 90, 90, 10, 20, 30])
        picture.info["transparency"] = 1  # a colour that no pixel has
    picture.save(tmp_path / "a.png")
    data = ImageFolderDataModule(folder=str(tmp_path), image_size=4)
    assert data.reference_images().unique().tolist() == [90]
    picture.putpixel((1, 2), {"LA": (90, 254), "RGBA": (90, 90, 90, 0), "P": 1}[mode])
    picture.save(tmp_path / "a.png", **({"transparency": 1} if mode == "P" else {}))
    with pytest.raises(ConfigurationError, match=r"a\.png because it is transparent in places"):
        ImageFolderDataModule(folder=str(tmp_path), image_size=4).prepare_data()


def test_other_colours_of_eight_bits_are_read(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=100)
    images = ImageFolderDataModule(folder=str(tmp_path), image_size=4).reference_images()
    assert (images[0, :, 0, 0] - torch.tensor([255, 0, 0])).abs().max() <= 3  # JPEG


# ---- STL-10 ----------------------------------------------------------------------------------------------------------


STL10_COUNTS = {"train_X.bin": 3, "unlabeled_X.bin": 2}


def write_stl10(root: Path, left: int = 200) -> None:
    """Five images, whose left half has that value, or half of it."""
    binary = root / "stl10_binary"
    binary.mkdir(exist_ok=True)
    half = np.zeros((5, 3, 96, 96), np.uint8)
    half[:, :, :48] = left  # in the file's order, which is by columns: the left half
    half[:3].tofile(binary / "train_X.bin")
    (half[3:] // 2).tofile(binary / "unlabeled_X.bin")


@pytest.fixture
def tiny_stl10(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stl10, "_COUNTS", STL10_COUNTS)


def test_stl10(tmp_path: Path, tiny_stl10: None) -> None:
    with pytest.raises(ConfigurationError, match=r"download=True.*\(got no train_X.bin and no unlabeled_X.bin\)"):
        STL10DataModule(root=str(tmp_path), part="train+unlabeled")
    with pytest.raises(ConfigurationError, match=r"part must be 'unlabeled' or 'train\+unlabeled' \(got 'test'\)"):
        STL10DataModule(root=str(tmp_path), part="test")
    write_stl10(tmp_path)
    data = STL10DataModule(root=str(tmp_path), batch_size=2, part="train+unlabeled")
    images = data.reference_images()
    assert images.shape == (5, *data.image_shape) == (5, 3, 48, 48)
    assert images[:, 0, 20, 10].tolist() == [200, 200, 200, 100, 100]
    assert images[:, 0, 20, 40].tolist() == [0] * 5
    assert [part.shape for part in next(iter(data.train_dataloader()))] == [(2, 3, 48, 48)]
    assert STL10DataModule(root=str(tmp_path), image_size=32).reference_images().shape == (2, 3, 32, 32)
    unlabeled = STL10DataModule(root=str(tmp_path))
    assert torch.equal(unlabeled.reference_images(), images[3:])
    assert [unlabeled.reference_split(), data.reference_split()] == ["unlabeled", "train+unlabeled"]


def test_stl10_is_the_whole_of_it(tmp_path: Path) -> None:
    write_stl10(tmp_path)
    with pytest.raises(ConfigurationError, match=r"train_X.bin of 82,944 bytes instead of 138,240,000 and unlab"):
        STL10DataModule(root=str(tmp_path), part="train+unlabeled")
    late = STL10DataModule(root=str(tmp_path / "later"), download=True)
    with pytest.raises(ConfigurationError, match="let prepare_data run"):
        late.train_dataloader()


@pytest.mark.parametrize("change", ["pixels", "torchvision"])
def test_stl10_is_made_smaller_once_and_again_if_something_changes(
    tmp_path: Path, store: Path, tiny_stl10: None, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    def corner() -> int:
        data = STL10DataModule(root=str(tmp_path), part="train+unlabeled")
        data.prepare_data()
        return int(data.reference_images()[0, 0, 20, 10])

    write_stl10(tmp_path)
    assert corner() == 200
    with monkeypatch.context() as patched:
        patched.setattr(STL10DataModule, "_chunks", None)
        assert corner() == 200  # nothing is read again
    if change == "pixels":
        before = (tmp_path / "stl10_binary" / "train_X.bin").stat().st_mtime_ns
        write_stl10(tmp_path, left=90)  # of the same size
        os.utime(tmp_path / "stl10_binary" / "train_X.bin", ns=(before + 10**9, before + 10**9))
    else:
        monkeypatch.setattr(stl10, "version", lambda name: "0.0.1")
    assert corner() == (90 if change == "pixels" else 200)
    assert len(list((store / "images").glob("*/images.npy"))) == 2


def test_stl10_is_fetched_if_it_is_not_whole_and_never_put_together_in_memory(
    tmp_path: Path, tiny_stl10: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import STL10

    fetched: list[Any] = []

    def fetch(url: str, root: str, **settings: Any) -> None:
        fetched.append((url, settings))
        write_stl10(tmp_path)

    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("all of it was read into memory")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    monkeypatch.setattr(STL10, "__init__", read)

    def run() -> int:
        data = STL10DataModule(root=str(tmp_path), download=True)
        data.prepare_data()
        assert data.reference_images().shape[0] == 2
        return len(fetched)

    assert run() == 1
    assert fetched == [(STL10.url, {"filename": STL10.filename, "md5": STL10.tgz_md5})]
    assert run() == 1
    whole = tmp_path / "stl10_binary" / "unlabeled_X.bin"
    whole.write_bytes(whole.read_bytes()[:-1])  # a killed process left half of it
    assert run() == 2


def test_linked_classes_and_pictures_are_read_and_loops_are_refused(tmp_path, caplog):
    for name in ("there/cats", "there/dogs", "data/birds"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name / "1.PNG")
    data = tmp_path / "data"
    (data / "cats").symlink_to(tmp_path / "there" / "cats")
    (data / "dogs").symlink_to(tmp_path / "there" / "dogs")
    (data / "birds" / "2.png").symlink_to(tmp_path / "there" / "dogs" / "1.PNG")
    (data / "birds" / "._1.png").write_text("of another system")
    with caplog.at_level("INFO"):
        module = ImageFolderDataModule(folder=str(data), image_size=4)
    assert module.classes == ("birds", "cats", "dogs")
    assert len(module._files) == 4
    assert "1 hidden pictures" in caplog.text
    (data / "cats" / "back").symlink_to(tmp_path)
    with pytest.raises(ConfigurationError, match="a link to a folder in which it lies itself"):
        ImageFolderDataModule(folder=str(data), image_size=4)
    (data / "cats" / "back").unlink()
    (data / "dogs" / "3.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ConfigurationError, match="3.png because it is a link that leads nowhere"):
        ImageFolderDataModule(folder=str(data), image_size=4)


@pytest.mark.parametrize("head", [b"P6\n2 2\n65535\n", b"P6\n2 2\n1023\n", b"P5\n2 2\n65535\n"])
def test_portable_pixmaps_of_more_than_8_bits_are_refused(head, tmp_path):
    (tmp_path / "a.ppm").write_bytes(head + bytes(24))
    data = ImageFolderDataModule(folder=str(tmp_path), image_size=2, cache=str(tmp_path / "cache"))
    with pytest.raises(ConfigurationError, match="more than 8 bits a channel"):
        data.load("train")


def test_a_portable_pixmap_of_8_bits_is_read(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6\n2 2\n255\n" + bytes(range(12)))
    data = ImageFolderDataModule(folder=str(tmp_path), image_size=2, cache=str(tmp_path / "cache"))
    assert data.load("train")[0].permute(0, 2, 3, 1).flatten().tolist() == list(range(12))
