"""A checkpoint in which a byte has changed, or that was cut short, is refused by name, or loads as it was written."""

from __future__ import annotations

import pytest
import torch
from bitwise import differing
from pairs import some
from tiny import tiny_gan, tiny_loader, tiny_trainer
from torch.utils.data import DataLoader

from lightning_lead import ConfigurationError, LeadGANModule
from lightning_lead.checkpoints import CompactCheckpointIO
from lightning_lead.checkpoints._reading import read_checkpoint
from lightning_lead.checkpoints._whole import refuse_damaged

WAYS = ["fit", "validate", "predict", "load_from_checkpoint", "evaluate"]


class Loaded(LeadGANModule):
    def __init__(self, **settings):
        gan = tiny_gan()
        super().__init__(gan.generator, gan.discriminator)


def checkpoint(file, **settings):
    trainer = tiny_trainer(2, **settings)
    torch.manual_seed(1)
    trainer.fit(Loaded(), tiny_loader(32))
    trainer.save_checkpoint(file, weights_only=False)
    return file.read_bytes()


def use(way, file, **settings):
    if way == "load_from_checkpoint":
        return Loaded.load_from_checkpoint(file)
    if way == "evaluate":
        return read_checkpoint(file, purpose="evaluate")
    call = getattr(tiny_trainer(3, **settings), way)
    return call(Loaded(), DataLoader(torch.arange(4), 2) if way == "predict" else tiny_loader(32), ckpt_path=file)


@pytest.mark.parametrize("plugins", [[], [CompactCheckpointIO()]], ids=["ordinary", "compact"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_damaged_file_is_named_however_it_is_read(way, plugins, tmp_path):
    file = tmp_path / "a.ckpt"
    content = checkpoint(file, plugins=plugins)
    use(way, file, plugins=plugins)
    weight = Loaded.load_from_checkpoint(file).generator[0].weight.detach().numpy().tobytes()
    place = content.index(weight) + 5
    flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    for damaged in (flipped, content[: len(content) // 2], content[:-1], b""):
        file.write_bytes(damaged)
        with pytest.raises(ConfigurationError, match="Cannot read .*a.ckpt because it is damaged.*another copy"):
            use(way, file, plugins=plugins)


def test_torch_alone_would_take_the_flipped_weight(tmp_path):
    content = checkpoint(tmp_path / "a.ckpt")
    sound = torch.load(tmp_path / "a.ckpt", weights_only=True)
    place = content.index(sound["state_dict"]["generator.0.weight"].numpy().tobytes()) + 5
    (tmp_path / "a.ckpt").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert differing(torch.load(tmp_path / "a.ckpt", weights_only=True), sound)


def test_any_flipped_bit_is_found_or_changes_nothing(tmp_path, became):
    file = tmp_path / "a.ckpt"
    content = checkpoint(file)
    sound = torch.load(file, weights_only=True)
    directory = content.index(b"PK\x01\x02")
    # of the last entry in it each bit, of the rest some
    bits = [*some(range(8 * directory), 100), *some(range(8 * directory, 8 * len(content)), 100)]
    last = content.rindex(b"PK\x01\x02")
    for at in [*bits, *range(8 * last, 8 * (last + 46))]:
        place, flip = at // 8, 1 << at % 8
        file.write_bytes(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
        try:
            refuse_damaged(file)
            found = torch.load(file, weights_only=True)
        except Exception:
            became("flipped bit in a checkpoint", "refused")
        else:
            assert not differing(found, sound), (place, flip)
            became("flipped bit in a checkpoint", "loaded as it was written")


def test_a_file_of_before_torch_1_6_is_read(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    refuse_damaged(tmp_path / "old.pt")
