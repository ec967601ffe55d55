"""lightning-lead compare: a table and a figure, whatever happens to single runs."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import processes
import pytest
import torch

from lightning_lead import ConfigurationError, DivergenceError, GameStrategy, ModeCounter, SegmentCheckpoint
from lightning_lead._files import write_json
from lightning_lead.callbacks import segment
from lightning_lead.cli import main
from lightning_lead.compare import Entry, Run, summary, worker
from lightning_lead.compare import _plan as plan
from lightning_lead.compare import _runner as runner
from lightning_lead.compare._plan import plan_runs, read_entries
from lightning_lead.compare._processes import visible_gpus
from lightning_lead.compare._recorder import Recorder
from lightning_lead.compare._report import write_report
from lightning_lead.compare.worker import CHECKPOINT
from lightning_lead.compare.worker import run as run_here
from lightning_lead.data import ModeCoverage
from lightning_lead.evaluate import differences, evaluate_checkpoint

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
GAUSSIANS = ["--config", str(RECIPES / "gaussians.yaml")]
SMALL = ["--model.generator.width=8", "--model.discriminator.width=8", "--data.batch_size=16", "--every", "5"]


def compare(output, *arguments):
    return main(["compare", *GAUSSIANS, "--output", str(output), *SMALL, *map(str, arguments)])


@contextlib.contextmanager
def runs_as_forks():
    """Of a comparison in this process: they need not import Lightning each for itself."""
    forking = SimpleNamespace(Popen=lambda command, stdin, **settings: processes.Process(command[1:], **settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_lead.compare._processes.subprocess", forking)
        yield


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
    with runs_as_forks():
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
        arguments = [f"--config={RECIPES / 'gaussians.yaml'}", "--game=ExtraAdam", "--trainer.max_steps=160"]
        arguments += ["--every=40", *SMALL[:3], "--trainer.callbacks=null"]
        process = processes.Process(["-m", "lightning_lead.compare.worker", folder, "f", *arguments])
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
    assert 0 < begun < 160
    assert run(stopped) == 0
    ends = [torch.load(folder / CHECKPOINT, weights_only=True) for folder in (whole, stopped)]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 160
    for name, value in ends[0]["state_dict"].items():
        assert torch.equal(value, ends[1]["state_dict"][name]), name
    results = [json.loads((folder / "result.json").read_text()) for folder in (whole, stopped)]
    assert results[0]["evaluations_per_step"]["gradients"] == 4.0
    assert results[0]["flops_per_step"] == results[1]["flops_per_step"] > 0


def test_a_long_run_is_saved_by_the_clock_and_goes_on_bitwise_the_same(tmp_path, monkeypatch):
    """A clock on which each of a game step's two turns takes 20 seconds, and one checkpoint by steps, the last."""
    play, save = GameStrategy.play_turn, SegmentCheckpoint._save
    now, turns, saved = [0.0], [], []

    def slow(*arguments):
        now[0] += 20.0
        turns.append(now[0])
        if len(turns) == stop:
            raise KeyError("the machine is gone")
        return play(*arguments)

    def noted(self, trainer, *arguments):
        saved.append(trainer.global_step)
        save(self, trainer, *arguments)

    def run(name):
        arguments = [f"--config={RECIPES / 'gaussians.yaml'}", "--game=LEAD", "--trainer.max_steps=60", *SMALL[:3]]
        run_here(tmp_path / name, "f", [*arguments, "--trainer.callbacks=null"], checkpoints=1)

    monkeypatch.setattr(sys, "argv", ["worker"])
    monkeypatch.setattr(segment, "_clock", lambda: now[0])
    monkeypatch.setattr(GameStrategy, "play_turn", slow)
    monkeypatch.setattr(SegmentCheckpoint, "_save", noted)
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


@pytest.mark.parametrize("plugins", [[], ["--trainer.plugins=[lightning_lead.CompactCheckpointIO]"]])
def test_a_run_keeps_its_last_checkpoint_and_no_other_file_of_one(plugins, tmp_path, monkeypatch):
    """Ten saves, by Lightning's own writer and by a plugin."""
    monkeypatch.setattr(sys, "argv", ["worker"])
    arguments = [f"--config={RECIPES / 'gaussians.yaml'}", "--game=ExtraAdam", "--trainer.max_steps=20", *SMALL[:3]]
    run_here(tmp_path, "f", [*arguments, *plugins, "--trainer.callbacks=null"])
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["global_step"] == 20
    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock",
        CHECKPOINT,
        "config.yaml",
        "result.json",
        "segment.json",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_comparison_that_is_stopped_leaves_no_run_behind_and_goes_on(tmp_path, name):
    command = ["-m", "lightning_lead.cli", "compare", *GAUSSIANS, "--output", tmp_path / "out"]
    command += [*SMALL, "--every", "1000", "--games", "ExtraAdam", "AlternatingGDA", "--max_steps", "240"]
    process = processes.Process(command, start_new_session=True)
    try:
        checkpoint = tmp_path / "out" / "extraadam" / "seed0" / CHECKPOINT
        deadline = time.monotonic() + 120
        while not checkpoint.is_file() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, getattr(signal, name))  # as the terminal does
        assert process.wait(timeout=60) == (-signal.SIGKILL if name == "SIGKILL" else 130)
    finally:
        process.kill()
    log = checkpoint.with_name("log.txt")
    while name == "SIGKILL" and "comparison has ended" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not checkpoint.with_name("result.json").exists()
    assert not checkpoint.with_name("failure.json").exists()
    begun = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 0 < begun < 240
    assert not (tmp_path / "out" / "alternatinggda").exists()
    if name != "SIGINT":  # the way on is the same
        return
    command.remove("AlternatingGDA")
    with runs_as_forks():
        assert main([str(part) for part in command[2:]]) == 0
    result = json.loads(checkpoint.with_name("result.json").read_text())
    assert result["steps"] == 240
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

    monkeypatch.setattr("lightning_lead.compare._recorder._now", lambda module: clock[0])
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
    file.write_text("fast LEAD: {game: 'LEAD(coupling=2.0)', overrides: {model.generator_lr: 0.1, model.clip: null}}\n")
    (entry,) = read_entries([], file)
    assert entry == Entry("fast LEAD", "LEAD(coupling=2.0)", ("--model.generator_lr=0.1", "--model.clip=null"))
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


def test_rows_that_cost_more_are_read_earlier_at_equal_flops(tmp_path):
    def result(flops, values):
        counts = {"flops_per_step": flops, "seconds": 1.0, "steps": 40, "evaluations_per_step": {}, "skipped_turns": 0}
        return {"history": [{"step": 10 * k, "values": {"fid": v}} for k, v in enumerate(values, start=1)], **counts}

    runs = [Run(Entry(label, "LEAD", ()), 0, Path(), (), "") for label in ("plain", "twice", "dear")]
    found = [result(1.0, [9.0, 8.0, 7.0, 6.0]), result(2.0, [5.0, 4.0, 3.0, 2.0]), result(5.0, [1.0] * 4)]
    rows = summary(runs, found)
    assert [row["equal"] for row in rows] == [(40, 6.0, 0.0), (20, 4.0, 0.0), None]
    head, _, *lines = write_report(runs, found, tmp_path).splitlines()[:5]
    assert head.startswith("| game | fid | fid at equal FLOPs | seeds |")
    assert [line.split(" | ")[2] for line in lines] == ["6 ± 0 (40)", "4 ± 0 (20)", "–"]
    assert "equal FLOPs" not in write_report(runs[:1], found[:1], tmp_path)  # nothing costs more


def test_a_score_on_the_way_that_is_not_finite_is_null_in_the_file_and_no_number_in_the_curve(tmp_path):
    runs, found = [], []
    for seed, fid in enumerate([math.nan, 2.0]):
        runs.append(Run(Entry("A", "LEAD", ()), seed, tmp_path / str(seed), (), ""))
        kept = {
            "history": [{"step": 5, "values": {"fid": fid}}, {"step": 10, "values": {"fid": 3.0}}],
            "flops_per_step": 10.0,
            "seconds": 1.0,
            "steps": 10,
            "evaluations_per_step": {"gradients": 2.0},
            "skipped_turns": 0,
        }
        path = tmp_path / f"{seed}.json"
        write_json(path, kept)
        found.append(json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON")))
    assert [result["history"][0]["values"] for result in found] == [{"fid": None}, {"fid": 2.0}]
    (row,) = summary(runs, found)
    assert row["fid"] == (3.0, 0.0)
    (first, *spread), second = row["curve"]
    assert first == 5
    assert all(map(math.isnan, spread))
    assert second == (10, 3.0, 0.0)
    assert "| A | 3 ± 0 |" in write_report(runs, found, tmp_path)
    assert (tmp_path / "curves.png").is_file()


def test_each_recipe_has_a_folder_of_its_own(monkeypatch, tmp_path, capsys):
    """So that the documentation's commands can be run one after another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "configurations", lambda runs: {})
    monkeypatch.setattr(runner, "run_all", lambda runs, **settings: [{"failed": "not run"} for _ in runs])
    for name in ("gaussians", "digits"):
        assert main(["compare", "--config", str(RECIPES / f"{name}.yaml"), "--games", "LEAD"]) == 1
        assert (Path("runs/compare") / name / "table.md").is_file()


# ---- several GPUs ---------------------------------------------------------------------------------------------------

WORKER = """#!{python}
import json, os, sys, time
from pathlib import Path
folder, fingerprint = Path(sys.argv[3]), sys.argv[4]
gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
taken = folder.parents[1] / f"gpu-{{gpu}}"
taken.touch(exist_ok={shared})  # two runs on one GPU at a time are an error
time.sleep(0.2)
taken.unlink(missing_ok=True)
(folder / "result.json").write_text(json.dumps({{"fingerprint": fingerprint, "gpu": gpu}}))
"""


@pytest.fixture
def on_gpus(tmp_path, monkeypatch):
    """Runs of two entries and four seeds by a worker that notes its environment; their GPUs."""

    def run(*, shared=False, **settings):
        script = tmp_path / "worker"
        script.write_text(WORKER.format(python=sys.executable, shared=shared))
        script.chmod(0o755)
        monkeypatch.setattr(runner.sys, "executable", str(script))
        entries = [Entry("one", "LEAD", ()), Entry("all", "LEAD", ())]
        runs = plan_runs(entries, RECIPES / "gaussians.yaml", [0, 1, 2, 3], tmp_path / "out", [])
        results = runner.run_all(runs, **settings)
        assert not [result for result in results if "failed" in result]
        return [
            [r["gpu"] for r, run in zip(results, runs, strict=True) if run.entry.label == name]
            for name in ("one", "all")
        ]

    return run


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_each_job_has_a_gpu_of_its_own_and_a_free_one_is_used_again(on_gpus, jobs):
    one, others = on_gpus(jobs=jobs, gpus=["2", "5", "7"], pinned={"one", "all"})
    assert set(one + others) == set(["2", "5", "7"][:jobs])


def test_more_jobs_than_gpus_share_them_evenly(on_gpus):
    one, others = on_gpus(jobs=8, gpus=["2", "5"], pinned={"one", "all"}, shared=True)
    assert sorted(one + others) == ["2"] * 4 + ["5"] * 4  # all eight at once


def test_a_run_on_all_gpus_keeps_the_environment(on_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    one, others = on_gpus(jobs=1, gpus=["4", "6"], pinned={"one"})
    assert (set(one), set(others)) == ({"4"}, {"4,6"})


def test_a_single_gpu_is_not_handed_out(on_gpus, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    one, others = on_gpus(jobs=2, gpus=["0"], pinned={"one", "all"}, shared=True)
    assert set(one + others) == {None}


def test_the_old_name_of_the_gpus_warns_and_is_obeyed(on_gpus):
    with pytest.warns(FutureWarning, match="cards of run_all is called gpus"):
        one, _ = on_gpus(jobs=1, cards=["2", "5"], pinned={"one"})
    assert set(one) == {"2"}


@pytest.mark.parametrize(
    ("given", "count", "names"),
    [
        (None, 3, ["0", "1", "2"]),
        ("5,1", 2, ["5", "1"]),
        ("GPU-8f2a,GPU-77c1", 2, ["GPU-8f2a", "GPU-77c1"]),
        ("0,-1,2", 1, ["0"]),
        ("", 0, []),
    ],
)
def test_the_gpus_are_those_that_this_process_may_use(given, count, names):
    environment = {} if given is None else {"CUDA_VISIBLE_DEVICES": given}
    assert visible_gpus(environment, count) == names


def test_the_command_gives_gpus_to_runs_of_one_device(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(runner, "run_all", lambda runs, **s: asked.update(s) or [{"failed": "not run"} for _ in runs])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    file = tmp_path / "games.yaml"
    file.write_text("one: {game: LEAD}\ntwo: {game: LEAD, overrides: {trainer.devices: 2}}\n")
    compare(tmp_path / "out", "--games-file", file, "--trainer.accelerator=auto", "--jobs", 2)
    assert (asked["gpus"], asked["pinned"]) == (["0", "1"], {"one"})
    compare(tmp_path / "out", "--games-file", file)  # the recipe's accelerator is the processor
    assert (asked["gpus"], asked["pinned"]) == ([], set())


# ---- who wins -------------------------------------------------------------------------------------------------------


def test_an_entry_s_own_setting_wins_and_it_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "run_all", lambda runs, **settings: [{"failed": "not run"} for _ in runs])
    file = tmp_path / "games.yaml"
    file.write_text("plain: {game: LEAD}\nown: {game: LEAD, overrides: {data.batch_size: 128, model.clip: 1.0}}\n")
    compare(tmp_path / "out", "--games-file", file, "--model.accumulate=2")
    said = [line for line in capsys.readouterr().out.splitlines() if "stands" in line]
    assert said == ["own: --data.batch_size=128 of its entry stands, and not --data.batch_size=16 of the command line"]


# ---- how it was measured --------------------------------------------------------------------------------------------

DIGITS = [f"--config={RECIPES / 'digits.yaml'}", "--game=LEAD", "--trainer.max_steps=4", "--every=2"]
NARROW = ["--model.generator.width=4", "--model.discriminator.width=4", "--data.batch_size=16"]


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter is intended")
def test_the_protocol_is_in_the_result_and_a_last_score_of_more_samples_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["worker"])
    plain = run_here(tmp_path, "f", [*DIGITS, *NARROW])
    assert plain["protocol"]["num_samples"] == 2000
    assert "final" not in plain

    def never(*_, **__):
        raise AssertionError("the fit is over")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "_fit", never)
        result = run_here(tmp_path, "f", [*DIGITS, *NARROW, "--final_samples=2100"])
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert {key: result[key] for key in plain} == plain
    assert differences(result["protocol"], result["final"]["protocol"]) == {"num_samples": (2000, 2100)}
    assert (result["final"]["step"], result["final"]["values"].keys()) == (4, result["history"][-1]["values"].keys())
    settings = {"overrides": [*DIGITS[1:3], *NARROW], "num_samples": 2000}
    same = evaluate_checkpoint(RECIPES / "digits.yaml", tmp_path / CHECKPOINT, **settings)
    assert same.record["values"] == result["history"][-1]["values"]  # the control: of as many samples it is the fit's
    assert result["final"]["values"]["fid"] != result["history"][-1]["values"]["fid"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*DIGITS, *NARROW, "--final_samples=10"], "Cannot compute FID from fewer samples than features"),
        ([f"--config={RECIPES / 'gaussians.yaml'}", "--final_samples=10"], "the recipe has no GenerativeMetrics"),
    ],
)
def test_a_last_score_that_cannot_be_taken_is_refused_before_the_fit(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "argv", ["worker"])
    with pytest.raises(ConfigurationError, match=message):
        run_here(tmp_path, "f", arguments)
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_finished_run_is_only_run_again_for_a_last_score_that_it_lacks():
    result, scored = {"steps": 4}, {"steps": 4, "final": {"protocol": {"num_samples": 50}}}
    complete = runner._is_complete
    assert [complete(result, None), complete(result, 50)] == [True, False]
    assert [complete(scored, None), complete(scored, 50), complete(scored, 60)] == [True, True, False]
    assert complete({"failed": "why"}, 50)


def protocol(**changes):
    known = {"num_samples": 100, "num_reference": 200, "reference": "digits", "reference_sha256": "ab" * 32, "seed": 0}
    known |= {"ema": None, "value_range": [-1, 1], "extractor": "Small", "extractor_fingerprint": "cd" * 32}
    return known | {"num_features": 6, "clipped_share": 0.5} | changes


def results(*protocols, **final):
    counts = {"flops_per_step": 6.0, "seconds": 1.0, "steps": 2, "evaluations_per_step": {}, "skipped_turns": 0}
    history = [{"step": 10, "values": {"fid": 9.0}}]
    return [counts | {"history": history, "protocol": one} | final for one in protocols]


def of(labels):
    return [Run(Entry(label, "LEAD", ()), 0, Path(), (), "") for label in labels]


def test_the_protocol_stands_under_the_table_and_rows_that_differ_are_named(tmp_path):
    said = write_report(of("ab"), results(protocol(), protocol(clipped_share=0.1)), tmp_path)
    assert "Scores: 100 fakes (live weights, eval mode, seed 0) against 200 reals (digits, sha256 abababababab)" in said
    assert "not the same" not in said  # what was clipped is an outcome
    unlike = [protocol(), protocol(num_samples=50), protocol(device={"name": "cpu"}), None]
    said = write_report(of("abcd"), results(*unlike), tmp_path)
    assert "**The protocol is not the same in all rows**: num_samples (100 in a; 50 in b); " in said
    assert "device.name (none in a; cpu in c)." in said
    assert "No protocol is known of d." in said
    assert said.startswith((tmp_path / "table.md").read_text().rstrip())
    assert "Scores" not in write_report(of("a"), results(None), tmp_path)


def test_the_row_shows_the_last_score_where_every_seed_has_one(tmp_path):
    last = {"step": 12, "values": {"fid": 3.0}, "protocol": protocol(num_samples=500)}
    both = [run._replace(seed=seed) for seed, run in enumerate(of("aa"))]
    (row,) = summary(both, results(protocol(), protocol(), final=last))
    assert (row["fid"], row["step"], row["curve"]) == ((3.0, 0.0), 12, [(10, 9.0, 0.0)])
    said = write_report(both, results(protocol(), protocol(), final=last), tmp_path)
    assert "500 fakes" in said
    assert "The figure shows the scores on the way, of 100 fakes." in said
    (row,) = summary(both, [*results(protocol(), final=last), *results(protocol())])
    assert row["fid"] == (9.0, 0.0)  # one of both has none: the score that they share
