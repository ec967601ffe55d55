"""A run in segments: the clock or a signal ends one after a whole game step, and the next goes on bit for bit."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import Callback
from tiny import tiny_networks, tiny_trainer

from lightning_lead import (
    CheckpointMismatchError,
    CompactCheckpointIO,
    ConfigurationError,
    GaussiansDataModule,
    GeneratorEMA,
    LeadGANModule,
    LEADStrategy,
    SegmentCheckpoint,
    Throughput,
)
from lightning_lead.callbacks import generator_file, save_generator, segment, throughput
from lightning_lead.checkpoints import _whole

STEPS = 11


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves: seconds."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(segment, "_clock", lambda: now.seconds)
    return now


class After(Callback):
    """Does something in the middle of a game step's hooks: before any checkpoint of that step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            self.act()


def fit(folder, *callbacks, seed=4, plugins=None, steps=STEPS, betas=(0.0, 0.9), **settings):
    model = LeadGANModule(
        *tiny_networks(batch_norm=True, dtype=torch.float32),
        game=LEADStrategy(1.0),
        optimizer=lambda groups: torch.optim.Adam(groups, betas=betas),
        generator_lr=0.01,
        discriminator_lr=0.01,
    )
    settings = {"every_minutes": None, "check_every_n_steps": 1} | settings
    saver, ema = SegmentCheckpoint(str(folder), **settings), GeneratorEMA(halflife_images=100)
    trainer = tiny_trainer(steps, callbacks=[saver, ema, *callbacks], enable_checkpointing=True, plugins=plugins)
    torch.manual_seed(seed)
    trainer.fit(model, GaussiansDataModule(num_points=256, batch_size=64), ckpt_path="last")
    return SimpleNamespace(model=model, trainer=trainer, ema=ema, saver=saver)


def everything(run):
    state = run.model.game.state_dict()["state"]["anchor"]
    moments = run.trainer.optimizers[0].state_dict()["state"]
    return {
        **run.model.state_dict(),
        **{f"average {k}": v for k, v in run.ema.state_dict()["average"].items()},
        **{f"anchor {p} {k}": t for p, v in state.items() for k, t in enumerate(v)},
        **{f"adam {i} {k}": t for i, entry in moments.items() for k, t in entry.items()},
    }


def agree(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def said(folder):
    return json.loads((folder / "segment.json").read_text())


pytestmark = pytest.mark.filterwarnings("ignore:.*there is no last checkpoint available")


def advance(clock, seconds):
    return lambda: setattr(clock, "seconds", clock.seconds + seconds)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return everything(fit(tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("plugin", [None, CompactCheckpointIO(), CompactCheckpointIO(max_part_mib=0.002)])
def test_the_clock_ends_segments_and_the_last_one_ends_where_one_run_ends(whole, plugin, clock, tmp_path):
    ends = []
    for k, at in enumerate((3, 6, None)):  # the second one in the middle of an epoch of four batches
        move = [After(at, advance(clock, 61))] if at is not None else []
        run = fit(tmp_path, *move, minutes=1, seed=4 if k == 0 else 1000 + k, plugins=[plugin] if plugin else None)
        ends.append((run.trainer.global_step, said(tmp_path)["ended_by"], said(tmp_path)["finished"]))
        clock.seconds += 3600  # between segments, and no part of one
    assert ends == [(4, "minutes", False), (7, "minutes", False), (11, "max_steps", True)]
    assert agree(everything(run), whole)


def test_another_seed_would_be_seen(whole, tmp_path):
    assert not agree(everything(fit(tmp_path, seed=5)), whole)


def test_a_signal_in_the_middle_of_a_game_step_waits_for_its_end(whole, tmp_path):
    handler = signal.getsignal(signal.SIGUSR1)
    fit(tmp_path, After(5, lambda: os.kill(os.getpid(), signal.SIGUSR1)), check_every_n_steps=4)
    assert signal.getsignal(signal.SIGUSR1) is handler
    assert said(tmp_path) | {"seconds_of_segment": 0} == {
        "global_step": 8,
        "max_steps": 11,
        "finished": False,
        "ended_by": "SIGUSR1",
        "steps_of_segment": 8,
        "seconds_of_segment": 0,
    }
    assert agree(everything(fit(tmp_path, seed=77)), whole)


def test_checkpoints_come_by_the_clock_with_the_averaged_generator_beside_them(clock, tmp_path):
    watch = After(3, advance(clock, 130))
    run = fit(tmp_path, watch, every_minutes=2, generator="float16")
    saved = torch.load(tmp_path / "generator.pt", weights_only=True)
    assert (run.saver._saved_step, saved["global_step"], saved["averaged"]) == (11, 11, True)
    average = run.ema.average(run.model)
    assert saved["state_dict"].keys() == average.keys()
    for name, tensor in saved["state_dict"].items():
        assert torch.allclose(tensor.float(), average[name].float(), rtol=2**-11, atol=1e-6), name
    networks = tiny_networks(batch_norm=True, dtype=torch.float32)
    with pytest.warns(UserWarning, match="not in the checkpoint: .*discriminator.0.weight"):
        loaded = LeadGANModule.load_from_checkpoint(
            tmp_path / "generator.pt", generator=networks[0], discriminator=networks[1], strict=False, weights_only=True
        )
    assert torch.equal(loaded.generator[0].weight, saved["state_dict"]["generator.0.weight"].float())


def test_a_checkpoint_in_between_is_that_of_a_whole_game_step(clock, tmp_path):
    class Stop(Exception):
        pass

    def die():
        raise Stop

    with pytest.raises(Stop):
        fit(tmp_path, After(3, advance(clock, 130)), After(6, die), every_minutes=2)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4
    assert said(tmp_path)["ended_by"] is None


def test_checkpoints_come_by_game_steps_as_well_as_by_the_clock(clock, monkeypatch, tmp_path):
    saved, save = [], SegmentCheckpoint._save
    monkeypatch.setattr(
        SegmentCheckpoint, "_save", lambda self, t, *more: saved.append(t.global_step) or save(self, t, *more)
    )
    fit(tmp_path, After(5, advance(clock, 130)), every_n_steps=4, every_minutes=2, check_every_n_steps=3)
    assert saved == [4, 6, 8, 11]


@pytest.mark.parametrize("plugin", [None, TorchCheckpointIO(), CompactCheckpointIO()])
def test_a_segment_that_is_cut_short_while_it_saves_leaves_the_checkpoint_before(plugin, monkeypatch, tmp_path):
    """Also by Lightning's writer, which a segment replaces; it would begin in $TMPDIR."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    names = cut_short(monkeypatch, 1)
    with pytest.raises(OSError, match="no space"):
        fit(tmp_path, plugins=[plugin] if plugin else None, every_n_steps=4)
    assert names == ["last.ckpt", "last.ckpt"]
    assert CompactCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 4


def test_a_plugin_of_ones_own_stays(tmp_path):
    class Own(TorchCheckpointIO):
        pass

    own = Own()
    assert fit(tmp_path, plugins=[own], steps=1).trainer.strategy.checkpoint_io is own


def cut_short(monkeypatch, at):
    """The disk fills up half way through the file whose number is `at`; without it, names of files in their order."""
    names, whole_write = [], _whole.replacing

    @contextmanager
    def replacing(path):
        names.append(path.name)
        with whole_write(path) as draft:
            yield draft
            if len(names) - 1 == at:
                draft.write_bytes(draft.read_bytes()[: draft.stat().st_size // 2])
                raise OSError("no space left")

    monkeypatch.setattr(_whole, "replacing", replacing)
    return names


@pytest.mark.parametrize("max_part_mib", [None, 0.02])
def test_a_save_that_is_cut_short_leaves_the_checkpoint_before(max_part_mib, monkeypatch, tmp_path):
    """The disk fills up while the second checkpoint is written: in each part, and in the file that names the parts."""
    plugin, last = CompactCheckpointIO(max_part_mib=max_part_mib), tmp_path / "last.ckpt"

    def content(step):
        return {"state_dict": {"a": torch.full((10_000,), float(step))}, "global_step": step, "optimizer_states": []}

    plugin.save_checkpoint(content(4), last)
    before = set(os.listdir(tmp_path))
    with monkeypatch.context() as patch:
        order = cut_short(patch, None)
        plugin.save_checkpoint(content(6), tmp_path / "other" / "last.ckpt")
    assert order[-1] == "last.ckpt"
    assert len(order) == (1 if max_part_mib is None else 3)
    for at, name in enumerate(order):
        with monkeypatch.context() as patch:
            names = cut_short(patch, at)
            with pytest.raises(OSError, match="no space"):
                plugin.save_checkpoint(content(6), last)
        assert names == order[: at + 1], name
        read = plugin.load_checkpoint(last, weights_only=True)
        assert read["global_step"] == 4
        assert torch.equal(read["state_dict"]["a"], content(4)["state_dict"]["a"])
        assert set(os.listdir(tmp_path)) - {"other"} == before
    plugin.save_checkpoint(content(6), last)
    assert plugin.load_checkpoint(last, weights_only=True)["global_step"] == 6
    assert set(os.listdir(tmp_path)) - {"other"} == set(order)
    plugin.remove_checkpoint(last)
    assert os.listdir(tmp_path) == ["other"]


def test_the_same_content_in_other_parts_leaves_the_parts_before(monkeypatch, tmp_path):
    last = tmp_path / "last.ckpt"
    content = {"state_dict": {"a": torch.rand(10_000)}, "global_step": 4, "optimizer_states": []}
    CompactCheckpointIO(max_part_mib=0.02).save_checkpoint(content, last)
    with monkeypatch.context() as patch:
        names = cut_short(patch, None)
        CompactCheckpointIO(max_part_mib=0.02).save_checkpoint(content, last)
        assert names == ["last.ckpt"]  # parts that are there are not written again
    cut_short(monkeypatch, 1)
    plugin = CompactCheckpointIO(max_part_mib=0.021)
    with pytest.raises(OSError, match="no space"):
        plugin.save_checkpoint(content, last)
    read = CompactCheckpointIO().load_checkpoint(last, weights_only=True)
    assert torch.equal(read["state_dict"]["a"], content["state_dict"]["a"])


@pytest.mark.parametrize("max_part_mib", [None, 0.002])
def test_nothing_is_written_anywhere_but_beside_the_checkpoint(max_part_mib, monkeypatch, tmp_path):
    """A file that is moved from $TMPDIR is copied where that is another disk, and may be cut short."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    plugin, last = CompactCheckpointIO(max_part_mib=max_part_mib), tmp_path / "run" / "last.ckpt"
    plugin.save_checkpoint({"state_dict": {}, "global_step": 4}, f"file://{last}")
    assert plugin.load_checkpoint(last, weights_only=True)["global_step"] == 4


def test_elsewhere_than_on_a_disk_lightning_writes():
    plugin = CompactCheckpointIO()
    plugin.save_checkpoint({"state_dict": {}, "global_step": 4}, "memory://run/last.ckpt")
    assert plugin.load_checkpoint("memory://run/last.ckpt", weights_only=True)["global_step"] == 4
    with pytest.raises(ConfigurationError, match="not a local file"):
        CompactCheckpointIO(max_part_mib=1).save_checkpoint({"state_dict": {}}, "memory://run/last.ckpt")


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_missing_and_damaged_parts_are_named(harm, tmp_path):
    plugin = CompactCheckpointIO(max_part_mib=0.002)
    fit(tmp_path, plugins=[plugin], steps=2)
    part = sorted(tmp_path.glob("*.part"))[0]
    if harm == "missing":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointMismatchError, match=harm):
        plugin.load_checkpoint(tmp_path / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("parts", [None, 0.002])
def test_without_the_plugin_a_compact_checkpoint_is_refused_with_the_way_out(parts, tmp_path):
    fit(tmp_path, plugins=[CompactCheckpointIO(max_part_mib=parts)], steps=2)
    with pytest.raises(CheckpointMismatchError, match=r"plugins=\[CompactCheckpointIO\(\)\]"):
        fit(tmp_path, steps=4)


@pytest.mark.parametrize("betas", [(0.0, 0.9), (0.5, 0.9)])
def test_half_precision_goes_on_near_the_exact_run(whole, betas, tmp_path):
    """Moments to 2⁻⁹, so four more steps of 0.01 stay within 2e-4; without second moments, the control, they do not."""
    ends = {}
    for name, precision in {"exact": "exact", "half": "half", "control": "exact"}.items():
        plugin, last = CompactCheckpointIO(precision=precision), tmp_path / name / "last.ckpt"
        fit(tmp_path / name, plugins=[plugin], steps=7, betas=betas)
        if name == "control":
            content = plugin.load_checkpoint(last, weights_only=True)
            for entry in content["optimizer_states"][0]["state"].values():
                entry["exp_avg_sq"].mul_(0.9)
            plugin.save_checkpoint(content, last)
        ends[name] = everything(fit(tmp_path / name, plugins=[plugin], betas=betas))
    # not the bias under a batch norm and the mean that follows it: Adam moves it by its gradient's rounding errors
    names = [name for name in ends["exact"] if name.startswith(("gen", "disc")) and "running" not in name]
    names.remove("generator.0.bias")

    def apart(name):
        return max((ends[name][key] - ends["exact"][key]).abs().max() for key in names)

    assert 0 < apart("half") < 2e-4 < apart("control")
    assert betas == (0.5, 0.9) or agree(ends["exact"], whole)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minutes": 0}, "minutes=0"),
        ({"every_minutes": float("nan")}, "every_minutes=nan"),
        ({"check_every_n_steps": 0}, "integer ≥ 1"),
        ({"every_n_steps": 0}, "every_n_steps.* integer ≥ 1"),
        ({"signals": ["SIGNONSENSE"]}, "no such signals"),
        ({"generator": "int8"}, "'int8'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        SegmentCheckpoint("nowhere", **settings)


@pytest.mark.parametrize("settings", [{"precision": "quarter"}, {"max_part_mib": 0}])
def test_plugins_out_of_range_are_refused(settings):
    with pytest.raises(ConfigurationError):
        CompactCheckpointIO(**settings)


def test_the_generator_of_a_module_without_average_is_the_live_one(tmp_path):
    gan = LeadGANModule(*tiny_networks())
    saved = torch.load(save_generator(tmp_path / "g.pt", gan), weights_only=True)
    assert all(torch.equal(t, gan.state_dict()[name]) for name, t in saved["state_dict"].items())
    assert not saved["averaged"]


@pytest.mark.parametrize("averaged", [False, True])
def test_a_narrow_generator_keeps_its_running_statistics(averaged, tmp_path):
    """A variance beyond float16 would be infinite, a small one zero: samples of 0 or of 300 times the size."""
    gan = LeadGANModule(*tiny_networks(batch_norm=True, dtype=torch.float32))
    gan.generator[1].running_var[:2] = torch.tensor([1e6, 1e-9])
    ema = GeneratorEMA(halflife_images=100)
    ema.on_fit_start(None, gan)
    file = save_generator(tmp_path / "g.pt", gan, ema=ema if averaged else None, dtype="float16")
    saved = torch.load(file, weights_only=True)["state_dict"]
    assert torch.equal(saved["generator.1.running_var"], gan.generator[1].running_var)
    buffers = {f"generator.{name}": buffer.dtype for name, buffer in gan.generator.named_buffers()}
    assert {name: tensor.dtype for name, tensor in saved.items()} == dict.fromkeys(saved, torch.float16) | buffers


@pytest.mark.parametrize("error", [OSError("no space left"), RuntimeError("unexpected pos")])
def test_a_generator_that_cannot_be_written_does_not_end_the_run(error, monkeypatch, tmp_path):
    def fails(*_, **__):
        raise error

    before = save_generator(tmp_path / "generator.pt", LeadGANModule(*tiny_networks())).read_bytes()
    monkeypatch.setattr(generator_file, "replacing", fails)
    with pytest.warns(UserWarning, match=f"generator.pt could not be written after game step 4.*{error}"):
        fit(tmp_path, steps=4, generator="float16", plugins=[CompactCheckpointIO()])
    assert said(tmp_path)["finished"]
    assert (tmp_path / "generator.pt").read_bytes() == before


# ---- images per second ----------------------------------------------------------------------------------------------


def test_rates_are_of_the_median_step_and_the_end_is_foretold_by_the_mean(monkeypatch, tmp_path):
    """Steps of 2 s, and one that takes a score, of 10 s; the clock is the test's."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now.seconds)

    class Tick(Callback):
        def on_train_batch_end(self, trainer, *_):
            now.seconds += 10.0 if trainer.global_step == 3 else 2.0

    speed = Throughput(every_n_steps=4)
    run = fit(tmp_path, Tick(), speed, steps=8)
    assert speed.latest == {
        "images_per_second": pytest.approx(32.0),
        "game_steps_per_second": pytest.approx(0.5),
        "hours_to_max_steps": 0.0,
    }
    metrics = run.trainer.callback_metrics
    assert float(metrics["images_per_second"]) == pytest.approx(32.0)
    halfway = Throughput(every_n_steps=4)
    now.seconds = 0.0
    fit(tmp_path / "again", Tick(), halfway, After(5, lambda: None), steps=12)
    assert halfway.latest["hours_to_max_steps"] == 0.0
    other = Throughput(every_n_steps=4)
    now.seconds = 0.0
    seen = []
    read = Callback()
    read.on_train_batch_end = lambda trainer, *_: seen.append(dict(other.latest))
    fit(tmp_path / "third", Tick(), other, read, steps=8)
    # after 4 steps: 2 + 2 + 10 + 2 seconds, or one less tick where this callback stands before the clock
    assert seen[3]["hours_to_max_steps"] == pytest.approx(4 * 16 / 4 / 3600)


def test_a_step_takes_time_to_the_next_one():
    with pytest.raises(ConfigurationError, match="≥ 2"):
        Throughput(every_n_steps=1)
