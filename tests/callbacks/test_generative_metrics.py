"""GenerativeMetrics under real Trainers: when it runs, who sees the values, what is written beside them."""

from __future__ import annotations

import csv
import hashlib
import json
import math

import pytest
import pytorch_lightning as pl
import torch
from lightning_utilities.core import rank_zero
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch import nn

from lightning_lead import ConfigurationError
from lightning_lead.calculus._float32 import float32_products
from lightning_lead.callbacks import GenerativeMetrics, GeneratorEMA, generate, to_uint8
from lightning_lead.callbacks._generator_scores import pass_reals
from lightning_lead.metrics import FID, KID, PRDC, ClassifierScore, Score, Scorer
from lightning_lead.metrics._collection import ScoreCollection
from lightning_lead.metrics._protocol import describe_device


@pytest.fixture
def metrics(kit):
    return lambda extractor=None, **settings: GenerativeMetrics(
        extractor or kit.TinyExtractor(), **(kit.SMALL | {"every_n_steps": 2} | settings)
    )


@pytest.fixture
def fit(kit, tmp_path):
    def run(*callbacks, steps=4, model=None, ckpt_path=None, data=None, **settings):
        trainer = kit.trainer(tmp_path, steps, callbacks=list(callbacks), **settings)
        torch.manual_seed(1)
        trainer.fit(model or kit.gan(), **(data or {"train_dataloaders": kit.loader()}), ckpt_path=ckpt_path)
        return trainer

    return run


def steps(metrics):
    return [record["step"] for record in metrics.history]


def read(folder):
    return json.loads((folder / "generative_metrics.json").read_text())


# ---- the number -----------------------------------------------------------------------------------------------------


def test_the_value_is_that_of_the_bytes_by_hand(kit, fit, metrics, tmp_path):
    callback, model = metrics(every_n_steps=4), kit.gan()
    fit(callback, model=model)
    extractor = kit.TinyExtractor()
    fakes = torch.cat(list(generate(model, 50, seed=0, batch_size=8)))
    features = extractor(to_uint8(fakes))
    logits = extractor.classify(features)
    scores = ScoreCollection([FID(), ClassifierScore()], num_features=6, chunk=100, logits=logits)
    scores.add(extractor(to_uint8(kit.images())), real=True)
    scores.add(features, logits, real=False)
    (record,) = callback.history
    for name, value in scores.compute().items():
        assert record["values"][name] == pytest.approx(value, rel=1e-9), name


def test_one_forward_per_image(kit, fit, metrics):
    extractor = kit.TinyExtractor()
    fit(metrics(extractor))
    trial = 2
    assert extractor.forwards == 60 + trial + 2 * 50


def test_training_is_not_disturbed(kit, fit, metrics):
    plain, watched = kit.gan(), kit.gan()
    fit(model=plain)
    fit(metrics(), model=watched)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    assert not any("project" in name for name in watched.state_dict())


def test_the_extractor_is_frozen_and_in_eval_mode(kit):
    extractor = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    extractor.num_features = 2
    GenerativeMetrics(extractor, metrics=["fid"])
    assert not any(p.requires_grad for p in extractor.parameters())
    assert not any(m.training for m in extractor.modules())


def test_the_average_is_used_whatever_the_order(kit, fit, metrics):
    found = []
    for order in (1, -1):
        callback, ema, model = metrics(every_n_steps=4), GeneratorEMA(halflife_images=200), kit.gan()
        fit(*[callback, ema][::order], model=model)
        found.append(callback.history[0])
    assert found[0] == found[1]
    assert found[0]["protocol"]["ema"] == {"halflife_images": 200, "rampup": 0.05}
    live = metrics(every_n_steps=4)
    fit(live)
    assert live.history[0]["values"]["fid"] != found[0]["values"]["fid"]


# ---- when -----------------------------------------------------------------------------------------------------------


def test_every_n_steps_and_once_each(fit, metrics):
    callback = metrics(every_n_steps=3)
    fit(callback, steps=10)
    assert steps(callback) == [3, 6, 9]


def test_at_validations(kit, fit, metrics):
    callback = metrics(every_n_steps=None)
    data = {"train_dataloaders": kit.loader(), "val_dataloaders": kit.loader(10)}
    trainer = fit(callback, steps=12, data=data, val_check_interval=3)
    assert steps(callback) == [3, 6, 9, 12]  # and not in the sanity check
    assert trainer.callback_metrics["fid"].item() == pytest.approx(callback.history[-1]["values"]["fid"], rel=1e-6)


def test_without_validation_and_steps_it_says_that_it_will_not_run(fit, metrics):
    with pytest.warns(UserWarning, match="will not run in this fit"):
        fit(metrics(every_n_steps=None))


def test_fast_dev_run_checks_and_computes_nothing(kit, fit, metrics, tmp_path):
    callback = metrics()
    fit(callback, fast_dev_run=4)
    assert callback.history == []
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigurationError, match="value_range"):
        fit(metrics(), fast_dev_run=4, model=kit.gan(kit.TinyGenerator(gain=4.0)))


def test_validate_and_test_from_a_checkpoint(kit, fit, metrics, tmp_path):
    first, ema = metrics(every_n_steps=4), GeneratorEMA(halflife_images=200)
    fit(first, ema).save_checkpoint(tmp_path / "a.ckpt")
    for name in ("validate", "test"):
        again = metrics(reference=kit.images())
        trainer = kit.trainer(tmp_path, callbacks=[again, GeneratorEMA(halflife_images=200)])
        (returned,) = getattr(trainer, name)(kit.gan(), kit.loader(10), ckpt_path=tmp_path / "a.ckpt", verbose=False)
        record = again.history[-1]
        assert record["step"] == 4
        assert record["stage"] == name
        assert record["values"] == first.history[0]["values"]
        assert returned["fid"] == pytest.approx(record["values"]["fid"], rel=1e-6)
    assert [r["stage"] for r in read(tmp_path)] == ["fit", "validate", "test"]


def test_the_same_callback_in_validate_then_fit(kit, fit, metrics, tmp_path):
    """Lightning validates in inference mode, whose tensors cannot be written to afterwards."""
    callback = metrics(reference=kit.images())
    kit.trainer(tmp_path, callbacks=[callback]).validate(kit.gan(), kit.loader(10), verbose=False)
    fit(callback)
    assert steps(callback) == [0, 2, 4]


# ---- who sees it ----------------------------------------------------------------------------------------------------


def test_model_checkpoint_takes_the_best(fit, metrics, tmp_path):
    callback = metrics()
    best = ModelCheckpoint(tmp_path, "{step}-{fid:.6f}", monitor="fid", mode="min", every_n_train_steps=2)
    fit(callback, best, steps=8, enable_checkpointing=True)
    values = {r["step"]: r["values"]["fid"] for r in callback.history}
    step = min(values, key=values.get)
    assert best.best_model_path.endswith(f"step={step}-fid={values[step]:.6f}.ckpt")
    assert best.best_model_score.item() == pytest.approx(values[step], rel=1e-6)
    checkpoint = torch.load(best.best_model_path, weights_only=True)
    assert checkpoint["callbacks"][callback.state_key]["history"][-1]["values"]["fid"] == values[step]


def test_a_checkpoint_between_scores_is_warned_of(fit, metrics, tmp_path):
    best = ModelCheckpoint(tmp_path, monitor="fid", every_n_train_steps=3)
    with pytest.warns(UserWarning, match="compared by the score of an earlier step"):
        fit(metrics(every_n_steps=2), best, steps=6, enable_checkpointing=True)
    assert best.best_model_path


def test_early_stopping(fit, metrics):
    stop = EarlyStopping("fid", mode="min", stopping_threshold=1e6)
    trainer = fit(metrics(every_n_steps=3), stop, steps=30)
    assert trainer.global_step == 6  # the end of the first epoch


def test_early_stopping_before_the_first_score(fit, metrics):
    with pytest.raises(ConfigurationError, match=r"an epoch of 6 game steps ends before.*got every_n_steps=8"):
        fit(metrics(every_n_steps=8), EarlyStopping("fid"), steps=30)
    with pytest.warns(UserWarning, match="use up the patience"):
        trainer = fit(metrics(every_n_steps=8), EarlyStopping("fid", strict=False, patience=9), steps=18)
    assert trainer.global_step == 18


def test_every_logger_gets_it_at_its_step(fit, metrics, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callback = metrics(every_n_steps=3)
    loggers = [CSVLogger(tmp_path, "csv"), TensorBoardLogger(tmp_path, "tb")]
    fit(callback, steps=7, logger=loggers, log_every_n_steps=5)
    with open(f"{loggers[0].log_dir}/metrics.csv") as file:
        rows = {int(row["step"]): row["fid"] for row in csv.DictReader(file) if row["fid"]}
    assert {step: float(v) for step, v in rows.items()} == {r["step"]: r["values"]["fid"] for r in callback.history}
    events = EventAccumulator(loggers[1].log_dir)
    events.Reload()
    assert [event.step for event in events.Scalars("fid")] == [3, 6]


def test_two_instances_with_prefixes(kit, fit, metrics, tmp_path):
    first, second = metrics(name_prefix="a/", metrics=["fid"]), metrics(kit.FeaturesOnly(), name_prefix="b/")
    trainer = fit(first, second)
    assert {"a/fid", "a/classifier_score", "b/fid", "b/kid"} <= trainer.callback_metrics.keys()
    assert "b/classifier_score" not in trainer.callback_metrics
    assert {path.name for path in tmp_path.iterdir()} == {"a_generative_metrics.json", "b_generative_metrics.json"}


# ---- what is written beside it --------------------------------------------------------------------------------------


def test_protocol(kit, fit, metrics, tmp_path, caplog):
    callback = metrics(every_n_steps=4, seed=3)
    with caplog.at_level("INFO", rank_zero.log.name):
        fit(callback)
    (record,) = read(tmp_path)
    assert record == callback.history[0]  # plain types, the same in both places
    assert record["step"] == 4
    assert record["stage"] == "fit"
    assert record["values"].keys() == {"fid", "kid", "kid_std", "classifier_score", "class_coverage", "confidence"}
    protocol = record["protocol"]
    digests = b"".join(hashlib.sha256(x.numpy().tobytes()).digest() for x in to_uint8(kit.images()))
    expected = {
        "num_samples": 50,
        "num_reference": 60,
        "reference": "training data (TensorDataset)",
        "reference_sha256": hashlib.sha256(digests).hexdigest(),
        "value_range": [-1.0, 1.0],
        "clipped_share": 0.0,
        "extractor": "TinyExtractor",
        "num_features": 6,
        "ema": None,
        "generator_mode": "eval",
        "seed": 3,
        "batch_size": 8,
        "kid_subset_size": 20,
    }
    assert {key: protocol[key] for key in expected} == expected
    assert protocol["versions"]["torch"] == torch.__version__
    assert len(protocol["extractor_fingerprint"]) == 64
    line = next(r.getMessage() for r in caplog.records if r.getMessage().startswith("step 4: fid"))
    assert "50 fakes (live weights" in line
    assert "against 60 reals" in line


def test_fingerprint_follows_the_weights(kit, fit, metrics):
    def print_of(extractor):
        callback = metrics(extractor, every_n_steps=4)
        fit(callback)
        return callback.history[0]["protocol"]["extractor_fingerprint"]

    other = kit.TinyExtractor()
    other.project[0, 0] += 1
    named = kit.TinyExtractor()
    named.fingerprint = "tiny-1"
    assert print_of(kit.TinyExtractor()) == print_of(kit.TinyExtractor()) != print_of(other)
    assert print_of(named) == "tiny-1"


def test_resume_drops_what_it_will_redo(kit, fit, metrics, tmp_path):
    save = ModelCheckpoint(tmp_path / "saved", "{step}", every_n_train_steps=2, save_top_k=-1)
    settings = {"enable_checkpointing": True, "limit_train_batches": 1}
    first = metrics()
    fit(first, save, steps=6, **settings)
    assert [r["step"] for r in read(tmp_path)] == [2, 4, 6]
    second = metrics()
    seen = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            seen.append(([r["step"] for r in read(tmp_path)], trainer.callback_metrics["fid"].item()))

    fit(second, Look(), save, steps=6, ckpt_path=tmp_path / "saved" / "step=4.ckpt", **settings)
    assert seen[0] == ([2, 4], pytest.approx(first.history[1]["values"]["fid"], rel=1e-6))
    assert steps(second) == [2, 4, 6]
    assert second.history == first.history == read(tmp_path)


def test_a_folder_s_earlier_run_is_not_mixed_in(fit, metrics, tmp_path):
    fit(metrics(), steps=6)
    fit(metrics(), steps=2)
    assert [r["step"] for r in read(tmp_path)] == [2]


# ---- bad input ------------------------------------------------------------------------------------------------------


class Diverging(pl.Callback):
    def __init__(self, step, weight):
        self.step, self.weight = step, weight

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == self.step:
            torch.nn.init.constant_(pl_module.generator.last.bias, self.weight)


def test_divergence_is_recorded_and_does_not_end_the_run(fit, metrics, tmp_path):
    callback = metrics()
    with pytest.warns(UserWarning, match="are not finite: the generator has diverged"):
        trainer = fit(Diverging(4, math.nan), callback, steps=4)
    assert math.isnan(trainer.callback_metrics["fid"])
    assert [math.isnan(r["values"]["fid"]) for r in callback.history] == [False, True]
    assert [r["values"]["fid"] is None for r in read(tmp_path)] == [False, True]  # JSON has no nan


def test_later_samples_are_clamped_and_the_share_is_recorded(kit, fit, metrics):
    class Linear(kit.TinyGenerator):
        def forward(self, latents):
            return torch.nn.functional.linear(latents, self.last.weight[:, :4], self.last.bias).view(-1, 1, 4, 4)

    callback, model = metrics(value_range=(-9, 9), reference=kit.images()), kit.gan(Linear())
    fit(Diverging(4, 50.0), callback, model=model)
    assert [record["protocol"]["clipped_share"] for record in callback.history] == [0.0, 1.0]


def refused(match, run):
    with pytest.raises(ConfigurationError, match=match):
        run()


def test_reals_outside_the_range(fit, metrics):
    refused(r"leave the declared value_range=\(0, 1\).*got values from -0\.9", lambda: fit(metrics(value_range=(0, 1))))


def test_reals_in_one_half_of_the_range(kit, fit, metrics):
    """Data in [0, 1] under the default (-1, 1) is scored without a complaint of the range, and like nobody else's."""
    for images in (kit.images().abs(), -kit.images().abs()):
        with pytest.warns(UserWarning, match=r"in one half of the declared value_range=\(-1, 1\)"):
            fit(metrics(reference=images))


def test_samples_outside_the_range_at_the_start(kit, fit, metrics):
    model = kit.gan(kit.TinyGenerator(gain=1.5))
    refused(r"leave the declared value_range=\(-1, 1\)", lambda: fit(metrics(), model=model))


def test_too_few_samples(kit, fit, metrics):
    refused(r"fewer samples than features.*singular.*above 6 \(got 6\)", lambda: metrics(num_samples=6))
    few = metrics(reference=kit.images(6), kid_subset_size=5)
    refused(r"fewer real images than features.*got 6", lambda: fit(few))
    refused(r"between 2 and the number of samples, 50.*got 51", lambda: metrics(kid_subset_size=51))
    few = metrics(reference=kit.images(19))
    refused(r"between 2 and the number of real images, 19.*got 20", lambda: fit(few))
    fit(metrics(reference=kit.images(19), kid_subset_size=19))


def test_extractors_that_cannot_work(kit, fit, metrics):
    class Base(nn.Module):
        num_features = 6

        def forward(self, images):
            return torch.zeros(len(images), 6)

    class Wrong(Base):
        num_features = 7

    class Fails(Base):
        def forward(self, images):
            raise RuntimeError("expected 3 channels")

    class Integers(Base):
        def forward(self, images):
            return torch.zeros(len(images), 6, dtype=torch.long)

    class Labels(Base):
        def classify(self, features):
            return torch.zeros(len(features), dtype=torch.long)

    refused(r"integer attribute num_features.*got Identity, num_features=None", lambda: metrics(nn.Identity()))
    refused(r"num_features=7 promises floats of shape \(2, 7\).*got \(2, 6\)", lambda: fit(metrics(Wrong())))
    refused(r"Fails fails on bytes of shape \(2, 1, 4, 4\).*expected 3 channels", lambda: fit(metrics(Fails())))
    refused(r"promises floats.*got \(2, 6\) torch\.int64", lambda: fit(metrics(Integers())))
    refused(r"classify\(features\) must return logits \(n, K\).*got \(2,\)", lambda: fit(metrics(Labels())))


def test_settings(metrics):
    refused("choose from", lambda: metrics(metrics=["fid", "is"]))
    refused(r"pass \['fid'\]", lambda: metrics(metrics="fid"))
    refused(r"comes by itself.*--source official", lambda: metrics(metrics=["inception_score"]))
    refused("every_n_steps", lambda: metrics(every_n_steps=0))
    refused("num_samples", lambda: metrics(num_samples=0))
    refused(r"low < high.*got \(1, -1\)", lambda: metrics(value_range=(1, -1)))
    refused("two finite numbers", lambda: metrics(value_range=(0, float("inf"))))


def test_nothing_to_compute(kit, metrics):
    refused("nothing to compute", lambda: metrics(kit.FeaturesOnly(), metrics=[]))
    assert metrics(metrics=[]).names == ["classifier_score", "class_coverage", "confidence"]


def test_shapes_that_differ(kit, fit, metrics):
    reference = torch.zeros(60, 1, 8, 8)

    class Any(kit.FeaturesOnly):
        def forward(self, images):
            return super().forward(images[..., :4, :4])

    refused(
        r"make the generator return \(n, 1, 8, 8\) \(got \(8, 1, 4, 4\)\)",
        lambda: fit(metrics(Any(), reference=reference)),
    )
    refused(r"holds no images.*got \(8, 2\)", lambda: fit(metrics(reference=torch.zeros(60, 2))))


def test_no_reference(kit, metrics, tmp_path):
    trainer = kit.trainer(tmp_path, callbacks=[metrics()])
    refused("no training data here", lambda: trainer.validate(kit.gan(), kit.loader(10), verbose=False))
    refused(
        "no length and no order",
        lambda: kit.trainer(tmp_path, callbacks=[metrics(reference=iter([]))]).fit(kit.gan(), kit.loader()),
    )


def test_the_reference_of_a_data_module(kit, fit, metrics):
    class Data(pl.LightningDataModule):
        def train_dataloader(self):
            return kit.loader()

        def reference_images(self):
            return to_uint8(kit.images(55))

    callback = metrics(every_n_steps=4)
    fit(callback, data={"datamodule": Data()})
    protocol = callback.history[0]["protocol"]
    assert protocol["reference"] == "Data.reference_images()"
    assert protocol["num_reference"] == 55


@pytest.mark.filterwarnings("ignore:All values of Noisy given as reference lie:UserWarning")
def test_datasets_with_random_transforms_are_read_the_same_way_every_time(kit, fit, metrics):
    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 60

        def __getitem__(self, i):
            return (torch.rand(1, 4, 4), i)

    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = torch.rand(1)
        torch.manual_seed(seed)
        callback = metrics(every_n_steps=4, reference=torch.utils.data.DataLoader(Noisy(), 7, shuffle=True))
        pass_reals(callback.scorer, kit.trainer("."), kit.gan())
        found.append(callback.scorer._described["reference_sha256"])
        # the trainer's and the module's construction draw nothing that is not put back
        assert torch.equal(torch.rand(1), expected)
    assert found[0] == found[1]


def test_a_part_of_a_dataset_is_that_part(kit, fit, metrics):
    """Subset has an attribute `dataset`, as a loader has, and is not to be taken for one."""
    whole = torch.utils.data.TensorDataset(kit.images())
    part = torch.utils.data.Subset(whole, range(20, 50))
    found = []
    for reference in (part, torch.utils.data.DataLoader(part, 7), kit.images()[20:50]):
        callback = metrics(every_n_steps=4, reference=reference)
        fit(callback)
        found.append(callback.history[0])
    assert [record["protocol"]["num_reference"] for record in found] == [30, 30, 30]
    assert len({record["protocol"]["reference_sha256"] for record in found}) == 1
    assert found[0]["protocol"]["reference"] == "Subset given as reference"
    callback = metrics(every_n_steps=4)
    fit(callback, data={"train_dataloaders": torch.utils.data.DataLoader(part, 10)})
    assert callback.history[0]["protocol"]["reference_sha256"] == found[0]["protocol"]["reference_sha256"]


# ---- names, neighbours, pictures ------------------------------------------------------------------------------------


def test_an_extractor_that_names_its_score(kit, fit, metrics):
    class Inception(kit.TinyExtractor):
        score_name = "inception_score"

    callback = metrics(Inception(), every_n_steps=4)
    assert callback.names == ["fid", "kid", "inception_score"]
    trainer = fit(callback)
    (record,) = callback.history
    assert {"inception_score", "inception_score_std", "inception_score_whole"} <= record["values"].keys()
    assert "confidence" not in record["values"]
    assert record["protocol"]["is_splits"] == 10  # as published Inception Scores
    assert "inception_score" in trainer.callback_metrics
    whole = metrics(Inception(), every_n_steps=4, is_splits=1)
    fit(whole)
    values = whole.history[0]["values"]
    assert "inception_score_std" not in values
    assert values["inception_score"] == record["values"]["inception_score_whole"]


def test_neighbours_and_copies_in_a_fit(fit, metrics, tmp_path):
    callback = metrics(metrics=["prdc", "memorization"], precision_k=2, density_k=4)
    fit(callback)
    names = ["precision", "recall", "density", "coverage", "memorization", "memorization_pixels", "authenticity"]
    assert callback.names[:7] == names
    for record in callback.history:
        assert all(math.isfinite(record["values"][name]) for name in names)
        assert {key: record["protocol"][key] for key in ("precision_k", "density_k")} == {
            "precision_k": 2,
            "density_k": 4,
        }
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["nearest_00000002.png", "nearest_00000004.png"]


# ---- scores as objects ----------------------------------------------------------------------------------------------


class Spread(Score):
    """The deviation of pixels, by a setting and something that is kept of the reals."""

    names, needs = ("spread",), ("pixels",)

    def __init__(self, power=1.0):
        self.power = power

    def prepare(self, reals):
        return {"spread": reals.pixels.double().std()}

    def compute(self, reals, fakes):
        return {"spread": float(fakes.pixels.double().std() / reals.statistics["spread"]) ** self.power}


def test_objects_are_what_their_names_and_arguments_are(fit, metrics):
    by_name = metrics(metrics=["fid", "kid", "precision", "density"], density_k=2, is_splits=5)
    objects = [FID(), KID(5, 20), PRDC(["precision", "density"], density_k=2), ClassifierScore(5)]
    by_object = metrics(metrics=objects, kid_subsets=7)  # which is for "kid"
    fit(by_name)
    fit(by_object)
    assert by_object.names == by_name.names
    assert by_object.history == by_name.history
    assert by_object.history[0]["protocol"]["kid_subsets"] == 5


def test_a_score_of_ones_own(kit, fit, metrics):
    callback = metrics(metrics=["fid", Spread(power=2.0)])
    trainer = fit(callback)
    assert callback.names[:2] == ["fid", "spread"]
    record = callback.history[-1]
    fakes = torch.cat(list(generate(trainer.lightning_module, 50, seed=0, batch_size=8)))
    wanted = (to_uint8(fakes).double().std() / to_uint8(kit.images()).double().std()).item() ** 2
    assert record["values"]["spread"] == pytest.approx(wanted, rel=1e-12)
    assert record["protocol"]["spread_power"] == 2.0
    assert trainer.callback_metrics["spread"].item() == pytest.approx(wanted, rel=1e-6)


def test_options_reach_scores_that_are_objects_when_a_scorer_is_changed(kit):
    scorer = Scorer(kit.TinyExtractor(), metrics=["fid", KID(subsets=5, subset_size=20)], num_samples=50)
    changed = scorer.changed(kid_subset_size=30, seed=4)
    assert (changed.scores[1].settings, changed.seed) == ({"subsets": 5, "subset_size": 30}, 4)
    assert scorer.scores[1].subset_size == 20
    refused(r"number of samples, 10\b.*got 20", lambda: scorer.changed(num_samples=10))


def test_scores_that_cannot_work(kit, fit, metrics):
    class Silent(Spread):
        names = ("spread", "more")

    class Wants(Spread):
        needs = ("pixel",)

    class Reaches(Spread):
        needs = ("features",)

    refused(r"Cannot log \['more'\] because Silent computes \['spread'\]", lambda: fit(metrics(metrics=[Silent()])))
    refused(r"choose needs from .*got \['pixel'\]", lambda: metrics(metrics=[Wants()]))
    refused("Cannot read pixels.*add 'pixels' to its needs", lambda: fit(metrics(metrics=[Reaches()])))
    refused(r"one name apart.*got \['kid'\]", lambda: metrics(metrics=["kid", KID(5, 20)]))
    refused("no score has such options", lambda: Scorer(kit.TinyExtractor(), num_samples=50, kid_subset=5))
    refused(
        "FeaturesOnly has no classifier; leave it out", lambda: metrics(kit.FeaturesOnly(), metrics=[ClassifierScore()])
    )
    refused("subset_size", lambda: KID(subset_size=0))
    refused("choose from", lambda: PRDC(["accuracy"]))


def test_no_extractor_means_inception(kit, monkeypatch):
    from lightning_lead import features

    asked = []
    monkeypatch.setattr(
        features, "feature_network", lambda spec: asked.append(spec) or kit.TinyExtractor(), raising=False
    )
    GenerativeMetrics(**kit.SMALL)
    GenerativeMetrics("digits", **kit.SMALL)
    assert asked == ["inception", "digits"]


def test_too_few_for_neighbours_and_splits(kit, fit, metrics):
    few = {"num_samples": 5, "metrics": ["prdc"]}
    refused(r"Cannot look for 5 nearest neighbours.*too few samples.*got 5", lambda: metrics(**few))
    metrics(**few, density_k=4)
    refused(r"too few real images.*got 4", lambda: fit(metrics(metrics=["coverage"], reference=kit.images(4))))
    refused(r"is_splits=51 parts.*got 50", lambda: metrics(is_splits=51))
    refused("is_splits", lambda: metrics(is_splits=0))

    class Features(nn.Flatten):
        num_features = 4

    refused("Features has no classifier.*--source official.*is_splits=2", lambda: metrics(Features(), is_splits=2))


def test_the_generator_s_weights_are_identified(kit, fit, metrics):
    callback = metrics()
    fit(callback)
    first, second = (record["protocol"] for record in callback.history)
    assert first["generator_sha256"] != second["generator_sha256"]
    assert first["batch_norm"] == "running statistics"
    assert first["trainer_precision"] == "32-true"
    assert first["device"] == {"name": "cpu", "convolution": "float32", "matmul": "float32"}


def test_no_setting_of_tf32_reaches_the_features_and_the_protocol_says_what_was_used(kit, fit, metrics, monkeypatch):
    """A processor does not obey the settings of a GPU, but they can be read; the last protocol is a GPU's."""
    seen, protocols = set(), []

    class Watched(kit.TinyExtractor):
        def forward(self, images):
            seen.add(tuple(float32_products("cuda").values()))
            protocols.append(describe_device("cuda"))
            return super().forward(images)

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002, raising=False)
    torch.set_float32_matmul_precision("medium")
    try:
        callback = metrics(Watched())
        fit(callback)
        assert float32_products("cuda") == {"convolution": "tf32", "matmul": "tf32"}  # the control, and put back
        assert describe_device("cpu") == {"name": "cpu", "convolution": "float32", "matmul": "bf16"}
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == {("float32", "float32")}
    assert callback.history[-1]["protocol"]["device"] == {"name": "cpu", "convolution": "float32", "matmul": "float32"}
    assert protocols[-1] == {"name": "a GPU", "convolution": "float32", "matmul": "float32", "cudnn": 91002}
