"""The examples run, briefly."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import torch
import yaml

from lightning_lead.cli import main as command_line

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(folder, *command):
    done = processes.run(command, cwd=folder, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain_gan", "lead_gan"])
def test_the_gan_and_its_port_train(name, tmp_path):
    assert "game steps: 5" in run(tmp_path, EXAMPLES / "port" / f"{name}.py", "--batches", 5)


def test_the_port_changes_fewer_than_20_lines():
    before, after = ((EXAMPLES / "port" / f"{n}.py").read_text().splitlines() for n in ("plain_gan", "lead_gan"))
    changed = [line for line in difflib.ndiff(before, after) if line.startswith("+ ") and line[2:].strip()]
    assert 0 < len(changed) < 20


@pytest.mark.slow
def test_the_demo_ends_with_a_table_and_the_files_that_it_names(tmp_path):
    out = run(tmp_path, EXAMPLES / "demo.py", "--steps", 2, "--every", 2)
    table = out[out.index("method  ") :]
    assert [line.split("  ")[0] for line in table.splitlines()[1:7]] == [
        "Adam (0.5)",
        "LEAD-Adam (0.5)",
        "LEAD-Adam (0.5) exact",
        "Adam (0.8)",
        "LEAD-Adam (0.8)",
        "Adam (0.0)",
    ]
    for what in ("samples", "FID plot", "metrics", "checkpoint"):
        (line,) = [line for line in table.splitlines() if line.startswith(what)]
        assert (tmp_path / line.rsplit(": ", 1)[1]).is_file(), line


@pytest.mark.slow
def test_a_lease_goes_on_where_the_one_before_has_ended(tmp_path):
    """Two leases of two game steps each."""
    for _ in range(2):
        lease = [EXAMPLES / "benchmarks" / "lease.py", "--fast", "--output", "out"]
        out = run(tmp_path, *lease, "--methods", "LEAD-Adam", "--set", "data.init_args.seed=3")
    result = json.loads((tmp_path / "out" / "results.json").read_text())["LEAD-Adam"]
    assert [(s["global_step"], s["steps_of_segment"], s["ended_by"]) for s in result["segments"]] == [
        (2, 2, "minutes"),
        (4, 2, "minutes"),
    ]
    assert all(s["images_per_second"] > 0 and s["hours_to_max_steps"] > 0 for s in result["segments"])
    assert all(0 < s["seconds_of_training"] < s["seconds_of_segment"] for s in result["segments"])
    assert [record["step"] for record in result["curve"]] == [2, 4]
    assert all(record["values"]["fid"] > 0 and record["protocol"]["num_samples"] == 200 for record in result["curve"])
    folder = tmp_path / "out" / "LEAD-Adam"
    names = [path.name for path in folder.iterdir()]
    assert {"last.ckpt", "generator.pt", "recipe.yaml", "segment.json"} <= set(names)
    assert result["checkpoint_bytes"] == (folder / "last.ckpt").stat().st_size
    assert "seed: 3" in (tmp_path / "out" / "LEAD-Adam" / "recipe.yaml").read_text()
    assert "at 4" in out


@pytest.fixture
def lease(monkeypatch, tmp_path):
    """The script as a module."""
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("lease", EXAMPLES / "benchmarks" / "lease.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda level: None)
    return module


def test_a_lease_of_a_run_that_has_diverged_writes_what_every_reader_of_json_takes(lease, monkeypatch, capsys):
    last = {"global_step": 2, "images_per_second": 1.0, "hours_to_max_steps": float("inf")}
    curve = [{"step": 2, "values": {"fid": float("nan")}}]
    monkeypatch.setattr(lease, "built", lambda *_: None)
    monkeypatch.setattr(lease, "pass_reals", lambda run: None)
    monkeypatch.setattr(lease, "segment", lambda *_: {"segment": last, "curve": curve, "checkpoint_bytes": 1})
    for _ in range(2):  # the second one reads what the first has written
        lease.main(["--fast", "--methods", "Adam"])

    def never(name):
        raise AssertionError(f"{name} is no JSON")

    result = json.loads(Path("runs/lease/results.json").read_text(), parse_constant=never)["Adam"]
    assert result["curve"] == [{"step": 2, "values": {"fid": None}}]
    assert [segment["hours_to_max_steps"] for segment in result["segments"]] == [None, None]
    assert "fid nan at 2" in capsys.readouterr().out


def test_the_seconds_of_scores_are_left_out_and_the_reals_pass_before_the_first_segment(lease, monkeypatch):
    from lightning_lead.metrics import Scorer

    order, clock, take, measure = [], [0.0], Scorer.take_reference, Scorer.measure_images

    def slow(name, work):
        def run(*arguments):
            clock[0] += 1000.0
            order.append(name)
            return work(*arguments)

        return run

    monkeypatch.setattr(sys, "argv", ["lease"])
    monkeypatch.setattr(lease, "now", lambda: clock[0])
    monkeypatch.setattr("lightning_lead.callbacks.segment._clock", lambda: clock[0])
    monkeypatch.setattr(Scorer, "take_reference", slow("reals", take))
    monkeypatch.setattr(Scorer, "measure_images", slow("score", measure))
    lease.main(["--fast", "--methods", "Adam", "--set", "trainer.max_steps=2"])
    assert order[0] == "reals"  # before anything is built for the segment
    (segment,) = json.loads(Path("runs/lease/results.json").read_text())["Adam"]["segments"]
    assert segment["seconds_of_segment"] == 1000.0  # the reals pass once more, by the cache if they are many
    assert segment["seconds_of_training"] == 0.0


@pytest.mark.slow
def test_the_search_finds_nothing_better_than_the_law(tmp_path):
    found = run(tmp_path, EXAMPLES / "law_search.py", "--fast")
    cells = [
        cell for line in found.splitlines() if line.startswith("| κ = ") for cell in line.strip("| ").split(" | ")[1:]
    ]
    assert cells
    assert all(float(cell.split(", ")[1]) > -1e-9 for cell in cells)


SIXTEENTHS = ["--data.batch_size=20", "--model.generator_batch_size=8"]  # of the recipe's, for 16 GPUs


def test_the_printed_commands_for_sixteen_gpus_keep_the_recipe():
    """Docs and script say the same; a game step of all ranks is that of one rank with the recipe's batches."""
    recipe = yaml.safe_load((EXAMPLES / "recipes" / "cifar10_sngan32.yaml").read_text())
    whole = recipe["data"]["init_args"]["batch_size"], recipe["model"]["generator_batch_size"]
    per_rank = tuple(int(setting.split("=")[1]) for setting in SIXTEENTHS)
    assert tuple(16 * size for size in per_rank) == whole
    assert per_rank[0] % recipe["model"]["discriminator_steps"] == 0
    page = (EXAMPLES.parent / "docs" / "distributed.md").read_text()
    head = (EXAMPLES / "slurm" / "train.sbatch").read_text()
    assert page.count(" ".join(SIXTEENTHS)) == 2
    assert " ".join(SIXTEENTHS) in head


@pytest.mark.parametrize("finished", [True, False])
def test_the_cluster_script_goes_back_into_the_queue_until_it_is_finished(finished, tmp_path, monkeypatch):
    """With stand-ins for srun, which notes its arguments, and for scontrol."""
    said = str(finished).lower()
    stand_ins = {
        "srun": f'echo "$@" > srun.txt; mkdir -p runs/x; echo \'"finished": {said}\' > runs/x/segment.json',
        "scontrol": 'echo "$@" > scontrol.txt',
    }
    for name, does in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "8", "SLURM_JOB_ID": "17"}
    environment = {**os.environ, **job, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    recipe = EXAMPLES / "recipes" / "cifar10_sngan32.yaml"
    script = ["bash", EXAMPLES / "slurm" / "train.sbatch", recipe, "runs/x", *SIXTEENTHS]
    assert subprocess.run(script, cwd=tmp_path, env=environment, timeout=60).returncode == 0
    requeued = tmp_path / "scontrol.txt"
    assert (requeued.read_text().split() if requeued.exists() else []) == ([] if finished else ["requeue", "17"])
    _, program, *arguments = (tmp_path / "srun.txt").read_text().split()
    assert program == "lightning-lead"
    shown = io.StringIO()
    monkeypatch.setattr(sys, "argv", [program, *arguments, "--print_config"])
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit, match="0"):
        command_line()
    config = yaml.safe_load(shown.getvalue())
    kinds = [entry["class_path"].rsplit(".", 1)[-1] for entry in config["trainer"]["callbacks"]]
    assert kinds[-2:] == ["SegmentCheckpoint", "Throughput"]
    assert [p["class_path"].rsplit(".", 1)[-1] for p in config["trainer"]["plugins"]] == [
        "CompactCheckpointIO",
        "SLURMEnvironment",
    ]
    assert config["trainer"]["plugins"][1]["init_args"]["auto_requeue"] is False
    assert (config["trainer"]["num_nodes"], config["ckpt_path"]) == (2, "last")
    assert (config["data"]["init_args"]["batch_size"], config["model"]["generator_batch_size"]) == (20, 8)


@pytest.mark.slow
def test_the_benchmark_ends_with_a_table_of_what_was_asked(tmp_path):
    """Every method that needs no extra package, on the smallest networks; counts are exact, times are not looked at."""
    methods = [
        "LEAD, exact",
        "LEAD, naive double backward",
        "LEAD as released (stale graph, D only)",
        "ExtraAdam",
        "ExtraAdam, one forward for both players",
    ]
    bench = EXAMPLES / "benchmarks" / "bench.py"
    run(tmp_path, bench, "--device", "cpu", "--workloads", "digits", "--rounds", 1, "--methods", *methods)
    rows = [line.split(" | ") for line in (tmp_path / "benchmark.md").read_text().splitlines() if "×" in line]
    flops = {row[0].removeprefix("| "): float(row[1].rstrip("×")) for row in rows}
    assert list(flops) == ["Adam", *methods]
    assert (
        1.0 == flops["Adam"] < flops["LEAD, exact"] < flops["ExtraAdam"] == 2.0 < flops["LEAD, naive double backward"]
    )
    traffic = {row[0].removeprefix("| "): float(row[6].rstrip("× |")) for row in rows}
    assert traffic["LEAD, exact"] == 1.0
    assert traffic["ExtraAdam"] == 2.0


@pytest.mark.slow
def test_the_share_of_python_has_a_row_for_every_method(tmp_path):
    out = run(tmp_path, EXAMPLES / "benchmarks" / "overhead.py", "--fast")
    rows = [line.strip("| ").split(" | ") for line in out.splitlines() if "×" in line]
    assert [row[0] for row in rows] == [
        "Lightning's manual optimization",
        "a plain loop without Lightning",
        "plain play",
        "LEAD, extrapolated",
        "LEAD, difference",
        "LEAD, exact",
    ]
    assert rows[0][2] == "1.00×"
    assert (tmp_path / "overhead.md").read_text() in out


@pytest.mark.slow
def test_the_costs_of_ports_are_relative_to_their_loops(tmp_path):
    script = EXAMPLES / "benchmarks" / "port_costs.py"
    out = run(tmp_path, script, "--ports", "vqgan", "--rounds", 1, "--steps", 1).splitlines()
    name, loop, plain, extrapolated, exact = out[2].strip("| ").split(" | ")
    assert (name, loop.split()[1], exact) == ("vqgan", "ms", "refused")
    assert float(plain) > 0
    assert float(extrapolated) > 0
    assert out[4].startswith("vqgan refuses LEAD: Cannot form the cross term")
