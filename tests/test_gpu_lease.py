"""The script of a lease, `make gpu`, on a CPU with tiny networks: parts, records, what is kept, and the freight."""

from __future__ import annotations

import json
import time
from pathlib import Path

import processes
import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "benchmarks" / "gpu.py"
FORMS = ["plain", "LEAD exact", "LEAD difference", "LEAD extrapolated"]


def code(text, folder):
    """What a script prints that can import the scripts of the lease."""
    head = f"import sys\nsys.path.insert(0, {str(SCRIPT.parent)!r})\nfrom pathlib import Path\nimport json\n"
    done = processes.run(["-c", head + text], cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def call(folder, *arguments):
    done = processes.run([SCRIPT, *arguments], cwd=folder, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def record(folder):
    return json.loads((folder / "runs" / "gpu" / "dry" / "gpu.json").read_text())


def rows(folder, title):
    """The cells of a table of gpu.md."""
    text = (folder / "runs" / "gpu" / "dry" / "gpu.md").read_text()
    lines = text.split(f"## {title}\n\n")[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.fixture(scope="module")
def lease(tmp_path_factory):
    """A call that is killed after its third part, and three whole ones; what was recorded after each."""
    folder = tmp_path_factory.mktemp("lease")
    killed = processes.Process([SCRIPT, "--dry-run"], cwd=folder, start_new_session=True)
    try:
        for _ in range(3000):
            if (folder / "runs/gpu/dry/gpu.json").is_file() and len(record(folder)["parts"]) >= 3:
                break
            time.sleep(0.1)
    finally:
        killed.kill()
    records = [record(folder)]
    for _ in range(3):
        call(folder, "--dry-run")
        records.append(record(folder))
    return folder, records


@pytest.mark.slow
def test_a_killed_call_goes_on_and_what_is_finished_is_not_made_again(lease):
    _, (killed, first, second, third) = lease
    made = list(killed["parts"])
    assert 3 <= len(made) < len(first["parts"])
    for name in made:
        assert first["parts"][name] == killed["parts"][name]
        assert name not in first["calls"][-1]["parts"]
    unfinished = {name for name, part in first["parts"].items() if part["state"] == "unfinished"}
    assert unfinished == {
        f"training/{form}/{beta}" for form in FORMS if form != FORMS[2] for beta in ("0", "0.5", "0.8")
    }
    assert set(second["calls"][-1]["parts"]) == unfinished
    assert third["calls"][-1]["parts"] == []
    assert third["parts"] == second["parts"]
    for name in unfinished:  # one game step in each of two segments: from the checkpoint, not from the start
        part = second["parts"][name]
        assert [segment["state"] for segment in part["segments"]] == ["unfinished", "done"]
        assert part["found"]["global_step"] == 2
        assert part["found"]["steps_of_segment"] == 1
        assert list(part["found"]["scores"]) == ["1", "2"]


@pytest.mark.slow
def test_every_part_has_run_and_has_its_keys(lease):
    _, (*_, last) = lease
    parts = last["parts"]
    assert {part["state"] for part in parts.values()} == {"done"}
    assert {"device", "torch", "lightning", "lightning_lead", "missing"} <= set(parts["machine"]["found"])
    tests = parts["tests"]["found"]
    assert (tests["passed"], tests["failed"], tests["status"]) == (0, 0, 0)
    assert tests["skipped"] > 5  # for want of a device
    for name, part in parts.items():
        if name.startswith(("steps/", "host/")):
            assert list(part["found"]["forms"]) == FORMS
            for form in part["found"]["forms"].values():
                if "/fp16/" in name:  # which Lightning would replace by bf16 on a CPU
                    assert form["state"] == "refused"
                    assert "Lightning takes bf16-mixed" in form["error"]
                    continue
                assert {"state", "milliseconds", "quartiles", "steps", "to_plain", "peak_bytes"} <= set(form)
                if name.startswith("host/"):
                    assert {"queueing_ms", "alone_ms", "host_share", "kernels_ms", "kernels_per_step"} <= set(form)
        if name.startswith("training/"):
            assert {"form", "beta1", "features", "samples", "scores", "reals_per_second"} <= set(part["found"])
            assert "no FID of other papers" in part["found"]["features"]
    counted = [form["flops"] for form in parts["steps/DCGAN/fp32/contiguous/eager"]["found"]["forms"].values()]
    assert counted[0] == counted[3] < min(counted[1:3])  # plain and extrapolated cost one gradient a turn


@pytest.mark.slow
def test_the_table_has_a_row_for_every_form_and_precision(lease):
    folder, _ = lease
    found = {tuple(row[:5]) for row in rows(folder, "Game steps")}
    eager = {
        (network, form, precision, layout, "eager")
        for network in ("SNGAN-ResNet32", "DCGAN")
        for form in FORMS
        for precision in ("fp32", "TF32", "bf16", "fp16")
        for layout in ("contiguous", "channels last")
    }
    assert eager <= found
    assert {row[4] for row in found - eager} == {"fused Adam", "compile", "graphs"}
    assert len(rows(folder, "The host's share")) == 8
    assert len(rows(folder, "CIFAR-10 by momentum")) == 10  # with the generator that scores are tried on


def test_a_part_that_raises_hangs_or_dies_is_recorded_and_the_others_go_on(tmp_path):
    text = """
import os, time
import gpu
from gpu_parts import Bench, Part
from lightning_lead._errors import ConfigurationError
def raises(bench): bench.tell({"so far": 1}); raise ValueError("why\\nmore")
def refuses(bench): raise ConfigurationError("Cannot do it")
def dies(bench): os._exit(3)
def hangs(bench): bench.tell({"so far": 2}); time.sleep(100)
def works(bench): return "done"
parts = [Part(f.__name__, "", 0.5 if f is hangs else 60, f) for f in (raises, refuses, dies, hangs, works)]
gpu.all_parts, gpu.SLOW = lambda: parts, 1
for _ in range(2):
    bench = Bench("cpu", Path("."), True, 2)
    results = gpu.work_through(parts, bench, time.monotonic() + 100, Path("gpu.json"))
print("RESULT" + json.dumps(results))
"""
    results = json.loads(code(text, tmp_path).rsplit("RESULT", 1)[1])
    parts = results["parts"]
    assert [(name, part["state"]) for name, part in parts.items()] == [
        ("raises", "failed"),
        ("refuses", "refused"),
        ("dies", "failed"),
        ("hangs", "cut"),
        ("works", "done"),
    ]
    assert parts["raises"]["error"] == "ValueError: why"
    assert (parts["raises"]["found"], parts["hangs"]["found"]) == ({"so far": 1}, {"so far": 2})
    assert parts["dies"]["error"] == "its process ended with status 3"
    assert [len(call["parts"]) for call in results["calls"]] == [5, 0]
    assert "| works | done |" in (tmp_path / "gpu.md").read_text()


def test_packed_parts_join_to_the_same_bytes_and_damaged_ones_are_refused(tmp_path):
    text = """
import os
import gpu_freight, gpu_training
os.environ["LIGHTNING_LEAD_HOME"] = str(Path("here").resolve())
gpu_training.made_up_images(Path("here"))
gpu_freight.find_inception = lambda: None
folders = gpu_freight.pack(Path("parts"), part_mib=0.1)
last = max((len(list(folder.iterdir())), folder) for folder in folders)[1]
missing = gpu_freight.take(folders[1:], Path("there"))
assert missing == [f"part-1-of-{len(folders)}"], missing
(part,) = folders[0].glob("part*")
whole = part.read_bytes()
part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
try:
    gpu_freight.take(folders[:1], Path("there"))
except gpu_freight.ConfigurationError as error:
    print(error)
part.write_bytes(whole)
assert gpu_freight.take(folders[:1], Path("there")) == []
assert gpu_freight.take(folders[:1], Path("there")) == []
print(len(folders), max(path.stat().st_size for folder in folders for path in folder.glob("part*")))
"""
    said = code(text, tmp_path).splitlines()
    assert any("Inception" in line and "left out" in line for line in said)
    assert any(line.startswith("Cannot take ") and "SHA-256" in line for line in said)
    count, largest = map(int, said[-1].split())
    assert count > 1
    assert largest <= 0.1 * 2**20
    sent, come = (tmp_path / "here" / "cifar10", tmp_path / "there" / "store" / "cifar10")
    names = sorted(path.name for path in sent.glob("*.npy"))
    assert len(names) == 4
    assert all((sent / name).read_bytes() == (come / name).read_bytes() for name in names)
    assert not (tmp_path / "there" / "freight").exists()


def test_the_plan_stands_in_the_docs_and_no_call_is_longer_than_nine_minutes(tmp_path):
    plan = call(tmp_path, "--plan").strip()
    assert plan in (ROOT / "docs" / "speed.md").read_text()
    totals = [float(line.split("|")[3]) for line in plan.splitlines() if line.split("|")[2].strip() == "all"]
    assert len(totals) > 2
    assert all(total <= 9 * 60 - 25 for total in totals)
