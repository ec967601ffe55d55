"""What a game step asks of the host; in another order of memory; by other optimizers. Counts and numbers, no times."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from tiny import tiny_gan, tiny_loader, tiny_points, tiny_trainer

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
    "exact": {"coupling": 1.0},
    "difference": {"coupling": 1.0, "cross": "difference"},
    "a quarter": {"coupling": 1.0, "cross_fraction": 0.25},
    "extrapolated": {"cross": "extrapolated"},  # with the law, which reads the momentum
    "Adam": {"coupling": 0.0},
}


@pytest.mark.parametrize("game", GAMES)
def test_a_game_step_reads_one_value_per_turn_or_none(game, reads_per_step):
    """Whether the direction is finite; from the second step on, for the first one probes."""
    for limit, expected in ((10, 3), (None, 0)):
        gan = dcgan(game=LEADStrategy(**GAMES[game], skip_limit=limit), discriminator_steps=2, clip=1.0)
        found = reads_per_step(gan, 3)
        assert [len(reads) for reads in found[1:]] == [expected] * 2, found[1].where


@pytest.mark.parametrize("cross", ["difference", "extrapolated"])
def test_a_scheduler_shared_latents_and_accumulation_read_nothing(cross, reads_per_step):
    gan = dcgan(
        game=LEADStrategy(cross=cross, skip_limit=None),
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
    assert any("_log.py" in place for place in found[3].where)


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


# ---- channels last, fused optimizers --------------------------------------------------------------------------------


def trained(gan, steps=3, data=None, **settings):
    torch.manual_seed(7)
    trainer = tiny_trainer(steps, **settings)
    trainer.fit(gan, data or loader(4, count=12, dtype=torch.float64))
    return torch.cat([p.detach().flatten() for p in gan.parameters()])


def adam(groups):
    return torch.optim.Adam(groups, betas=(0.0, 0.9))


def with_momentum(groups):
    return torch.optim.Adam(groups, lr=0.002, betas=(0.5, 0.9))


def fused_with_momentum(groups):
    return torch.optim.Adam(groups, lr=0.002, betas=(0.5, 0.9), fused=True)


@pytest.mark.parametrize("cross", ["exact", "difference", "extrapolated"])
def test_channels_last_changes_the_order_in_memory_and_nothing_else(cross):
    """In float64 to rounding; without batch norm, under which a bias has rounding alone for a gradient."""
    ends, seen = {}, {}
    for name, settings in {
        "plain": {},
        "channels last": {"channels_last": True},
        "fused": {"channels_last": True, "optimizer": fused},
    }.items():
        torch.manual_seed(2)
        networks = SNGANGenerator(latent_dim=4, width=4, normalization="none"), SNGANDiscriminator(width=4)
        gan = LeadGANModule(*(n.double() for n in networks), game=LEADStrategy(cross=cross), **settings)
        seen[name] = set()
        gan.discriminator.register_forward_pre_hook(
            lambda _, inputs, seen=seen[name]: seen.add(inputs[0].is_contiguous(memory_format=torch.channels_last))
        )
        ends[name] = trained(gan)
        assert gan._structure.chained == (cross != "extrapolated")  # which has no use for it
        assert gan._structure.piecewise_linear == (cross == "exact")
        convolutions = [p for p in gan.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1]
        assert convolutions
        for p in convolutions:
            assert p.is_contiguous(memory_format=torch.channels_last) == (name != "plain")
    assert seen == {"plain": {False}, "channels last": {True}, "fused": {True}}
    assert (ends["channels last"] - ends["plain"]).abs().max() < 1e-9
    assert (ends["fused"] - ends["plain"]).abs().max() < 1e-9


@pytest.mark.parametrize("first", ["channels last", "plain"])
def test_a_run_resumes_in_another_order_in_memory(first, tmp_path):
    """Adam's moments come in the file's order; a fused step takes them in the weights' order, and does not look."""
    kinds = {
        "channels last": {"channels_last": True, "optimizer": fused_with_momentum},
        "plain": {"channels_last": False, "optimizer": fused_with_momentum},
        "neither": {"channels_last": False, "optimizer": with_momentum},
    }

    same_batches = torch.utils.data.DataLoader(images(4, torch.float64).repeat(4, 1, 1, 1), 4)  # wherever it resumes

    class Halfway(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 2 and not (tmp_path / "2.ckpt").exists():
                trainer.save_checkpoint(tmp_path / "2.ckpt")

    def run(kind, **settings):
        torch.manual_seed(2)
        networks = SNGANGenerator(latent_dim=4, width=4, normalization="none"), SNGANDiscriminator(width=4)
        gan = LeadGANModule(*(n.double() for n in networks), game=LEADStrategy(1.0), **kinds[kind])
        torch.manual_seed(7)
        trainer = tiny_trainer(4, callbacks=[Halfway()])
        trainer.fit(gan, same_batches, **settings)
        assert trainer.global_step == 4
        return trainer, torch.cat([p.detach().flatten() for p in gan.parameters()])

    _, straight = run(first)
    for then in set(kinds) - {first}:
        trainer, end = run(then, ckpt_path=tmp_path / "2.ckpt")
        (optimizer,) = trainer.optimizers
        assert {group["fused"] for group in optimizer.param_groups} == {None if then == "neither" else True}
        for parameter, state in optimizer.state.items():
            assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == parameter.stride()
        assert (end - straight).abs().max() < 1e-9, then


def test_directions_are_handed_over_in_the_parameter_s_order():
    """As after an all-reduce, which flattens: a fused optimizer would step along a shuffled gradient."""
    weight = torch.nn.Parameter(torch.randn(2, 3, 3, 3).to(memory_format=torch.channels_last))
    other = torch.nn.Parameter(torch.zeros(1))
    game = LEADStrategy(0.0)
    game.start({"x": (weight,), "y": (other,)})
    direction = torch.arange(54.0).view(2, 3, 3, 3)
    game.rule.direction = lambda oracle, players, state: ({"x": (direction,)}, state)
    game.play_turn(SimpleNamespace(statistics={}, notes={}, evaluations={}, sizes=[]), ["x"], {"x": [weight]})
    assert weight.grad.stride() == weight.stride() != direction.stride()
    assert torch.equal(weight.grad, direction)


@pytest.mark.parametrize("optimizer", [fused, lambda groups: torch.optim.Adam(groups, betas=(0.0, 0.9), foreach=True)])
def test_fused_and_foreach_optimizers_skip_what_is_skipped(optimizer):
    """The second batch is not finite: the discriminator stays where it is, and the generator plays on."""
    points = tiny_points(72)
    points[24:48, 0] = float("nan")
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(points), 24)
    ends = []
    for chosen in (adam, optimizer):
        gan = tiny_gan(optimizer=chosen, game=LEADStrategy(1.0))
        ends.append(trained(gan, data=data))
        assert gan.game.skipped == 1
    assert torch.isfinite(ends[0]).all()
    assert (ends[0] - ends[1]).abs().max() < 1e-12


@pytest.mark.parametrize("cross", ["exact", "difference", "extrapolated"])
def test_bf16_mixed_with_channels_last_trains_near_float32(cross):
    ends = [
        trained(
            sngan(channels_last=True, optimizer=fused, game=LEADStrategy(cross=cross)),
            data=loader(4, count=12),
            precision=precision,
        )
        for precision in ("32-true", "bf16-mixed")
    ]
    assert torch.isfinite(ends[1]).all()
    assert 0 < (ends[0] - ends[1]).abs().max() < 4 * 3 * 2e-4  # at most three steps of Adam in opposite directions


# ---- compiled networks ----------------------------------------------------------------------------------------------

COMPILED = {  # exact and difference in alternating play: test_citizenship.py
    "difference, shared latents": {"game": {"cross": "difference"}, "shared_latents": True},
    "exact, simultaneous": {"game": {"play": "simultaneous"}},
    "Adam, 2 discriminator steps": {"game": {"coupling": 0.0}, "discriminator_steps": 2},
}


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.slow
@pytest.mark.parametrize("game", COMPILED)
def test_compiled_networks_play_the_same_game(game):
    """The matrix of docs/speed.md; the backend traces forward and backward and generates no code, so it is quick."""
    settings = dict(COMPILED[game])
    strategy = LEADStrategy(**settings.pop("game"))
    ends = []
    for compiled in (False, True):
        torch._dynamo.reset()
        gan = tiny_gan(game=copy.deepcopy(strategy), **settings)
        if compiled:
            for network in (gan.generator, gan.discriminator):
                network.compile(backend="aot_eager")
        ends.append(trained(gan, 2, data=tiny_loader(24)))
        assert not any("_orig_mod" in name for name in gan.state_dict())
    assert torch.isfinite(ends[0]).all()
    assert (ends[0] - ends[1]).abs().max() < 1e-12
