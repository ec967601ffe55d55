"""Samples of a trained generator by a seed, and the command that draws them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from lightning_lead import LeadGANModule
from lightning_lead._errors import ConfigurationError
from lightning_lead.callbacks import save_generator
from lightning_lead.cli import main
from lightning_lead.networks import DCGANDiscriminator, DCGANGenerator, MLPDiscriminator, MLPGenerator
from lightning_lead.pretrained import draw_samples


def images(num_classes: int | None = None) -> DCGANGenerator:
    torch.manual_seed(0)
    return DCGANGenerator(latent_dim=4, width=4, num_classes=num_classes).eval()


def test_a_seed_gives_the_same_samples_whatever_the_batch_size() -> None:
    generator = images()
    drawn = draw_samples(generator, 7, seed=3)
    assert drawn.shape == (7, 1, 8, 8)
    assert not drawn.requires_grad
    torch.testing.assert_close(draw_samples(generator, 7, seed=3, batch_size=2), drawn, rtol=0, atol=1e-6)
    assert (draw_samples(generator, 7, seed=4) - drawn).abs().max() > 0.01


def test_labels_take_turns() -> None:
    generator = images(num_classes=3)
    latents = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    for labels, expected in ((None, [0, 1, 2, 0, 1]), ([2, 0], [2, 0, 2, 0, 2])):
        drawn = draw_samples(generator, 5, labels=labels)
        torch.testing.assert_close(drawn, generator(latents, torch.tensor(expected)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (lambda: images(), {"n": 0}, "n=0|n because it must be an integer ≥ 1"),
        (lambda: images(), {"n": 2, "labels": [1]}, r"takes none; leave them out \(got \[1\]\)"),
        (lambda: images(num_classes=3), {"n": 2, "labels": [3]}, r"pass some in \[0, 3\) \(got \[3\]\)"),
        (lambda: images(num_classes=3), {"n": 2, "labels": []}, r"pass some in \[0, 3\)"),
        (lambda: nn.Linear(3, 2), {"n": 2}, "no integer attribute latent_dim"),
    ],
)
def test_what_cannot_be_drawn(make, settings, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        draw_samples(make(), **settings)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    gan = LeadGANModule(images(num_classes=3), DCGANDiscriminator(width=4, num_classes=3))
    return save_generator(tmp_path / "generator.pt", gan, dtype="float16", global_step=12)


def test_the_command_draws_a_grid(file: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "folder" / "grid.png"
    settings = ["--n", "6", "--labels", "1", "--nrow", "3"]
    assert main(["sample", str(file), "--seed", "2", "--out", str(out), *settings]) == 0
    assert capsys.readouterr().out == f"{out}: 6 samples by the live weights of game step 12\n"
    with Image.open(out) as picture:
        assert picture.size == (3 * 34 + 2, 2 * 34 + 2)  # digits of 8 pixels, four times as large, with a frame
    again, other = tmp_path / "again.png", tmp_path / "other.png"
    for path, seed in ((again, 2), (other, 3)):
        main(["sample", str(file), "--seed", str(seed), "--out", str(path), *settings])
    assert again.read_bytes() == out.read_bytes()
    assert other.read_bytes() != out.read_bytes()


def test_what_the_command_refuses(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no PNG file"):
        main(["sample", str(file), "--out", str(tmp_path / "grid.jpg")])
    with pytest.raises(ConfigurationError, match="holds none; pass ema=False"):
        main(["sample", str(file), "--weights", "ema", "--out", str(tmp_path / "grid.png")])
    of_points = save_generator(tmp_path / "p.pt", LeadGANModule(MLPGenerator(width=4), MLPDiscriminator(width=4)))
    with pytest.raises(ConfigurationError, match="no images"):
        main(["sample", str(of_points), "--out", str(tmp_path / "grid.png")])
    assert not (tmp_path / "grid.png").exists()
