"""Whatever goes wrong beside a good run, or after hours of work: nothing is lost, and one line says what it was."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import processes
import pytest
import torch
from pairs import some

from lightning_lead import ConfigurationError, _files
from lightning_lead._errors import StorageError
from lightning_lead._files import held, replacing
from lightning_lead.callbacks._run_folders import RunFolders
from lightning_lead.cli import command as command_line
from lightning_lead.cli import main
from lightning_lead.evaluate import ScoreRecord, command, measure

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
RECIPE = f"--config={RECIPES / 'gaussians.yaml'}"
SMALL = ["--model.generator.width=8", "--model.discriminator.width=8", "--data.batch_size=16"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.logger=false"]
SAVES = ["--trainer.callbacks=[]", "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath=runs/a"]
SAVES += ["--trainer.callbacks.save_last=true", "--trainer.callbacks.every_n_train_steps=2"]
FIT = ["fit", RECIPE, *SMALL, *QUIET, *SAVES]
pytestmark = [
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter is intended"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


@pytest.fixture
def ended(monkeypatch):
    """How the installed command ends: what it says in one line, or "" if all went well."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lightning-lead", *map(str, arguments)])
        try:
            command_line()
        except SystemExit as end:
            said = end.code
            assert isinstance(said, str)
            assert "\n" not in said
            assert len(said) < 700
            return said.removeprefix("lightning-lead: ")
        return ""

    return run


@pytest.fixture(scope="module")
def good_run(tmp_path_factory):
    """A run of three steps, with a save after the second and one at the end."""
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["lightning-lead", *FIT, "--trainer.max_steps=3"])
        main()
    return folder


@pytest.fixture
def beside(good_run, tmp_path, monkeypatch):
    """A copy of its folder to be in."""
    shutil.copytree(good_run / "runs", tmp_path / "runs", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def until(holds):
    """Wait until it holds, for two minutes."""
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def saved():
    """Path -> content, of all checkpoints that can be reached."""
    return {str(path): path.read_bytes() for path in sorted(Path("runs").rglob("*.ckpt"))}


def full_disk(monkeypatch, *, after=0):
    """Of all files that are written whole or not at all, those after some first ones are cut short."""
    written = itertools.count(1)
    write = Path.write_bytes

    def cut(self, content):
        if self.name.startswith(_files.UNFINISHED) and next(written) > after:
            write(self, bytes(content)[:100])
            raise OSError(28, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", cut)


# ---- a fit that is refused, beside a good run -----------------------------------------------------------------------

REFUSED = {
    "a setting of the trainer": ["--trainer.gradient_clip_val=1.0"],
    "a precision": ["--trainer.precision=16-mixed"],
    "an optimizer": ["--model.optimizer=torch.optim.LBFGS"],
    "a callback": ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.1"],
    "networks that do not fit": ["--model.discriminator=lightning_lead.networks.DCGANDiscriminator"],
    "a batch that cannot be split": ["--model.discriminator_steps=7"],
    "a coupling": ["--model.game.init_args.coupling=-1"],
    "a name": ["--model.generater.width=3"],
    "another game's checkpoint": ["--ckpt_path=last", "--game=ExtraAdam"],
    "other networks' checkpoint": ["--ckpt_path=runs/a/last.ckpt", "--model.generator.width=4"],
    "no checkpoint": ["--ckpt_path=runs/a/none.ckpt"],
    "a folder of data": ["--data.class_path=lightning_lead.CIFAR10DataModule", "--data.root=nowhere"],
}


@pytest.mark.parametrize("what", some(REFUSED, 6))
def test_a_fit_that_is_refused_leaves_a_good_run_as_it_was(what, beside, ended, became, monkeypatch):
    monkeypatch.setenv("LIGHTNING_LEAD_HOME", str(beside / "empty"))
    before = saved()
    assert before
    outcome = "one line"
    try:
        assert ended(*FIT, "--trainer.max_steps=6", *REFUSED[what])
    except (RuntimeError, TypeError, UserWarning, ValueError):  # of torch, or Lightning
        outcome = "an error of torch or Lightning"
    assert saved() == before
    became("refused fit beside a good run", f"{outcome}, the good run untouched")


@pytest.mark.parametrize("resumed", [True, False])
@pytest.mark.parametrize("after", [0, 2])
def test_a_disk_that_fills_up_leaves_every_earlier_checkpoint(resumed, after, beside, ended, became, monkeypatch):
    before = saved()
    full_disk(monkeypatch, after=after)
    more = ["--ckpt_path=runs/a/last.ckpt"] if resumed else []
    said = ended(*FIT, "--trainer.max_steps=9", *more)
    assert said.startswith("Cannot save the checkpoint")
    assert "No space left" in said
    for path in map(Path, saved()):
        assert torch.load(path, weights_only=True)["global_step"] > 0
    if not after:
        assert saved() == before
    assert torch.load("runs/a/last.ckpt", weights_only=True)["global_step"] in (2, 3, 4)
    assert not list(Path("runs").rglob(f"{_files.UNFINISHED}*"))
    became("full disk", "one line, earlier checkpoints whole")


@pytest.mark.parametrize("back", [True, False])
def test_a_folder_that_vanishes_is_made_again_or_ends_the_run_with_its_name(back, beside, ended, became, monkeypatch):
    save = RunFolders._save

    def vanishes(self, *arguments, **settings):
        if not list(Path("runs/a").glob("version_1/*")):
            return save(self, *arguments, **settings)
        monkeypatch.setattr(RunFolders, "_save", save)
        shutil.rmtree("runs/a")
        if not back:
            Path("runs/a").touch()
        return save(self, *arguments, **settings)

    monkeypatch.setattr(RunFolders, "_save", vanishes)
    said = ended(*FIT, "--trainer.max_steps=4")
    if back:
        assert torch.load("runs/a/last.ckpt", weights_only=True)["global_step"] == 4
    assert said == "" if back else said.startswith(f"Cannot save the checkpoint {Path('runs/a/version_1').resolve()}")
    became("folder that vanishes", "made again" if back else "one line that names it")


@pytest.mark.slow
def test_of_two_fits_at_once_the_second_is_told_who_the_first_is_until_that_is_killed(
    tmp_path, ended, became, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    first = processes.Process(["-m", "lightning_lead.cli", *FIT, "--trainer.max_steps=1000000"], cwd=tmp_path)
    try:
        until(Path("runs/a/last.ckpt").is_file)
        said = ended(*FIT, "--trainer.max_steps=2")
        assert f"process {first.pid} on" in said
        assert said.startswith("Cannot write checkpoints to")
        first.send_signal(signal.SIGKILL)
        assert first.wait(timeout=60) == -signal.SIGKILL
    finally:
        first.kill()
    (kept,) = {path.resolve() for path in Path("runs/a").glob("last.ckpt")}
    content = kept.read_bytes()
    assert ended(*FIT, "--trainer.max_steps=2") == ""  # the lock was that of the process
    assert kept.read_bytes() == content
    assert torch.load("runs/a/last.ckpt", weights_only=True)["global_step"] == 2
    became("two fits at once", "the second refused by name, the first whole")


# ---- a checkpoint that is damaged, or missing -----------------------------------------------------------------------


def flipped(content):
    changed = bytearray(content)
    middle = len(changed) // 2
    changed[middle : middle + 300] = bytes(byte ^ 0xFF for byte in changed[middle : middle + 300])  # past any padding
    return bytes(changed)


DAMAGE = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[: len(content) * 2 // 3],
    "its beginning is gone": lambda content: b"\0" * 4096 + content[4096:],
    "text": lambda content: b"version https://git-lfs.github.com/spec/v1\n",
    "other bytes": flipped,
}
READERS = ["fit", "validate", "test", "predict", "evaluate"]


@pytest.mark.parametrize(("reader", "damage"), some(itertools.product(READERS, DAMAGE), 9))
def test_a_damaged_checkpoint_is_named_in_one_line(reader, damage, beside, ended, became):
    bad = Path("bad.ckpt")
    bad.write_bytes(DAMAGE[damage](Path("runs/a/last.ckpt").read_bytes()))
    named = "--checkpoint=bad.ckpt" if reader == "evaluate" else "--ckpt_path=bad.ckpt"
    said = ended(reader, RECIPE, *SMALL, *QUIET, named)
    assert "bad.ckpt" in said
    assert "damaged" in said
    assert f"{bad.stat().st_size} bytes" in said
    became("damaged checkpoint", "one line that names it")


def test_a_damaged_last_checkpoint_is_named_as_well(beside, ended, became):
    last = Path("runs/a/last.ckpt")
    last.resolve().write_bytes(flipped(last.read_bytes()))
    said = ended(*FIT, "--ckpt_path=last")
    assert "last.ckpt because it is damaged" in said
    became("damaged checkpoint", "one line that names it")


@pytest.mark.parametrize("name", ["validate", "test", "predict"])
def test_without_a_checkpoint_nothing_is_written_by_untrained_networks(name, tmp_path, ended, became, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chosen = [name, RECIPE, *SMALL, *QUIET, "--trainer.callbacks=[]"]
    said = ended(*chosen)
    assert f"Cannot {name} because no checkpoint is named" in said
    assert "--ckpt_path=" in said
    assert "--untrained" in said
    assert not list(tmp_path.iterdir())
    assert ended(*chosen, "--untrained", "--trainer.limit_test_batches=0", "--trainer.limit_predict_batches=1") == ""
    became("no checkpoint named", "refused, unless --untrained")


# ---- output that cannot be written ----------------------------------------------------------------------------------


def unwritable(where, name):
    Path("a_file").write_text("kept")
    Path("a_folder", name).mkdir(parents=True)
    return {"in a file": Path("a_file", name), "a folder": Path("a_folder", name), "nobody's": Path("/proc", name)}[
        where
    ]


@pytest.mark.parametrize("where", ["in a file", "a folder", "nobody's"])
def test_scores_that_cannot_be_written_show_before_the_work(where, beside, ended, became, monkeypatch):
    monkeypatch.setattr(measure, "evaluate_checkpoint", lambda *_, **__: pytest.fail("hours of work"))
    output = unwritable(where, "scores.json")
    said = ended("evaluate", RECIPE, "--checkpoint=runs/a/last.ckpt", f"--output={output}")
    assert said.startswith(f"Cannot write to {output}")
    assert Path("a_file").read_text() == "kept"
    became("output that cannot be written", "refused before the work")


def test_a_score_is_printed_whatever_becomes_of_its_file(beside, ended, became, capsys, monkeypatch):
    found = ScoreRecord({"values": {"fid": 12.5}, "protocol": {}}, None)
    monkeypatch.setattr(measure, "evaluate_checkpoint", lambda *_, **__: found)

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "write_json", fails)
    said = ended("evaluate", RECIPE, "--checkpoint=runs/a/last.ckpt", "--output=new/scores.json")
    assert "| fid | 12.5 |" in capsys.readouterr().out
    assert said.startswith("Cannot write the scores above to new/scores.json")
    became("output that cannot be written", "printed all the same")


@pytest.mark.parametrize("where", ["in a file", "nobody's"])
def test_pictures_and_tables_that_cannot_be_written_show_before_the_work(where, beside, ended, became, monkeypatch):
    monkeypatch.setattr("lightning_lead.compare._runner._run", lambda *_: pytest.fail("hours of work"))
    output = unwritable(where, "there")
    assert str(output) in ended("compare", RECIPE, *SMALL, "--games", "LEAD", f"--output={output}")
    writes = ["--trainer.callbacks=lightning_lead.ImageWriter", f"--trainer.callbacks.dirpath={output}"]
    said = ended("predict", RECIPE, *SMALL, *QUIET, "--ckpt_path=runs/a/last.ckpt", *writes)
    assert said.startswith(f"Cannot write to {output}")
    became("output that cannot be written", "refused before the work")


def test_a_table_is_printed_whatever_becomes_of_its_file(tmp_path, became):
    from lightning_lead.compare import Entry, Run
    from lightning_lead.compare._report import write_report

    counts = {"flops_per_step": 6.0, "seconds": 1.0, "steps": 2, "evaluations_per_step": {}, "skipped_turns": 0}
    result = counts | {"history": [{"step": 10, "values": {"fid": 9.0}}], "protocol": None}
    (tmp_path / "table.csv").mkdir()
    said = write_report([Run(Entry("a", "LEAD", ()), 0, Path(), (), "")], [result], tmp_path, score="nope")
    assert "| a | 9 ± 0 |" in said
    assert "not written, or not all: " in said
    assert "no 'nope' among the scores, which are fid" in said
    became("output that cannot be written", "printed all the same")


@pytest.mark.parametrize("score", ["nope", "fid", "mode"])
def test_a_score_that_the_recipe_has_not_is_refused_before_any_run(score, tmp_path, ended, became):
    said = ended("compare", RECIPE, *SMALL, "--games", "LEAD", f"--output={tmp_path / 'out'}", f"--score={score}")
    assert f"Cannot show the score '{score}'; choose one that the recipe has: modes, high_quality" in said
    assert not (tmp_path / "out").exists()
    became("score that no run has", "refused before the work")


# ---- processes that are killed, and started twice -------------------------------------------------------------------

SLOW = '''
import time
from pathlib import Path
from lightning_lead import GaussiansDataModule


class Slow(GaussiansDataModule):
    """A run of it is still being built after a minute."""

    def __init__(self, batch_size: int = 16):
        super().__init__(batch_size=batch_size)
        Path("building").touch()
        time.sleep(60)
'''


@pytest.mark.slow
def test_a_run_that_has_not_begun_ends_with_a_comparison_that_is_killed(tmp_path, became):
    (tmp_path / "slow_data.py").write_text(SLOW)
    chosen = ["compare", RECIPE, *SMALL[:2], "--data.class_path=slow_data.Slow", "--games", "LEAD", "--output", "out"]
    environment = {
        **os.environ,
        "LIGHTNING_LEAD_TRUSTED": "slow_data",
        "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
    }
    process = processes.Process(
        ["-m", "lightning_lead.cli", *chosen],
        cwd=tmp_path,
        env=environment,
        stdout=tmp_path / "said",
        stderr=tmp_path / "said",
        start_new_session=True,
    )
    log = tmp_path / "out" / "lead" / "seed0" / "log.txt"
    try:
        until((tmp_path / "building").is_file)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
        until(lambda: "comparison has ended" in log.read_text())
    finally:
        process.kill()
    became("kill of compare", "its runs end with it")


def test_a_comparison_and_a_run_whose_folder_is_in_use_are_refused_by_name_and_not_failed(tmp_path, ended, became):
    chosen = ["compare", RECIPE, *SMALL, "--games", "LEAD", f"--output={tmp_path}", "--max_steps=2", "--every=1"]
    with held(tmp_path, purpose="hold"):
        said = ended(*chosen)
    assert f"Cannot compare in {tmp_path} because another process does" in said
    assert f"process {os.getpid()} on" in said
    folder = tmp_path / "lead" / "seed0"
    with held(folder, purpose="hold"):
        arguments = [RECIPE, "--game=LEAD", *SMALL, "--trainer.max_steps=2"]
        run = processes.run(["-m", "lightning_lead.compare.worker", folder, "f", *arguments], timeout=120)
    assert run.returncode == 75
    assert f"process {os.getpid()} on" in run.stderr
    assert {path.name for path in folder.iterdir()} == {".lock"}
    became("two comparisons at once", "the second refused by name")


def test_a_lock_names_its_holder_and_does_not_outlive_it(tmp_path, became):
    code = "import sys, time; from pathlib import Path; from lightning_lead._files import held\n"
    code += "with held(Path(sys.argv[1]), purpose='hold'): print(1, flush=True); time.sleep(60)"
    out = tmp_path / "out"
    holder = processes.Process(["-c", code, tmp_path / "held"], stdout=out)
    try:
        until(lambda: out.is_file() and out.read_text())
        with (
            pytest.raises(RuntimeError, match=rf"process {holder.pid} on \S+, since 2"),
            held(tmp_path / "held", purpose="use"),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=60)
    finally:
        holder.kill()
    with held(tmp_path / "held", purpose="use"):
        pass
    became("kill of a holder", "the folder is free")


def test_drafts_of_killed_writers_are_removed_and_those_of_living_ones_are_not(tmp_path, became):
    code = "import sys, time; from pathlib import Path; from lightning_lead._files import replacing\n"
    code += "with replacing(Path(sys.argv[1])) as draft: draft.write_text('half'); time.sleep(60)"
    dead, living = (processes.Process(["-c", code, tmp_path / name]) for name in ("dead", "living"))
    try:
        until(lambda: [path.stat().st_size for path in tmp_path.iterdir()] == [4, 4])
        dead.send_signal(signal.SIGKILL)
        dead.wait(timeout=60)
        with replacing(tmp_path / "mine") as draft:
            draft.write_text("whole")
        assert sorted(path.name.rpartition("-")[2] for path in tmp_path.iterdir()) == ["living", "mine"]
    finally:
        dead.kill()
        living.kill()
    became("draft of a killed writer", "removed by the next one")


# ---- arguments ------------------------------------------------------------------------------------------------------

MISSPELT = {
    "--trainer.max_stepz=3": "did you mean --trainer.max_steps?",
    "--model.generater.width=3": "did you mean --model.generator.width?",
    "--ckpt_pth=a": "did you mean --ckpt_path?",
    "--model.generator.init_args.widht=3": "did you mean width?",
    "--data.batch_sise=3": "did you mean batch_size?",
    "--trainer.callbacks=[lightning_lead.ModeCounterr]": "did you mean ModeCounter?",
    "--model.generator=lightning_lead.networks.MLPGenerater": "did you mean MLPGenerator?",
    "--model.generator_lr=fast": "Expected a float. Got value: fast",
    "--model.generator.width=wide": "width: Expected a int. Got value: wide",
    "--model.optimizer.init_args.betas=3": "betas: Expected a tuple. Got value: 3",
    "--config=nowhere.yaml": "nowhere.yaml",
    "extra": "Cannot take extra",
}


@pytest.mark.parametrize("argument", some(MISSPELT, 8))
def test_an_argument_that_is_wrong_is_one_line_with_the_nearest_name(
    argument, ended, became, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    said = ended("fit", RECIPE, argument)
    assert MISSPELT[argument] in said
    assert said.startswith("Cannot ")
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""
    assert not list(tmp_path.iterdir())
    became("wrong argument", "one line")


def test_a_storage_error_is_an_os_error_and_says_what_to_do(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(StorageError, match="choose another") as found, held(tmp_path / "a" / "b", purpose="write to"):
        pass
    assert isinstance(found.value, OSError)
    assert not isinstance(found.value, ConfigurationError)


def test_records_of_a_run_that_is_refused_beside_a_comparison_stay(tmp_path, ended):
    """The record of a finished run is read, and not written."""
    folder = tmp_path / "lead" / "seed0"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"fingerprint": "another"}))
    said = ended("compare", RECIPE, *SMALL, "--games", "LEAD", f"--output={tmp_path}")
    assert "holds a run of another recipe" in said
    assert json.loads((folder / "result.json").read_text()) == {"fingerprint": "another"}
