"""A generator's file is all that is needed for the network with its weights."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_loader, tiny_networks, tiny_trainer
from torch import Tensor, nn

from lightning_lead import CompactCheckpointIO, GeneratorEMA, LeadGANModule, load_generator
from lightning_lead._errors import CheckpointMismatchError, ConfigurationError
from lightning_lead.callbacks import save_generator
from lightning_lead.gan._sampling import averaged_weights
from lightning_lead.networks import ConfiguredModule, MLPDiscriminator, MLPGenerator

Z = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))


class Points(ConfiguredModule):
    """A network of the user's own, with a shared weight, a buffer, and a network inside."""

    latent_dim = 3

    def __init__(self, width: int, *, inner: nn.Module, scale: tuple[float, ...] = (1.0, 2.0), **others: Any) -> None:
        super().__init__()
        self.first, self.inner, self.others = nn.Linear(3, width), inner, others
        self.norm = nn.BatchNorm1d(width)
        self.again = self.first
        self.scale = scale

    def forward(self, latents: Tensor) -> Tensor:
        hidden: Tensor = self.inner(self.norm(torch.tanh(self.again(latents))))
        return hidden * torch.tensor(self.scale)


def points(width: int = 4) -> Points:
    torch.manual_seed(0)
    return Points(width, inner=Points2(width), scale=(1.0, 0.5), note="kept")


class Points2(ConfiguredModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 2)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.layer(hidden)
        return out


def trained(generator: nn.Module, path: Path, *, ema: bool = True, plugins: Any = None) -> tuple[Any, Any]:
    """Three game steps, and a checkpoint."""
    average = GeneratorEMA(halflife_images=40, rampup=None)
    gan = LeadGANModule(generator, MLPDiscriminator(width=4), game="AlternatingGDA", generator_lr=0.1)
    trainer = tiny_trainer(3, callbacks=[average] if ema else [], plugins=plugins)
    data = torch.utils.data.TensorDataset(*[tensor.float() for tensor in tiny_loader(8).dataset.tensors])
    trainer.fit(gan, torch.utils.data.DataLoader(data, 8))
    trainer.save_checkpoint(path)
    return gan, average


@pytest.mark.parametrize("make", [points, lambda: MLPGenerator(latent_dim=3, width=5)])
@pytest.mark.parametrize("kind", ["checkpoint", "compact", "file"])
def test_the_average_and_the_live_weights(make, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    gan, average = trained(make(), path, plugins=[CompactCheckpointIO()] if kind == "compact" else None)
    gan.eval()
    live = gan(Z)
    with averaged_weights(gan, average.average(gan)):
        mean = gan(Z)
    assert (live - mean).abs().max() > 1e-3
    files = [path, path]
    if kind == "file":
        files = [save_generator(tmp_path / f"{ema}.pt", gan, ema=average if ema else None) for ema in (True, False)]
    found = load_generator(files[0])
    assert type(found) is type(gan.generator)
    assert not found.training
    assert not any(p.requires_grad for p in found.parameters())
    torch.testing.assert_close(found(Z), mean, rtol=0, atol=0)
    torch.testing.assert_close(load_generator(files[0], ema=True)(Z), mean, rtol=0, atol=0)
    torch.testing.assert_close(load_generator(files[1], ema=False)(Z), live, rtol=0, atol=0)


def test_without_an_average_the_live_weights(tmp_path: Path) -> None:
    gan, _ = trained(points(), tmp_path / "last.ckpt", ema=False)
    torch.testing.assert_close(load_generator(tmp_path / "last.ckpt")(Z), gan.eval()(Z), rtol=0, atol=0)
    with pytest.raises(ConfigurationError, match="average of 'generator'.*holds none; pass ema=False"):
        load_generator(tmp_path / "last.ckpt", ema=True)


def test_other_networks_of_the_module(tmp_path: Path) -> None:
    gan, _ = trained(points(), tmp_path / "last.ckpt")
    torch.save(torch.load(tmp_path / "last.ckpt", weights_only=True), tmp_path / "copy.ckpt")
    found = load_generator(tmp_path / "copy.ckpt", name="discriminator")
    sample = torch.zeros(2, 2)
    torch.testing.assert_close(found(sample), gan.eval().discriminator(sample), rtol=0, atol=0)
    with pytest.raises(ConfigurationError, match=r"'decoder' because .*no weights of it.*discriminator, generator"):
        load_generator(tmp_path / "copy.ckpt", name="decoder")


def test_a_compiled_network_loads_as_one_that_is_not(tmp_path: Path) -> None:
    gan = LeadGANModule(torch.compile(points(), backend="eager"), MLPDiscriminator(width=4), latent_dim=3)
    found = load_generator(save_generator(tmp_path / "g.pt", gan))
    torch.testing.assert_close(found(Z), gan.generator._orig_mod.eval()(Z), rtol=0, atol=0)


def test_what_does_not_say_how_it_is_built(tmp_path: Path) -> None:
    generator, discriminator = tiny_networks(dtype=torch.float32)
    gan = LeadGANModule(generator, discriminator)
    file = save_generator(tmp_path / "g.pt", gan)
    with pytest.raises(ConfigurationError, match=r"Cannot build 'generator'.*does not say how; pass network="):
        load_generator(file)
    found = load_generator(file, network=tiny_networks(dtype=torch.float32)[0])
    torch.testing.assert_close(found(Z), generator.eval()(Z), rtol=0, atol=0)
    with pytest.raises(CheckpointMismatchError, match="those of another network"):
        load_generator(file, network=MLPGenerator(latent_dim=3, width=5))
    gan = LeadGANModule(Points(4, inner=nn.Linear(4, 2)), discriminator)
    with pytest.raises(ConfigurationError, match="its argument 'inner' is no plain data"):
        load_generator(save_generator(tmp_path / "h.pt", gan))


def named(path: Path, configuration: dict[str, Any]) -> Path:
    """A file that says of its generator that it is built so."""
    content = torch.load(save_generator(path, LeadGANModule(points(), MLPDiscriminator(width=4))), weights_only=True)
    content["lightning_lead"]["networks"]["generator"] = configuration
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("configuration", "kind", "message"),
    [
        ({"class_path": "antigravity.fly", "init_args": {}}, ConfigurationError, "import antigravity first"),
        ({"class_path": "os.system", "init_args": {"command": "false"}}, ConfigurationError, r"no torch\.nn\.Module"),
        ({"class_path": "lightning_lead.networks.Gone", "init_args": {}}, CheckpointMismatchError, "no such class"),
        (
            {"class_path": "lightning_lead.networks.MLPGenerator", "init_args": {"w": 1}},
            CheckpointMismatchError,
            "takes other arguments than when the file was written",
        ),
        (
            {"class_path": "lightning_lead.networks.MLPGenerator", "init_args": {"width": 0}},
            CheckpointMismatchError,
            "takes other arguments than when the file was written",
        ),
    ],
)
def test_files_that_name_what_cannot_be_built(configuration, kind, message: str, tmp_path: Path) -> None:
    assert "antigravity" not in sys.modules
    with pytest.raises(kind, match=message):
        load_generator(named(tmp_path / "g.pt", configuration))
    assert "antigravity" not in sys.modules


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Cannot load a generator because there is no checkpoint"):
        load_generator(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("weights")
    with pytest.raises(ConfigurationError, match="damaged|no checkpoint of plain weights"):
        load_generator(tmp_path / "text.ckpt")


def test_a_configuration_survives_copies_and_names_defaults() -> None:
    network = points()
    expected = {
        "class_path": f"{__name__}.Points",
        "init_args": {
            "width": 4,
            "inner": {"class_path": f"{__name__}.Points2", "init_args": {"width": 4}},
            "scale": [1.0, 0.5],
            "note": "kept",
        },
    }
    assert network.configuration == expected
    assert copy.deepcopy(network).configuration == expected
    assert MLPGenerator(latent_dim=3).configuration["init_args"]["width"] == 2000  # a default, which may change
    assert MLPGenerator(latent_dim=3).configuration["class_path"] == "lightning_lead.networks.MLPGenerator"
    with pytest.raises(TypeError, match="depht"):
        MLPGenerator(depht=3)


def test_a_class_of_a_package_that_is_trusted(tmp_path: Path, monkeypatch) -> None:
    """In another process, which has not imported it."""
    (tmp_path / "mine.py").write_text("import torch\nclass G(torch.nn.Linear): pass\n")
    gan = LeadGANModule(nn.Linear(3, 2), MLPDiscriminator(width=4), latent_dim=3)
    content = torch.load(save_generator(tmp_path / "g.pt", gan), weights_only=True)
    arguments = {"in_features": 3, "out_features": 2}
    content["lightning_lead"]["networks"]["generator"] = {"class_path": "mine.G", "init_args": arguments}
    torch.save(content, tmp_path / "g.pt")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match="LIGHTNING_LEAD_TRUSTED=mine"):
        load_generator(tmp_path / "g.pt")
    monkeypatch.setenv("LIGHTNING_LEAD_TRUSTED", "other,mine")
    assert type(load_generator(tmp_path / "g.pt")).__name__ == "G"
