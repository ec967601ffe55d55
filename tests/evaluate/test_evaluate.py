"""lightning-lead evaluate: the number of the training run again, and other people's samples by the same protocol."""

from __future__ import annotations

import json
from pathlib import Path

import processes
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from lightning_lead import CheckpointMismatchError, CompactCheckpointIO, ConfigurationError, features
from lightning_lead.callbacks import GenerativeMetrics
from lightning_lead.cli import main
from lightning_lead.data import DigitsDataModule
from lightning_lead.evaluate import ScoreRecord, differences, evaluate_checkpoint, evaluate_images
from lightning_lead.metrics._protocol import protocol_table, read_records

RECIPE = Path(__file__).parents[2] / "examples" / "recipes" / "digits.yaml"
pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter is intended")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of the digits' recipe, scored and saved after four game steps: (recipe, folder)."""
    folder = tmp_path_factory.mktemp("run")
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    recipe["trainer"] |= {"max_steps": 4, "logger": False, "default_root_dir": str(folder), "log_every_n_steps": 1}
    recipe["trainer"] |= {"enable_progress_bar": False, "enable_model_summary": False}
    ema, metrics, _, checkpoint, _ = recipe["trainer"]["callbacks"]
    metrics["init_args"] |= {"every_n_steps": 4, "num_samples": 300, "metrics": ["fid", "prdc", "memorization"]}
    checkpoint["init_args"] |= {"dirpath": str(folder), "every_n_train_steps": 4, "filename": "four"}
    recipe["trainer"]["callbacks"] = [ema, metrics, checkpoint]
    config = folder / "recipe.yaml"
    config.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    main(["fit", f"--config={config}"])
    return config, folder


def evaluate(run, tmp_path, *arguments):
    config, folder = run
    output = tmp_path / "scores.json"
    command = ["--config", str(config), "--checkpoint", str(folder / "four.ckpt"), "--output", str(output)]
    assert main(["evaluate", *command, *map(str, arguments)]) == 0
    return read_records(output)[-1]


def test_the_number_of_the_training_run_to_the_last_digit(run, tmp_path, capsys):
    (trained,) = read_records(run[1] / "generative_metrics.json")
    record = evaluate(run, tmp_path)
    assert record["values"] == trained["values"]
    assert record["protocol"] == trained["protocol"]
    assert record["protocol"]["ema"] == {"halflife_images": 4000, "rampup": 0.05}
    assert differences(record, trained) == {}
    assert trained["game"] == record["game"]
    assert trained["game"] == "LEAD(coupling='auto', cross='extrapolated'), alternating play"
    assert trained["game"].endswith(", alternating play")
    assert {key: record[key] for key in ("step", "stage", "checkpoint")} == {
        "step": 4,
        "stage": "evaluate",
        "checkpoint": "four.ckpt",
    }
    assert protocol_table(record) in capsys.readouterr().out
    assert (tmp_path / "scores.nearest.png").stat().st_size > 500
    assert (run[1] / "nearest_00000004.png").read_bytes() == (tmp_path / "scores.nearest.png").read_bytes()
    assert read_records(run[1] / "generative_metrics.json") == [trained]  # the run's own records are left alone


def test_records_are_added_to_those_in_the_file(run, tmp_path, capsys):
    first = evaluate(run, tmp_path, "--metrics", "fid")
    assert "holds 1 record now" in capsys.readouterr().out
    second = evaluate(run, tmp_path, "--metrics", "fid", "--samples", 310)
    assert "holds 2 records now" in capsys.readouterr().out
    assert read_records(tmp_path / "scores.json") == [first, second]
    assert differences(first, second) == {"num_samples": (300, 310)}


def test_a_record_s_picture_is_left_alone_by_the_next(run, tmp_path, capsys):
    evaluate(run, tmp_path, "--metrics", "memorization")
    first = (tmp_path / "scores.nearest.png").read_bytes()
    evaluate(run, tmp_path, "--metrics", "fid")  # has none
    evaluate(run, tmp_path, "--metrics", "memorization", "--seed", 1)
    assert "scores.nearest_3.png" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["scores.nearest.png", "scores.nearest_3.png"]
    assert (tmp_path / "scores.nearest.png").read_bytes() == first
    assert (tmp_path / "scores.nearest_3.png").read_bytes() != first


@pytest.mark.parametrize("content", ["", "{", '{"values": 1}', "[1]"])
def test_a_file_of_another_kind_is_refused_before_anything_is_scored(run, tmp_path, content, monkeypatch):
    def scored(*_, **__):
        raise AssertionError

    monkeypatch.setattr("lightning_lead.evaluate.measure.evaluate_checkpoint", scored)
    (tmp_path / "scores.json").write_text(content)
    refused("Cannot add to the scores in .*scores.json", lambda: evaluate(run, tmp_path))
    assert (tmp_path / "scores.json").read_text() == content


def test_the_game_is_that_of_the_checkpoint_and_not_of_the_recipe(run, tmp_path):
    assert evaluate(run, tmp_path, "--metrics", "fid", "--game=ExtraAdam")["game"].startswith("LEAD(coupling='auto'")
    config, folder = run
    saved = torch.load(folder / "four.ckpt", weights_only=True)
    del saved["lightning_lead"]["description"]  # an earlier version's
    torch.save(saved, tmp_path / "old.ckpt")
    found = evaluate_checkpoint(config, tmp_path / "old.ckpt", metrics=["fid"])
    assert found.record["game"] == "LEAD, alternating play"


def test_another_protocol_is_another_number_and_is_named(run, tmp_path):
    (trained,) = read_records(run[1] / "generative_metrics.json")
    more = evaluate(run, tmp_path, "--samples", 400, "--metrics", "fid")
    assert more["values"]["fid"] != trained["values"]["fid"]
    names = {"num_samples", "precision_k", "density_k"}
    assert differences(trained, more).keys() == names
    assert differences(trained, more)["num_samples"] == (300, 400)
    live = evaluate(run, tmp_path, "--weights", "live", "--metrics", "fid")
    assert live["protocol"]["ema"] is None
    assert live["values"]["fid"] != trained["values"]["fid"]
    assert differences(trained, live)["ema.halflife_images"] == (4000, None)
    assert live["protocol"]["generator_sha256"] != trained["protocol"]["generator_sha256"]


def test_the_printed_protocol_says_everything(run, tmp_path):
    text = protocol_table(evaluate(run, tmp_path, "--metrics", "fid"))
    protocol = [line for line in text.splitlines() if line.startswith("|")]
    names = [line.split("|")[1].strip() for line in protocol]
    wanted = ["num_samples", "num_reference", "reference", "reference_sha256", "extractor_fingerprint", "resize"]
    wanted += ["quantisation", "clipped_share", "ema", "batch_norm", "generator_mode", "seed", "versions", "device"]
    for name in [*wanted, "trainer_precision", "step", "checkpoint", "game", "generator_sha256"]:
        assert name in names, name
    assert "torchvision" in text
    assert "running statistics" in text
    assert all(line.count("|") == 3 for line in protocol)


def test_extractors_by_name(run, tmp_path, monkeypatch):
    asked = []

    class Other(nn.Module):
        num_features = 4
        fingerprint = "other"

        def forward(self, images):
            return torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)

    def feature_network(spec):
        asked.append(spec)
        return Other()

    monkeypatch.setattr(features, "feature_network", feature_network, raising=False)
    record = evaluate(run, tmp_path, "--extractor", "other", "--metrics", "fid")
    assert asked == ["other"]
    assert record["protocol"]["extractor_fingerprint"] == "other"


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_find_the_same(run, tmp_path):
    """And write one file, and print one table."""
    (trained,) = read_records(run[1] / "generative_metrics.json")
    config, folder = run
    script = tmp_path / "command.py"
    script.write_text("from lightning_lead.cli import command\nif __name__ == '__main__':\n    command()\n")
    output = tmp_path / "two.json"
    arguments = ["--config", config, "--checkpoint", folder / "four.ckpt", "--devices", 2, "--output", output]
    done = processes.run([script, "evaluate", *arguments], timeout=180, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("| fid |") == 1
    (record,) = read_records(output)
    assert record["values"] == pytest.approx(trained["values"], rel=1e-9)
    assert differences(record, trained) == {}


# ---- folders --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Two folders of PNG files: 100 digits, and 100 others."""
    images = ((DigitsDataModule().reference_images()[:200] + 1) * 127.5).round().to(torch.uint8)
    folder = tmp_path_factory.mktemp("digits")
    for k, image in enumerate(images):
        place = folder / ("real" if k < 100 else "fake")
        place.mkdir(exist_ok=True)
        Image.fromarray(image[0].numpy()).save(place / f"{k:03d}.png")
    return folder / "real", folder / "fake"


@pytest.fixture
def by_name(monkeypatch):
    known = {"digits": features.DigitsClassifier.pretrained}
    monkeypatch.setattr(features, "feature_network", lambda spec: known[spec](), raising=False)


def test_a_folder_against_a_folder(digits, by_name, tmp_path):
    real, fake = digits
    arguments = ["--images", fake, "--reference-images", real, "--extractor", "digits", "--batch-size", 30]
    output = tmp_path / "scores.json"
    metrics = ["--metrics", "fid", "prdc", "memorization", "--output", output]
    assert main(["evaluate", *map(str, [*arguments, *metrics])]) == 0
    (record,) = json.loads(output.read_text())
    assert record["images"] == "fake"
    assert record["protocol"]["reference"] == "folder real"
    assert record["protocol"]["num_samples"] == record["protocol"]["num_reference"] == 100
    assert record["protocol"]["generator_mode"] == "images from a folder"
    assert record["values"]["memorization"] <= 0.05
    copies = evaluate_images(real, reference_images=real, extractor="digits", metrics=["fid", "memorization"])
    assert abs(copies.record["values"]["fid"]) < 1e-6
    assert copies.record["values"]["memorization"] == copies.record["values"]["memorization_pixels"] == 1.0


def test_a_folder_against_a_recipe_s_data(run, digits):
    settings = {"metrics": ["fid"], "batch_size": 60, "overrides": ["--trainer.accelerator=cpu"]}
    found = evaluate_images(digits[0], config=run[0], num_samples=80, **settings)
    (trained,) = read_records(run[1] / "generative_metrics.json")
    same = ("reference", "reference_sha256", "extractor_fingerprint", "value_range")
    assert {key: found.record["protocol"][key] for key in same} == {key: trained["protocol"][key] for key in same}
    assert found.record["protocol"]["num_samples"] == 80
    assert found.record["values"]["fid"] < trained["values"]["fid"]  # digits against four steps of training


def test_samples_written_as_files_score_as_from_memory(run, digits, tmp_path):
    """PNG keeps every value, so a generator's samples give the same number by way of the disk."""
    from lightning_lead.callbacks import GeneratorEMA, generate, to_uint8

    config, folder = run
    (trained,) = read_records(folder / "generative_metrics.json")
    built = main([f"--config={config}"], run=False)
    saved = torch.load(folder / "four.ckpt", weights_only=True)
    built.model.load_state_dict(saved["state_dict"])
    ema = next(callback for callback in built.trainer.callbacks if isinstance(callback, GeneratorEMA))
    ema.load_state_dict(saved["callbacks"][ema.state_key])
    images = torch.cat([to_uint8(part) for part in generate(built.model, 300, seed=0, batch_size=250, ema=ema)])
    for k, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{k:03d}.png")
    found = evaluate_images(tmp_path, config=config)
    assert found.record["values"] == trained["values"]


# ---- bad input ------------------------------------------------------------------------------------------------------


def refused(match, call):
    with pytest.raises(ConfigurationError, match=match):
        call()


def test_checkpoints_that_cannot_be_used(run, tmp_path):
    config, folder = run
    refused("there is no checkpoint", lambda: evaluate_checkpoint(config, tmp_path / "none.ckpt"))
    refused("Cannot find the recipe", lambda: evaluate_checkpoint(tmp_path / "none.yaml", folder / "four.ckpt"))
    torch.save({"state_dict": {}, "global_step": 1, "code": nn.Linear(1, 1)}, tmp_path / "code.ckpt")
    refused("no checkpoint of plain weights", lambda: evaluate_checkpoint(config, tmp_path / "code.ckpt"))
    torch.save({"weights": torch.ones(1)}, tmp_path / "other.ckpt")
    refused(
        r"no checkpoint of plain weights.*\['weights'\]", lambda: evaluate_checkpoint(config, tmp_path / "other.ckpt")
    )


def test_a_file_with_the_generator_alone(run, tmp_path):
    """As `save_generator` writes it: the average's weights with the live buffers, or the live ones."""
    config, folder = run
    (trained,) = read_records(folder / "generative_metrics.json")
    saved = torch.load(folder / "four.ckpt", weights_only=True)
    live = {name: tensor for name, tensor in saved["state_dict"].items() if name.startswith("generator.")}
    (state,) = [state for name, state in saved["callbacks"].items() if "GeneratorEMA" in name]
    mean = live | {f"generator.{name}": tensor for name, tensor in state["average"].items()}
    torch.save({"state_dict": mean, "global_step": 4, "averaged": True}, tmp_path / "mean.pt")
    torch.save({"state_dict": live, "global_step": 4, "averaged": False}, tmp_path / "live.pt")
    found = evaluate_checkpoint(config, tmp_path / "mean.pt")
    assert found.record["values"] == trained["values"]
    assert found.record["protocol"] == trained["protocol"]
    now = evaluate_checkpoint(config, tmp_path / "live.pt", weights="live", metrics=["fid"])
    assert now.record["values"]["fid"] != trained["values"]["fid"]
    assert found.record["protocol"]["weights_dtype"] == "float32"
    rounded = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in mean.items()}
    torch.save({"state_dict": rounded, "global_step": 4, "averaged": True}, tmp_path / "rounded.pt")
    coarse = evaluate_checkpoint(config, tmp_path / "rounded.pt")
    assert differences(coarse.record, trained) == {"weights_dtype": ("float16", "float32")}
    refused("holds the averaged one alone", lambda: evaluate_checkpoint(config, tmp_path / "mean.pt", weights="live"))


def test_weights_of_other_networks(run, tmp_path):
    config, folder = run
    with pytest.raises(CheckpointMismatchError, match="other networks than the recipe's"):
        evaluate_checkpoint(config, folder / "four.ckpt", overrides=["--model.generator.init_args.width=8"])


def test_another_discriminator_does_not_matter_and_all_else_does(run, tmp_path):
    config, folder = run
    (trained,) = read_records(folder / "generative_metrics.json")
    wider = ["--model.discriminator.init_args.width=32"]
    found = evaluate_checkpoint(config, folder / "four.ckpt", overrides=wider)
    assert found.record["values"] == trained["values"]
    assert found.record["protocol"] == trained["protocol"]
    saved = torch.load(folder / "four.ckpt", weights_only=True)
    name = next(name for name in saved["state_dict"] if name.startswith("generator."))
    for harm in ({name: None}, {"generator.more": torch.ones(1)}, {name: torch.ones(1)}):
        state = {key: tensor for key, tensor in (saved["state_dict"] | harm).items() if tensor is not None}
        torch.save(saved | {"state_dict": state}, tmp_path / "other.ckpt")
        with pytest.raises(CheckpointMismatchError, match="other networks than the recipe's"):
            evaluate_checkpoint(config, tmp_path / "other.ckpt", overrides=wider)


def test_compact_checkpoints(run, tmp_path):
    config, folder = run
    (trained,) = read_records(folder / "generative_metrics.json")
    saved = torch.load(folder / "four.ckpt", weights_only=True)
    CompactCheckpointIO().save_checkpoint(saved, tmp_path / "compact.ckpt")
    compact = evaluate_checkpoint(config, tmp_path / "compact.ckpt").record
    assert compact["values"] == trained["values"]
    assert differences(compact, trained) == {}


def test_a_rounded_checkpoint_of_an_earlier_version(run, tmp_path):
    """It holds the average as bfloat16 differences from the weights, and the weights as they are."""
    config, folder = run
    saved = torch.load(folder / "four.ckpt", weights_only=True)
    saved["lightning_lead_compact"] = {"version": 1, "precision": "half"}
    (ema,) = [state for name, state in saved["callbacks"].items() if "GeneratorEMA" in name]
    for name, tensor in ema["average"].items():
        apart = (tensor - saved["state_dict"][f"generator.{name}"]).bfloat16()
        ema["average"][name] = {
            "__compact__": "near",
            "key": f"generator.{name}",
            "value": apart,
            "dtype": tensor.dtype,
        }
    torch.save(saved, tmp_path / "half.ckpt")
    found = evaluate_checkpoint(config, tmp_path / "half.ckpt", metrics=["fid"]).record["protocol"]
    assert found["weights_dtype"] == "float32 + bfloat16 difference"
    live = evaluate_checkpoint(config, tmp_path / "half.ckpt", weights="live", metrics=["fid"]).record["protocol"]
    assert live["weights_dtype"] == "float32"


def test_averages_that_are_missing(run, tmp_path):
    config, folder = run
    saved = torch.load(folder / "four.ckpt", weights_only=True)
    recipe = yaml.safe_load(config.read_text(encoding="utf-8"))
    (average,) = [name for name in saved["callbacks"] if "GeneratorEMA" in name]
    del saved["callbacks"][average]
    torch.save(saved, tmp_path / "bare.ckpt")
    refused(
        "the checkpoint holds no average.*--weights live", lambda: evaluate_checkpoint(config, tmp_path / "bare.ckpt")
    )
    del recipe["trainer"]["callbacks"][0]
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    refused("the recipe has no GeneratorEMA", lambda: evaluate_checkpoint(tmp_path / "bare.yaml", folder / "four.ckpt"))
    found = evaluate_checkpoint(tmp_path / "bare.yaml", tmp_path / "bare.ckpt", metrics=["fid"])
    assert found.record["protocol"]["ema"] is None


def test_references_that_are_missing(run, digits):
    config, folder = run
    refused(
        "DigitsDataModule has no attribute reference",
        lambda: evaluate_checkpoint(config, folder / "four.ckpt", reference="test", metrics=["fid"]),
    )
    refused("choose 'train' or 'test'", lambda: evaluate_images(digits[0], config=config, reference="val"))
    refused("Cannot score images without real ones", lambda: evaluate_images(digits[0]))
    refused("has 100 PNG files", lambda: evaluate_images(digits[0], config=config, num_samples=101))


@pytest.mark.parametrize("reference", ["train", "test"])
def test_a_split_is_not_chosen_where_the_recipe_has_other_reals(run, digits, monkeypatch, reference):
    from lightning_lead.evaluate import measure

    monkeypatch.setattr(DigitsDataModule, "reference", "train", raising=False)
    config, folder = run
    own = torch.zeros(400, 1, 8, 8)
    build = measure._build

    def with_reals(*args):
        built = build(*args)
        scored = [one for one in built.trainer.callbacks if isinstance(one, GenerativeMetrics)]
        scored[0].scorer.reference = own
        return built

    monkeypatch.setattr(measure, "_build", with_reals)
    match = rf"with the {reference} images because .* real images of its own; leave out --reference.*got Tensor"
    refused(match, lambda: evaluate_checkpoint(config, folder / "four.ckpt", reference=reference, metrics=["fid"]))
    refused(match, lambda: evaluate_images(digits[0], config=config, reference=reference, metrics=["fid"]))


def test_copies_are_not_looked_for_among_test_images(run, monkeypatch):
    monkeypatch.setattr(DigitsDataModule, "reference", "train", raising=False)
    config, folder = run
    refused(
        "copies of training images among the test images",
        lambda: evaluate_checkpoint(config, folder / "four.ckpt", reference="test"),
    )
    found = evaluate_checkpoint(config, folder / "four.ckpt", reference="test", metrics=["fid"])
    assert found.record is not None


def test_shapes_that_differ(run, tmp_path):
    for k in range(80):
        Image.new("RGB", (8, 8), (k, 0, 0)).save(tmp_path / f"{k}.png")
    refused(
        r"pass images of \(1, 8, 8\).*got \(3, 8, 8\)",
        lambda: evaluate_images(tmp_path, config=run[0], metrics=["fid"]),
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "one of the two"),
        (["--images", "a", "--checkpoint", "b"], "one of the two"),
        (["--checkpoint", "b"], "--checkpoint needs --config"),
        (["--images", "a"], "one of the two"),
        (["--images", "a", "--reference-images", "b", "--config", "c"], "one of the two"),
        (["--images", "a", "--reference-images", "b", "--data.x=1"], "unknown arguments"),
        (["--images", "a", "--reference-images", "b", "--devices", "2"], "leave out --devices"),
        (["--checkpoint", "b", "--config", "c", "extra"], "write --argument=value"),
    ],
)
def test_the_command_line(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *arguments])
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "with_gpu", "without"),
    [([], "cuda", "cpu"), (["auto"], "cuda", "cpu"), (["cpu"], "cpu", "cpu"), (["gpu"], "cuda", None)],
)
def test_a_folder_is_scored_on_a_gpu_if_there_is_one(given, with_gpu, without, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        "lightning_lead.evaluate.measure.evaluate_images",
        lambda images, *, device, **_: asked.append(device) or ScoreRecord(None, None),
    )
    arguments = ["--images", "a", "--reference-images", "b", "--output", str(tmp_path / "scores.json")]
    for there, expected in ((True, with_gpu), (False, without)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        command = ["evaluate", *arguments, *(f"--accelerator={name}" for name in given)]
        if expected is None:
            refused("Cannot compute on this machine's 'gpu'", lambda command=command: main(command))
        else:
            assert main(command) == 0
            assert asked[-1] == expected


def test_differences_are_named_by_their_place():
    one = {"protocol": {"seed": 0, "versions": {"torch": "2.8", "python": "3"}, "clipped_share": 0.1}}
    other = {"seed": 0, "versions": {"torch": "2.9", "python": "3"}, "clipped_share": 0.2, "ema": None}
    assert differences(one, other) == {"versions.torch": ("2.8", "2.9")}


def test_the_old_name_of_a_score_record_warns_and_is_the_same_class():
    with pytest.warns(FutureWarning, match="is called lightning_lead.evaluate.ScoreRecord"):
        from lightning_lead.evaluate import Evaluation
    assert Evaluation is ScoreRecord
