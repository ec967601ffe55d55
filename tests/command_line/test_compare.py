"""lightning-lead compare: a table and a figure, whatever happens to single runs."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lightning_lead import ConfigurationError, DivergenceError, GameStrategy, ModeCounter
from lightning_lead.cli import main
from lightning_lead.compare import Entry, Run, keeper, runner, summary
from lightning_lead.compare.plan import read_entries
from lightning_lead.compare.worker import CHECKPOINT, Recorder
from lightning_lead.compare.worker import run as run_here
from lightning_lead.data import ModeCoverage

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
GAUSSIANS = ["--config", str(RECIPES / "gaussians.yaml")]
SMALL = ["--model.generator.width=8", "--model.discriminator.width=8", "--data.batch_size=16", "--every", "5"]


def compare(output, *arguments):
    return main(["compare", *GAUSSIANS, "--output", str(output), *SMALL, *map(str, arguments)])


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    output = tmp_path_factory.mktemp("compared")
    file = output / "games.yaml"
    file.write_text(
        "plain: {game: AlternatingGDA}\n"
        "too fast: {game: GradientPlay(skip_limit=0), overrides: {model.generator_lr: 1.0e+30}}\n"
    )
    games = ["--games-file", file, "--games", "plain", "too fast", "ExtraAdam"]
    arguments = [*games, "--seeds", 0, 1, "--trainer.max_steps=10"]
    return output, arguments, compare(output, *arguments)


@pytest.mark.slow
def test_one_that_fails_does_not_take_the_others_with_it(compared):
    output, _, status = compared
    assert status == 1
    lines = (output / "table.csv").read_text(encoding="utf-8").splitlines()
    rows = {row["game"]: row for row in csv.DictReader(lines)}
    assert list(rows) == ["plain", "too fast", "ExtraAdam"]
    assert "failed" in rows["too fast"]["modes"]
    assert "not finite" in rows["too fast"]["modes"]
    assert rows["ExtraAdam"]["seeds"] == rows["plain"]["seeds"] == "2"
    assert rows["ExtraAdam"]["gradients"] == "4"
    assert rows["plain"]["cost"] == "1.00×"
    assert 1.5 < float(rows["ExtraAdam"]["cost"].rstrip("×")) < 2.5
    assert (output / "curves.png").stat().st_size > 5_000
    assert "| ExtraAdam |" in (output / "table.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_what_is_done_is_not_run_again_and_other_settings_are_noticed(compared):
    output, arguments, _ = compared
    results = sorted(output.glob("*/seed*/result.json"))
    assert len(results) == 4
    before = [path.stat().st_mtime_ns for path in results]
    assert compare(output, *arguments) == 1  # the failure is remembered
    assert [path.stat().st_mtime_ns for path in results] == before
    with pytest.raises(ConfigurationError, match="other settings"):
        compare(output, *arguments, "--model.accumulate=2")


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_from_its_checkpoint_and_ends_bitwise_the_same(tmp_path):
    def run(folder, *, killed=False):
        arguments = [f"--config={RECIPES / 'gaussians.yaml'}", "--game=ExtraAdam", "--trainer.max_steps=400"]
        arguments += ["--every=100", *SMALL[:3], "--trainer.callbacks=null"]
        command = [sys.executable, "-m", "lightning_lead.compare.worker", str(folder), "f", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while killed and not (folder / CHECKPOINT).is_file() and time.monotonic() < deadline:
            time.sleep(0.01)
        if killed:
            process.send_signal(signal.SIGKILL)
        return process.wait(timeout=180)

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(whole) == 0
    assert run(stopped, killed=True) == -signal.SIGKILL
    assert not (stopped / "result.json").exists()
    begun = torch.load(stopped / CHECKPOINT, weights_only=True)["global_step"]
    assert 0 < begun < 400
    assert run(stopped) == 0
    ends = [torch.load(folder / CHECKPOINT, weights_only=True) for folder in (whole, stopped)]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 400
    for name, value in ends[0]["state_dict"].items():
        assert torch.equal(value, ends[1]["state_dict"][name]), name
    results = [json.loads((folder / "result.json").read_text()) for folder in (whole, stopped)]
    assert results[0]["evaluations_per_step"]["gradients"] == 4.0
    assert results[0]["flops_per_step"] == results[1]["flops_per_step"] > 0


def test_a_long_run_is_saved_by_the_clock_and_goes_on_bitwise_the_same(tmp_path, monkeypatch):
    """A clock on which each of a game step's two turns takes 20 seconds, and one checkpoint by steps, the last."""
    play, save = GameStrategy.play_turn, keeper.Keeper._save
    now, turns, saved = [0.0], [], []

    def slow(*arguments):
        now[0] += 20.0
        turns.append(now[0])
        if len(turns) == stop:
            raise KeyError("the machine is gone")
        return play(*arguments)

    def noted(self, trainer):
        saved.append(trainer.global_step)
        save(self, trainer)

    def run(name):
        arguments = [f"--config={RECIPES / 'gaussians.yaml'}", "--game=LEAD", "--trainer.max_steps=60", *SMALL[:3]]
        run_here(tmp_path / name, "f", [*arguments, "--trainer.callbacks=null"], checkpoints=1)

    monkeypatch.setattr(sys, "argv", ["worker"])
    monkeypatch.setattr(keeper, "_clock", lambda: now[0])
    monkeypatch.setattr(GameStrategy, "play_turn", slow)
    monkeypatch.setattr(keeper.Keeper, "_save", noted)
    stop = None
    run("whole")
    assert saved == [20, 40, 60]  # looked at every 10 steps, which are 400 s: ten minutes are over at every second look
    turns.clear()
    stop = 2 * 35
    with pytest.raises(KeyError):
        run("stopped")
    assert saved == [20, 40, 60, 20]
    stop = None
    run("stopped")
    assert saved == [20, 40, 60, 20, 40, 60]
    ends = [torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in ("whole", "stopped")]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 60
    for name, value in ends[0]["state_dict"].items():
        assert torch.equal(value, ends[1]["state_dict"][name]), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_comparison_that_is_stopped_leaves_no_run_behind_and_goes_on(tmp_path, name):
    command = [sys.executable, "-m", "lightning_lead.cli", "compare", *GAUSSIANS, "--output", str(tmp_path / "out")]
    command += [*SMALL, "--every", "1000", "--games", "ExtraAdam", "AlternatingGDA", "--max_steps", "600"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    settings = {"env": environment, "stdout": subprocess.DEVNULL, "start_new_session": True}
    # a shell's background job, which tests may run in, is started with Ctrl-C ignored, and hands that on
    with subprocess.Popen(
        command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **settings
    ) as process:
        checkpoint = tmp_path / "out" / "extraadam" / "seed0" / CHECKPOINT
        deadline = time.monotonic() + 120
        while not checkpoint.is_file() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, getattr(signal, name))  # as the terminal does
        assert process.wait(timeout=60) == (-signal.SIGKILL if name == "SIGKILL" else 130)
    log = checkpoint.with_name("log.txt")
    while name == "SIGKILL" and "comparison has ended" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not checkpoint.with_name("result.json").exists()
    assert not checkpoint.with_name("failure.json").exists()
    begun = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 0 < begun < 600
    assert not (tmp_path / "out" / "alternatinggda").exists()
    if name != "SIGINT":  # the way on is the same
        return
    command.remove("AlternatingGDA")
    assert subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode == 0
    result = json.loads(checkpoint.with_name("result.json").read_text())
    assert result["steps"] == 600
    assert result["evaluations_per_step"]["gradients"] == 4.0  # over both parts: the counts are in the checkpoint


@pytest.fixture
def here(monkeypatch, tmp_path):
    """A run of six game steps in this process."""
    monkeypatch.setattr(sys, "argv", ["worker"])
    arguments = [f"--config={RECIPES / 'gaussians.yaml'}", "--game=ExtraAdam", "--trainer.max_steps=6", *SMALL[:3]]
    arguments += ["--every=1", "--trainer.callbacks=[ModeCounter]"]
    return lambda: run_here(tmp_path, "f", arguments)


def test_scores_are_not_on_the_clock(here, monkeypatch):
    clock, score, play = [0.0], ModeCounter.on_train_batch_end, GameStrategy.play_turn

    def slow(seconds, method):
        def work(*arguments):
            clock[0] += seconds
            return method(*arguments)

        return work

    monkeypatch.setattr("lightning_lead.compare.worker._now", lambda module: clock[0])
    monkeypatch.setattr(ModeCounter, "on_train_batch_end", slow(1000.0, score))
    monkeypatch.setattr(GameStrategy, "play_turn", slow(1.0, play))
    result = here()
    assert len(result["history"]) == 6  # the control: scores were taken
    assert (result["timed_steps"], result["seconds"]) == (4, 4.0)  # without the first, and the one that is counted


def test_a_last_score_that_is_not_finite_is_a_failure(here, monkeypatch, tmp_path):
    coverage = ModeCoverage(covered=float("nan"), high_quality=0.0)
    monkeypatch.setattr("lightning_lead.callbacks.mode_counter.modes_covered", lambda *_, **__: coverage)
    with pytest.raises(DivergenceError, match="modes is nan at step 6"):
        here()
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("period", "max_steps", "logged", "steps"),
    [
        (1, 40, 1000, [3, 8, 13, 18, 23, 28, 33, 38]),
        (5, 40, 1000, [3, 4, 5, 6, 7, 23, 24, 25, 26, 27]),
        (1, 5, 1000, [3]),
        (1, 8000, 1000, [3, 1003, 2003, 3003, 4003, 5003, 6003, 7003]),
        (1, 40, 7, [3, 8, 18, 23, 28, 33, 38]),  # steps 6, 13, 20, ... are logged
        (5, 60, 25, [3, 4, 5, 6, 7, 43, 44, 45, 46, 47]),  # step 24 is
        (1, 5, 4, [3]),  # so often that they belong to the mean
    ],
)
def test_flops_are_counted_over_whole_periods_spread_over_the_run(period, max_steps, logged, steps):
    trainer = SimpleNamespace(max_steps=max_steps, log_every_n_steps=logged)
    counted = []
    for step in range(max_steps):
        trainer.global_step = step
        counted += [step] if Recorder()._counts(trainer, period) else []
    assert counted == steps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--games", "LEED"], "choose one of"),
        (["--games", "LEAD", "--seeds", "0", "0"], "seeds"),
        (["--games", "LEAD", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--games", "LEAD", "lead"], "choose one of|share a folder"),
        (["--games-file", "nowhere.yaml"], "games file"),
        (["--games", "LEAD", "--model.generater_lr=0.1"], "generater_lr"),
        (["--games", "LEAD", "--model.generator_lr=fast"], "Cannot run LEAD because fit does not take its arguments"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_run(tmp_path, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        compare(tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_labels_keep_their_own_settings(tmp_path):
    file = tmp_path / "games.yaml"
    file.write_text("fast LEAD: {game: 'LEAD(alpha=2.0)', overrides: {model.generator_lr: 0.1, model.clip: null}}\n")
    (entry,) = read_entries([], file)
    assert entry == Entry("fast LEAD", "LEAD(alpha=2.0)", ("--model.generator_lr=0.1", "--model.clip=null"))
    file.write_text("a: LEAD\n")
    with pytest.raises(ConfigurationError, match="mapping of game"):
        read_entries([], file)


def test_the_summary_is_mean_and_deviation_over_the_steps_that_all_seeds_reached():
    def result(values):
        history = [{"step": 10 * k, "values": {"fid": v}} for k, v in enumerate(values, start=1)]
        counts = {"flops_per_step": 6.0, "seconds": 1.0, "steps": 2, "evaluations_per_step": {"gradients": 2.0}}
        return {"history": history, "skipped_turns": 1, **counts}

    runs = [Run(Entry(label, "LEAD", ()), seed, Path(), (), "") for label in "ab" for seed in (0, 1)]
    rows = summary(runs, [result([9.0, 1.0, 5.0]), result([7.0, 3.0]), result([4.0]), {"failed": "why"}])
    assert rows[0]["curve"] == [(10, 8.0, pytest.approx(2**0.5)), (20, 2.0, pytest.approx(2**0.5))]
    assert rows[0]["fid"] == (2.0, pytest.approx(2**0.5))
    assert rows[0]["skipped"] == 2
    assert rows[1]["seeds"] == 1
    assert rows[1]["failed"] == ["why"]


@pytest.mark.parametrize("recipe", ["digits", "gaussians"])
def test_the_shipped_files_of_games_can_be_read(recipe):
    assert len(read_entries([], RECIPES / f"{recipe}_games.yaml")) == 14 + 4  # LEAD in both forms, at two couplings


def test_each_recipe_has_a_folder_of_its_own(monkeypatch, tmp_path, capsys):
    """So that the documentation's commands can be run one after another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "check_arguments", lambda runs: None)
    monkeypatch.setattr(runner, "run_all", lambda runs, **settings: [{"failed": "not run"} for _ in runs])
    for name in ("gaussians", "digits"):
        assert main(["compare", "--config", str(RECIPES / f"{name}.yaml"), "--games", "LEAD"]) == 1
        assert (Path("runs/compare") / name / "table.md").is_file()
