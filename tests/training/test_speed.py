"""What a game step asks of the host; in another order of memory; by other optimizers. Counts and numbers, no times."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from tiny import tiny_trainer

from lightning_lead import GeneratorEMA, LeadGANModule, LEADStrategy
from lightning_lead.networks import DCGANDiscriminator, DCGANGenerator, SNGANDiscriminator, SNGANGenerator

sys.path.insert(0, str(Path(__file__).parent))
from host_reads import HostReads


def images(count=40, dtype=torch.float32):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(3), dtype=dtype) * 2 - 1


def loader(batch_size=8, **settings):
    return torch.utils.data.DataLoader(images(**settings), batch_size)


def fused(groups):
    return torch.optim.Adam(groups, betas=(0.0, 0.9), fused=True)


def dcgan(**settings):
    """Batch norm in one network, spectral norm in the other, and little to count."""
    networks = DCGANGenerator(latent_dim=4, width=2), DCGANDiscriminator(width=2)
    return LeadGANModule(*networks, **({"optimizer": fused} | settings))


def sngan(*, dtype=torch.float32, width=4, **settings):
    torch.manual_seed(2)
    networks = SNGANGenerator(latent_dim=4, width=width), SNGANDiscriminator(width=width)
    return LeadGANModule(*(n.to(dtype) for n in networks), **({"objective": "hinge"} | settings))


# ---- the host waits for nothing -------------------------------------------------------------------------------------


@pytest.fixture
def reads_per_step(monkeypatch):
    """Fits, and counts what each pass of Lightning's loop reads: loading, hooks, callbacks, the step, the log."""

    def run(gan, steps=4, **settings):
        found, advance = [], _TrainingEpochLoop.advance

        def counted(*arguments):
            found.append(HostReads())
            with found[-1]:
                advance(*arguments)

        monkeypatch.setattr(_TrainingEpochLoop, "advance", counted)
        data = torch.utils.data.DataLoader(torch.randn(40, 1, 8, 8), 8)
        tiny_trainer(steps, callbacks=[GeneratorEMA(halflife_images=100)], **settings).fit(gan, data)
        return found

    return run


GAMES = {
    "exact": {"alpha": 1.0},
    "difference": {"alpha": 1.0, "cross": "difference"},
    "a quarter": {"alpha": 1.0, "cross_fraction": 0.25},
    "Adam": {"alpha": 0.0},
}


@pytest.mark.parametrize("game", GAMES)
def test_a_game_step_reads_one_value_per_turn_or_none(game, reads_per_step):
    """Whether the direction is finite; from the second step on, for the first one probes."""
    for limit, expected in ((10, 3), (None, 0)):
        gan = dcgan(game=LEADStrategy(**GAMES[game], skip_limit=limit), discriminator_steps=2, clip=1.0)
        found = reads_per_step(gan, 3)
        assert [len(reads) for reads in found[1:]] == [expected] * 2, found[1].where


def test_a_scheduler_shared_latents_and_accumulation_read_nothing(reads_per_step):
    gan = dcgan(
        game=LEADStrategy(cross="difference", skip_limit=None),
        shared_latents=True,
        accumulate=2,
        scheduler=lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, 10),
    )
    assert [len(reads) for reads in reads_per_step(gan, 3)[1:]] == [0] * 2


def test_a_progress_bar_reads_where_it_is_given_new_losses(reads_per_step):
    """One read for both of them: at the first step, and at the steps that are logged."""
    gan = dcgan(game=LEADStrategy(skip_limit=None))
    found = reads_per_step(gan, 5, enable_progress_bar=True, log_every_n_steps=4)
    assert [len(reads) > 0 for reads in found] == [True, False, False, True, False]
    assert any("mixin.py" in place for place in found[3].where)


def test_the_counter_sees_what_it_is_to_see(reads_per_step):
    """The negative control: metrics that are shown in Lightning's own way are read after every step."""

    class Shown(LeadGANModule):
        def log_game_step(self, record, notes):
            self.log("loss", record["generator"].loss, prog_bar=True)

    gan = dcgan(game=LEADStrategy(0.0, skip_limit=None))
    gan.__class__ = Shown
    assert [len(reads) for reads in reads_per_step(gan, 3)[1:]] == [1, 1]
    with HostReads() as reads:
        x = torch.ones(3)
        x.sum().item(), bool(x[0]), x[x > 0], torch.equal(x, x), x.cpu(), x.tolist(), x.new_tensor([1.0])
    assert len(reads) >= 7
