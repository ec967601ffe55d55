"""Accuracies under attack: by a library that others keep, of networks that stay as they are, with their protocols."""

from __future__ import annotations

import copy
import json
import sys

import pytest
import robust_kit as kit
import torch
from bitwise import differing
from pytorch_lightning import LightningModule
from robust_loops import LOOPS, loop
from tiny import tiny_trainer
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_lead import ConfigurationError, DigitsDataModule, RobustAccuracy
from lightning_lead.calculus import mix_seed
from lightning_lead.robust import AttackSuite, PGDAttack, _unit_attacks

EVERY = ["fgsm", "pgd-5", "apgd-ce-10", "apgd-dlr-10", "fab-t-5", "square-30", "autoattack"]


def trained():
    """A network, the module that holds it, and the same network of a hand-written loop."""
    _, loss, attack_loss, network_loss = LOOPS["pgd"]
    attack, net = PGDAttack(0.1, step_size=0.05, steps=3), kit.network()
    twin = copy.deepcopy(net)
    made = kit.module(attack, net=net, loss=loss)
    kit.fit(made, steps=10 * kit.STEPS)
    return made, loop(twin, attack, loss, attack_loss, network_loss, made._noise_seed, steps=3, epochs=10)


def suite(attacks, **settings):
    return AttackSuite(attacks, **({"epsilon": 0.05, "value_range": kit.RANGE, "batch_size": 16} | settings))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_network_of_the_module_and_that_of_the_loop_are_as_robust(norm):
    made, twin = trained()
    # three classes are few for the others, and Square's l2 window is larger than 4×4 pixels
    attacks = ["fgsm", "pgd-5", "apgd-ce-10", "fab-t-5", *(["square-30"] if norm == "linf" else [])]
    epsilon = 0.15 if norm == "linf" else 0.4
    found = suite(attacks, norm=norm, epsilon=epsilon).measure(made.network, *kit.data())
    assert found == suite(attacks, norm=norm, epsilon=epsilon).measure(twin, *kit.data())
    clean = found.pop("clean_accuracy")
    assert all(value <= clean for value in found.values())
    assert min(found.values()) < clean
    assert found["robust_accuracy/apgd-ce-10"] <= found["robust_accuracy/fgsm"]


def ten_classes():
    torch.manual_seed(2)
    images, labels = torch.rand(16, 1, 4, 4), torch.randint(10, (16,))
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net, images, labels


def test_every_attack_runs_and_follows_from_its_seed():
    net, images, labels = ten_classes()
    names = [*EVERY[:-1], "apgd-t-10"]
    found = suite(names, epsilon=0.08).measure(net, images, labels)
    assert list(found) == suite(names).names
    assert found == suite(names, epsilon=0.08).measure(net, images, labels)
    assert found["robust_accuracy/pgd-5"] < found["clean_accuracy"]
    assert found["robust_accuracy/apgd-t-10"] <= found["robust_accuracy/fgsm"]


@pytest.mark.slow
def test_the_ensemble_is_that_of_the_library():
    from pyautoattack import AutoAttack

    net, images, labels = ten_classes()
    state, tracer = copy.deepcopy(net.state_dict()), sys.gettrace()
    ensemble = suite(["autoattack", "pgd-5"], epsilon=0.09, seed=3)
    found = ensemble.measure(net, images, labels)
    assert not differing(net.state_dict(), state)
    assert sys.gettrace() is tracer
    adversary = AutoAttack(net.eval(), norm="Linf", eps=0.09, version="standard", seed=mix_seed(3, 0) % 2**32)
    with _unit_attacks.keeping_trace():
        _, classes = adversary.run_standard_evaluation(images, labels, batch_size=16)
    assert found["robust_accuracy/autoattack"] == float((classes == labels).float().mean())
    assert 0 < found["robust_accuracy/autoattack"] <= found["robust_accuracy/pgd-5"] < 1


def test_a_range_is_a_change_of_units():
    net, images, labels = ten_classes()

    class Signed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net((x + 1) / 2)

    wide = suite(["pgd-5", "apgd-ce-10"], epsilon=0.16, value_range=(-1.0, 1.0))
    found = wide.measure(Signed(), 2 * images - 1, labels)
    assert found == suite(["pgd-5", "apgd-ce-10"], epsilon=0.08).measure(net, images, labels)
    assert found["robust_accuracy/pgd-5"] < 1


def test_a_linear_network_loses_what_it_must():
    """Of two logits (x, −x) a margin of 2|x| falls by 2ε: who is right under attack is known."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    net[1].weight.data = torch.tensor([[1.0], [-1.0]])
    images = torch.linspace(-0.95, 0.95, 20).view(-1, 1, 1, 1)
    labels = (images.flatten() < 0).long()
    names = ["fgsm", "pgd-3", "apgd-ce-5", "square-50"]
    for epsilon in (0.3, 0.62):
        expected = int((images.abs() > epsilon).sum()) / 20
        found = suite(names, epsilon=epsilon, value_range=(-1.0, 1.0)).measure(net, images, labels)
        assert {value for name, value in found.items() if name != "clean_accuracy"} == {expected}
        assert found["clean_accuracy"] == 1.0


def test_nothing_of_the_network_and_of_the_process_moves():
    net, images, labels = ten_classes()
    net[2].eval()
    net[1].bias.requires_grad_(False)
    state, modes = copy.deepcopy(net.state_dict()), [layer.training for layer in net]
    random = torch.get_rng_state()
    suite(["fgsm", "pgd-2", "apgd-ce-2", "fab-t-2", "square-5"], epsilon=0.01).measure(net, images, labels)
    assert not differing(net.state_dict(), state)
    assert [layer.training for layer in net] == modes
    assert [p.requires_grad for p in net.parameters()].count(False) == 1
    assert torch.equal(torch.get_rng_state(), random)


def test_more_restarts_leave_no_more_survivors():
    net, images, labels = ten_classes()
    one = suite(["pgd-1"], epsilon=0.12).measure(net, images, labels)
    many = suite(["pgd-1"], epsilon=0.12, restarts=8).measure(net, images, labels)
    assert many["robust_accuracy/pgd-1"] < one["robust_accuracy/pgd-1"]


def test_an_attack_of_one_s_own_is_asked_in_unit_range_and_held_to_its_bounds():
    net, images, labels = ten_classes()
    seen = []

    def brighter(network, x, y, epsilon):
        seen.append((float(x.min()), float(x.max()), epsilon, network.training))
        assert network(x).shape == (len(x), 10)
        return (x + epsilon).clamp(0, 1)

    own = suite([], epsilon=0.02, others={"brighter": brighter}, value_range=(-1.0, 3.0))
    found = own.measure(nn.Sequential(net), 4 * images - 1, labels)
    assert own.names == ["robust_accuracy/brighter", "clean_accuracy"]
    assert 0 <= found["robust_accuracy/brighter"] <= 1
    low, high, epsilon, training = seen[0]
    assert (low >= 0, high <= 1, epsilon, training) == (True, True, 0.005, False)
    assert "brighter" in own.protocol(30)["attacks"]["brighter"]["library"]
    for wrong, message in (
        (lambda f, x, y, e: x + 2 * e, r"broke its bounds: of ε = 0.02.*perturbation of 0.04"),
        (lambda f, x, y, e: x[:1], r"returned no images of \(16, 1, 4, 4\) \(got \(1, 1, 4, 4\)\)"),
        (lambda f, x, y, e: None, r"returned no images.*got NoneType"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            suite([], epsilon=0.02, others={"wrong": wrong}).measure(net, images * 0.5, labels)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: suite(["cw"]), r"Cannot attack by 'cw'.*fgsm, pgd, apgd-ce"),
        (lambda: suite(["fgsm-3"]), r"Cannot attack by 'fgsm-3'"),
        (lambda: suite(["pgd-0"]), r"Cannot attack by 'pgd-0'"),
        (lambda: suite([]), r"without an attack"),
        (lambda: suite("pgd"), r"pass \['pgd'\]"),
        (lambda: suite(["pgd"], epsilon=-1.0), r"Cannot use epsilon"),
        (lambda: suite(["pgd"], norm="l1"), r"norm must be 'linf' or 'l2'"),
        (lambda: suite(["pgd"], restarts=0), r"restarts because"),
        (lambda: suite(["pgd"], seed=-1), r"integer ≥ 0"),
        (lambda: suite(["pgd"], others={"pgd": lambda *_: None}), r"that have one name"),
        (lambda: RobustAccuracy(epsilon=0.1, num_samples=0), r"num_samples because"),
        (lambda: RobustAccuracy(epsilon=0.1, every_n_steps=0), r"every_n_steps because"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ConfigurationError, match=message):
        build()


def test_data_and_networks_that_cannot_be_measured_are_refused():
    net, images, labels = ten_classes()
    for given, message in (
        ((images * 2, labels), r"outside of their range.*value_range=\(0.0, 1.0\)"),
        ((images[:0], labels[:0]), r"there must be images"),
        ((images, labels.float()), r"a label, an integer"),
        ((images, labels + 5), r"returns no logits of each class.*K > 14"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            suite(["pgd-1"]).measure(net, *given)
    with pytest.raises(ConfigurationError, match=r"returns no logits"):
        suite(["pgd-1"]).measure(nn.Flatten(0), images, labels)
    with pytest.raises(ConfigurationError, match=r"'autoattack' because its loss compares 4 logits.*got 3 classes"):
        suite(["autoattack"]).measure(kit.network(), *kit.data())


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("lightning_lead.robust.evaluation.is_installed", lambda: False)
    with pytest.raises(ConfigurationError, match=r"apgd-ce, autoattack.*pip install 'lightning-lead\[robust\]'"):
        RobustAccuracy(["pgd", "apgd-ce", "autoattack"], epsilon=0.1)
    RobustAccuracy(["pgd", "fgsm"], epsilon=0.1)
    assert _unit_attacks.is_installed()


# ---- the callback ----------------------------------------------------------------------------------------------------


def test_in_a_fit_they_are_taken_every_n_steps_and_change_nothing(tmp_path):
    feed = kit.loader()
    callback = RobustAccuracy(["pgd-2", "square-5"], epsilon=0.1, every_n_steps=2, batch_size=16, data=kit.data(20))
    made, plain = kit.module("pgd"), kit.module("pgd")
    trainer = kit.fit(made, feed=feed, callbacks=[callback], default_root_dir=tmp_path)
    kit.fit(plain, feed=feed)
    assert not differing(made.state_dict(), plain.state_dict())
    assert [record["step"] for record in callback.history] == [2, 4]
    record = callback.history[-1]
    direct = AttackSuite(["pgd-2", "square-5"], epsilon=0.1, value_range=kit.RANGE, batch_size=16)
    assert record["values"].keys() == direct.measure(kit.network(), *kit.data(20)).keys()
    assert json.loads((tmp_path / "robust_accuracy.json").read_text()) == callback.history
    assert float(trainer.callback_metrics["robust_accuracy/pgd-2"]) == pytest.approx(
        record["values"]["robust_accuracy/pgd-2"]
    )
    protocol = record["protocol"]
    assert protocol["attacks"]["pgd-2"] == {
        "library": protocol["attacks"]["pgd-2"]["library"],
        "steps": 2,
        "step_size": 0.125,
        "restarts": 1,
    }
    assert protocol["attacks"]["square-5"]["library"].startswith("pyautoattack 0.")
    assert protocol["attacks"]["square-5"]["queries"] == 5
    wanted = {"epsilon": 0.1, "norm": "linf", "value_range": [0.0, 1.0], "num_samples": 20, "batch_size": 16, "seed": 0}
    assert wanted.items() <= protocol.items()
    assert protocol["data"] == "tensors given as data"
    assert "GradientPlay" in record["game"]


def test_in_validation_and_test_they_are_of_the_loaders_of_the_stage(tmp_path):
    made, _ = trained()
    callback = RobustAccuracy(["pgd-2"], epsilon=0.05, num_samples=24)
    images, labels = kit.data()
    first, second = (DataLoader(TensorDataset(images[cut], labels[cut]), 7) for cut in (slice(0, 30), slice(10, 40)))
    trainer = tiny_trainer(1, callbacks=[callback], default_root_dir=tmp_path)
    (found,) = trainer.validate(made, first, verbose=False)
    (tested,) = trainer.test(made, second, verbose=False)
    suite_of = AttackSuite(["pgd-2"], epsilon=0.05, value_range=kit.RANGE)
    assert found == pytest.approx(suite_of.measure(made, images[:24], labels[:24]))
    assert tested == pytest.approx(suite_of.measure(made, images[10:34], labels[10:34]))
    assert [record["stage"] for record in callback.history] == ["validate", "test"]
    assert callback.history[0]["protocol"]["data"] == "TensorDataset, validation data"


def test_a_fit_without_steps_of_its_own_looks_at_each_validation_and_resumes_its_history(tmp_path):
    def fitted(steps, ckpt=None):
        callback = RobustAccuracy(["pgd-1"], epsilon=0.05, num_samples=10)
        made = kit.module("fgsm")
        trainer = tiny_trainer(steps, callbacks=[callback], val_check_interval=2, default_root_dir=tmp_path)
        torch.manual_seed(1)
        trainer.fit(made, kit.loader(), kit.loader(16), ckpt_path=ckpt)
        return callback, trainer

    callback, trainer = fitted(3)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert [record["step"] for record in callback.history] == [2]
    again, _ = fitted(5, str(tmp_path / "a.ckpt"))
    assert [record["step"] for record in again.history] == [2, 4]
    assert again.history[0] == callback.history[0]


def test_any_module_of_logits_and_any_data_module_will_do(tmp_path):
    class Plain(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

        def forward(self, images):
            return self.net(images)

        def validation_step(self, batch, batch_idx):
            pass

    callback = RobustAccuracy(["fgsm", "apgd-ce-3"], epsilon=0.1, num_samples=50, name_prefix="small/")
    trainer = tiny_trainer(1, callbacks=[callback], default_root_dir=tmp_path)
    (found,) = trainer.validate(Plain(), DigitsDataModule(), verbose=False)
    assert set(found) == {"small/robust_accuracy/fgsm", "small/robust_accuracy/apgd-ce-3", "small/clean_accuracy"}
    assert callback.history[0]["protocol"]["data"] == "TensorDataset, validation data of DigitsDataModule"
    assert (tmp_path / "small_robust_accuracy.json").is_file()


def test_streams_and_several_loaders_are_refused(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from zip(*kit.data(), strict=True)

    for loaders, message in (
        (DataLoader(Stream(), 8), r"Cannot attack a stream.*got Stream"),
        ([kit.loader(), kit.loader()], r"not one loader of validation data here.*got list"),
    ):
        trainer = tiny_trainer(1, callbacks=[RobustAccuracy(["fgsm"], epsilon=0.1)], default_root_dir=tmp_path)
        with pytest.raises(ConfigurationError, match=message):
            trainer.validate(kit.module("pgd"), loaders, verbose=False)


def test_a_look_draws_no_random_number_of_the_run(tmp_path):
    """A shuffled loader, and a data set that draws noise where it is read."""

    class Noisy(TensorDataset):
        def __getitem__(self, row):
            image, label = super().__getitem__(row)
            return (image + 0.01 * torch.rand(())).clamp(*kit.RANGE), label

    def trained_with(*callbacks):
        torch.manual_seed(5)
        made = kit.module("pgd", net=kit.network())
        trainer = tiny_trainer(8, callbacks=list(callbacks), default_root_dir=tmp_path)
        trainer.fit(made, DataLoader(Noisy(*kit.data()), 8, shuffle=True))
        return torch.cat([p.detach().flatten() for p in made.network.parameters()])

    score = RobustAccuracy(
        ["fgsm"], epsilon=0.05, value_range=kit.RANGE, every_n_steps=2, data=Noisy(*kit.data()), num_samples=8
    )
    assert torch.equal(trained_with(), trained_with(score))
    assert len(score.history) == 4


def test_a_network_of_nan_is_right_of_nothing():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    nn.init.constant_(net[1].weight, float("nan"))
    found = suite(["pgd-5"]).measure(net, torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2] * 2))
    assert set(found.values()) == {0.0}


def test_images_without_a_label_are_refused():
    images, _ = kit.data()
    labels = torch.full((len(images),), -100)
    with pytest.raises(ConfigurationError, match=r"without a label.*got a label of -100"):
        tiny_trainer(1).fit(kit.module("pgd", net=kit.network()), DataLoader(TensorDataset(images, labels), 8))
