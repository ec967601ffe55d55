"""A run in segments: the clock or a signal ends one after a whole game step, and the next goes on bit for bit."""

from __future__ import annotations

import hashlib
import io
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


def fit(folder, *callbacks, seed=4, plugins=None, steps=STEPS, betas=(0.0, 0.9), ckpt_path="last", **settings):
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
    trainer.fit(model, GaussiansDataModule(num_points=256, batch_size=64), ckpt_path=ckpt_path)
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


@pytest.mark.parametrize("plugin", [None, CompactCheckpointIO()])
def test_the_clock_ends_segments_and_the_last_one_ends_where_one_run_ends(whole, plugin, clock, tmp_path):
    ends = []
    for k, at in enumerate((3, 6, None)):  # the second one in the middle of an epoch of four batches
        move = [After(at, advance(clock, 61))] if at is not None else []
        run = fit(tmp_path, *move, minutes=1, seed=4 if k == 0 else 1000 + k, plugins=[plugin] if plugin else None)
        ends.append((run.trainer.global_step, said(tmp_path)["ended_by"], said(tmp_path)["finished"]))
        clock.seconds += 3600  # between segments, and no part of one
    assert ends == [(4, "minutes", False), (7, "minutes", False), (11, "max_steps", True)]
    assert agree(everything(run), whole)


def test_a_run_that_goes_on_from_nothing_moves_the_files_of_another_one_at_its_first_save(tmp_path):
    class Stop(Exception):
        pass

    def die():
        raise Stop

    fit(tmp_path, steps=3, generator="float32")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(Stop):
        fit(tmp_path, After(2, die), ckpt_path=None)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before  # it has saved nothing
    fit(tmp_path, ckpt_path=None, every_n_steps=2, steps=5)
    assert {path.name: path.read_bytes() for path in (tmp_path / "earlier.1").iterdir()} == before
    assert said(tmp_path)["global_step"] == 5
    fit(tmp_path, steps=6)
    assert not (tmp_path / "earlier.2").exists()


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
    assert set(os.listdir(tmp_path)) == {"last.ckpt", "segment.json"}
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


def test_elsewhere_than_on_a_disk_lightning_writes():
    plugin = CompactCheckpointIO()
    plugin.save_checkpoint({"state_dict": {}, "global_step": 4}, "memory://run/last.ckpt")
    assert plugin.load_checkpoint("memory://run/last.ckpt", weights_only=True)["global_step"] == 4


def test_without_the_plugin_a_compact_checkpoint_is_refused_with_the_way_out(tmp_path):
    fit(tmp_path, plugins=[CompactCheckpointIO()], steps=2)
    with pytest.raises(CheckpointMismatchError, match=r"plugins=\[CompactCheckpointIO\(\)\]"):
        fit(tmp_path, steps=4)


def test_a_compact_checkpoint_of_a_later_layout_is_refused(tmp_path):
    torch.save({"state_dict": {}, "lightning_lead_compact": {"version": 2}}, tmp_path / "later.ckpt")
    with pytest.raises(CheckpointMismatchError, match="got layout 2, know up to 1"):
        CompactCheckpointIO().load_checkpoint(tmp_path / "later.ckpt", weights_only=True)


def first_moments(folder, betas):
    fit(folder, plugins=[CompactCheckpointIO()], betas=betas, steps=2)
    stored = CompactCheckpointIO().read_packed(folder / "last.ckpt")["optimizer_states"][0]["state"]
    return {isinstance(entry["exp_avg"], torch.Tensor) for entry in stored.values()}


def test_first_moments_are_left_out_where_they_are_overwritten_before_they_are_read(tmp_path):
    assert first_moments(tmp_path / "read", (0.5, 0.9)) == {True}
    assert first_moments(tmp_path / "overwritten", (0.0, 0.9)) == {False}


def in_parts(path, size, packed):
    """A checkpoint as earlier versions wrote it in files of limited size."""
    content = io.BytesIO()
    torch.save(packed, content)
    data, names = content.getvalue(), []
    for k, at in enumerate(range(0, len(data), size)):
        names.append(f"{path.stem}-0a1b2c3d4e5f-{k}.part")
        path.with_name(names[-1]).write_bytes(data[at : at + size])
    mark = {"version": 1, "parts": names, "sha256": hashlib.sha256(data).hexdigest()}
    torch.save({"lightning_lead_compact": mark, "global_step": packed["global_step"]}, path)
    return [path.with_name(name) for name in names]


def test_a_checkpoint_in_parts_of_an_earlier_version_resumes_bitwise(whole, tmp_path):
    fit(tmp_path, plugins=[CompactCheckpointIO()], steps=5)
    last = tmp_path / "last.ckpt"
    assert len(in_parts(last, 2000, CompactCheckpointIO().read_packed(last))) > 2
    assert agree(everything(fit(tmp_path, plugins=[CompactCheckpointIO()], seed=9)), whole)


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_missing_and_damaged_parts_are_named(harm, tmp_path):
    last = tmp_path / "last.ckpt"
    _, part = in_parts(last, 500, {"state_dict": {}, "global_step": 3})[:2]
    if harm == "missing":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointMismatchError, match=harm):
        CompactCheckpointIO().load_checkpoint(f"file://{last}", weights_only=True)


def test_a_rounded_checkpoint_of_an_earlier_version_is_read(tmp_path):
    weight, moment = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0])
    rounded = {"__compact__": "rounded", "value": moment.bfloat16(), "dtype": torch.float32}
    near = {"__compact__": "near", "key": "w", "value": torch.tensor([0.25, -0.5]).bfloat16(), "dtype": torch.float32}
    saved = {
        "state_dict": {"w": weight},
        "lightning_lead_compact": {"version": 1, "precision": "half"},
        "optimizer_states": [{"state": {0: {"exp_avg_sq": rounded}}}],
        "callbacks": {"GeneratorEMA": {"average": {"w": near}}},
    }
    torch.save(saved, tmp_path / "half.ckpt")
    read = CompactCheckpointIO().load_checkpoint(tmp_path / "half.ckpt", weights_only=True)
    assert torch.equal(read["optimizer_states"][0]["state"][0]["exp_avg_sq"], moment)
    assert torch.equal(read["callbacks"]["GeneratorEMA"]["average"]["w"], torch.tensor([1.25, 1.5]))


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


@pytest.mark.parametrize("settings", [{"precision": "half"}, {"max_part_mib": 15}])
def test_arguments_of_the_plugin_that_are_gone_are_refused_but_for_their_defaults(settings):
    with pytest.raises(ConfigurationError, match="leave out precision and max_part_mib"):
        CompactCheckpointIO(**settings)
    CompactCheckpointIO(precision="exact", max_part_mib=None)  # as in a config.yaml that an earlier run has left


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
