"""A folder of PNG files: read in order, to the last value, or refused with the file's name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from png16 import write_png16

from lightning_lead import ConfigurationError
from lightning_lead.evaluate import PNGFolder


@pytest.fixture
def colours():
    return np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)


def test_every_value_and_the_order(tmp_path, colours):
    (tmp_path / "b").mkdir()
    for name, image in zip(["z.png", "a.PNG", "b/c.png", "10.png", "9.png"], colours, strict=True):
        Image.fromarray(image).save(tmp_path / name, format="PNG")
    folder = PNGFolder(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in folder.paths] == sorted(
        ["10.png", "9.png", "a.PNG", "b/c.png", "z.png"]
    )
    assert torch.equal(folder[4], torch.from_numpy(colours[0]).permute(2, 0, 1))
    assert folder[0].dtype == torch.uint8


def test_grey_alone_has_one_channel_and_among_colours_three(tmp_path, colours):
    Image.fromarray(colours[0, ..., 0]).save(tmp_path / "a.png")
    assert PNGFolder(tmp_path)[0].shape == (1, 4, 6)
    Image.fromarray(colours[1]).save(tmp_path / "b.png")
    grey = PNGFolder(tmp_path)[0]
    assert torch.equal(grey, torch.from_numpy(colours[0, ..., 0]).expand(3, 4, 6))


def test_palettes_and_opaque_images_are_read(tmp_path, colours):
    Image.fromarray(colours[0] // 64 * 64).quantize(255).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(PNGFolder(tmp_path)[0], expected)
    Image.fromarray(colours[1]).convert("RGBA").save(tmp_path / "b.png")
    assert torch.equal(PNGFolder(tmp_path)[1], torch.from_numpy(colours[1]).permute(2, 0, 1))
    Image.fromarray(colours[2, ..., 0] > 128).save(tmp_path / "c.png")
    assert set(PNGFolder(tmp_path)[2].unique().tolist()) == {0, 255}


def refused(folder, match):
    with pytest.raises(ConfigurationError, match=match):
        PNGFolder(folder)


def test_no_folder_and_nothing_in_it(tmp_path):
    refused(tmp_path / "none", "there is no folder")
    refused(tmp_path, "holds no PNG files.*got 0 PNG files")
    (tmp_path / "notes.txt").write_text("not an image")
    refused(tmp_path, "holds no PNG files")


def test_other_images(tmp_path, colours):
    Image.fromarray(colours[0]).save(tmp_path / "a.jpg")
    refused(tmp_path, r"holds no PNG files; save the samples as PNG.*got 0 PNG files and \.jpg")
    Image.fromarray(colours[0]).save(tmp_path / "b.png")
    refused(tmp_path, r"holds other images as well.*got 1 PNG files and \.jpg")
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "notes.txt").write_text("not an image")
    assert len(PNGFolder(tmp_path)) == 1


def test_several_sizes(tmp_path, colours):
    Image.fromarray(colours[0]).save(tmp_path / "a.png")
    Image.fromarray(colours[0][:3]).save(tmp_path / "b.png")
    refused(tmp_path, r"several sizes.*got 6×4 of a\.png and 6×3 of b\.png")


def test_sixteen_bits(tmp_path):
    Image.fromarray(np.zeros((4, 6), dtype=np.uint16)).save(tmp_path / "deep.png")
    refused(tmp_path, r"deep\.png because it has more than 8 bits")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_of_every_kind_of_colour(tmp_path, channels):
    write_png16(tmp_path / "deep.png", np.full((4, 6, channels), 4095, dtype=np.uint16))
    refused(tmp_path, r"deep\.png because it has more than 8 bits")


def test_transparency(tmp_path, colours):
    image = Image.fromarray(colours[0]).convert("RGBA")
    image.putpixel((0, 0), (1, 2, 3, 128))
    image.save(tmp_path / "clear.png")
    folder = PNGFolder(tmp_path)
    with pytest.raises(ConfigurationError, match=r"clear\.png because it is transparent in places"):
        folder[0]


def test_damaged_files(tmp_path, colours):
    (tmp_path / "a.png").write_bytes(b"not an image")
    refused(tmp_path, r"a\.png because it is no sound PNG")
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    folder = PNGFolder(tmp_path)  # the head is sound
    with pytest.raises(ConfigurationError, match=r"a\.png because it is no sound PNG"):
        folder[0]
