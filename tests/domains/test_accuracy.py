"""Accuracy per domain: what is logged and kept, both selections, and what is refused."""

from __future__ import annotations

from typing import Any

import domain_kit as kit
import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_lead import (
    ColouredDigitsDataModule,
    ConfigurationError,
    DomainAccuracy,
    ERMModule,
    GroupDROModule,
    LinearSEMDataModule,
    MoonsDataModule,
)
from lightning_lead.data import AbstractDomainDataModule, DomainSamples
from lightning_lead.networks import MLP

NAMES = ("held_out", "held_out_selected_on_test", "held_out_selected_on_validation", "average", "worst")


class Signs(AbstractDomainDataModule):
    """Numbers, and classes that a network of one weight knows by their sign, or by the opposite."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__(domains=("a", "b", "c"), held_out="c", batch_size=4, validation=0.0)

    def load(self) -> list[DomainSamples]:
        inputs = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
        classes = (inputs[:, 0] > 0).long()
        wrong = classes.clone()
        wrong[0] = 1
        return [DomainSamples(inputs, classes), DomainSamples(inputs, wrong), DomainSamples(inputs, 1 - classes)]


class Follows(ERMModule):
    """A weight that is set before each step; in training mode it answers nonsense."""

    def __init__(self, path: list[float]) -> None:
        super().__init__(nn.Linear(1, 1, bias=False), learning_rates=1e-9)
        self.path = path

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * (1.0 if self.training else self.path[self.global_step - 1])

    def on_fit_start(self) -> None:
        nn.init.ones_(self.network.weight)
        super().on_fit_start()


def followed(path: list[float], **settings: Any) -> list[dict[str, float]]:
    accuracy = DomainAccuracy(every_n_steps=1, **settings)
    kit.trainer(len(path), callbacks=[accuracy]).fit(Follows(path), datamodule=Signs())
    return [{k.removeprefix("accuracy/"): v for k, v in record["values"].items()} for record in accuracy.history]


def test_both_selections_are_those_of_a_count_by_hand() -> None:
    first, second, third = followed([1.0, -1.0, 1.0])
    right = {"a": 1.0, "b": 0.75, "c": 0.0, "held_out": 0.0, "average": 0.875, "worst": 0.75}
    wrong = {"a": 0.0, "b": 0.25, "c": 1.0, "held_out": 1.0, "average": 0.125, "worst": 0.0}
    selected = [
        {"held_out_selected_on_test": 0.0, "held_out_selected_on_validation": 0.0},
        {"held_out_selected_on_test": 1.0, "held_out_selected_on_validation": 0.0},
        {"held_out_selected_on_test": 1.0, "held_out_selected_on_validation": 0.0},
    ]
    assert [first, second, third] == [right | selected[0], wrong | selected[1], right | selected[2]]


def test_validation_may_select_by_the_worst_domain_and_takes_the_first_of_equal_ones() -> None:
    records = followed([-1.0, -2.0, -1.0], select="worst")
    assert [record["held_out_selected_on_validation"] for record in records] == [1.0, 1.0, 1.0]
    assert list(records[0])[:5] == list(NAMES)  # the first one is that of a table


def coloured(**settings: Any) -> tuple[ERMModule, ColouredDigitsDataModule]:
    torch.manual_seed(0)
    return ERMModule(MLP(128, 1, width=8)), ColouredDigitsDataModule(batch_size=160, **settings)


def test_scores_are_logged_monitored_and_kept_with_their_protocol(tmp_path) -> None:
    module, data = coloured()
    accuracy = DomainAccuracy(every_n_steps=2)
    best = ModelCheckpoint(tmp_path, monitor="accuracy/average", mode="max", every_n_train_steps=2)
    trainer = kit.trainer(4, callbacks=[accuracy, best], enable_checkpointing=True)
    trainer.fit(module, datamodule=data)
    assert [record["step"] for record in accuracy.history] == [2, 4]
    last = accuracy.history[-1]
    assert set(last["values"]) == set(accuracy.names)
    assert {"accuracy/flip0.2", "accuracy/flip0.9"} < set(accuracy.names)
    for name, value in last["values"].items():
        assert trainer.callback_metrics[name].item() == pytest.approx(value, rel=1e-6)
    inputs, labels = data.samples()["flip0.9"]
    with torch.no_grad():
        right = ((module(inputs).squeeze(1) > 0).long() == labels).double().mean().item()
    assert last["values"]["accuracy/held_out"] == pytest.approx(right, rel=1e-6)
    protocol = last["protocol"]
    assert protocol["held_out"] == "flip0.9"
    assert protocol["samples"] == {"flip0.2": 120, "flip0.1": 120, "flip0.9": 597}
    for words in (
        "flip0.9 (597 samples)",
        "selected on test",
        "optimistic",
        "average accuracy on validation parts (20%)",
    ):
        assert words in protocol["summary"]
    assert best.best_model_score == max(record["values"]["accuracy/average"] for record in accuracy.history)
    assert module.training  # as it was


def test_every_validation_scores_where_no_steps_are_named() -> None:
    module, data = coloured()
    accuracy = DomainAccuracy()
    trainer = kit.trainer(6, callbacks=[accuracy], limit_val_batches=1.0, num_sanity_val_steps=2)
    trainer.fit(module, datamodule=data)
    assert [(record["step"], record["stage"]) for record in accuracy.history] == [(6, "fit")]
    for check, stage in ((trainer.validate, "validate"), (trainer.test, "test")):
        returned = check(module, datamodule=data, verbose=False)
        record = accuracy.history[-1]
        assert record["stage"] == stage
        logged = {name: value for each in returned for name, value in each.items()}
        assert logged["accuracy/held_out"] == pytest.approx(record["values"]["accuracy/held_out"], rel=1e-6)
        # outside of a fit there is nothing to select among
        assert len({record["values"][f"accuracy/{name}"] for name in NAMES[:3]}) == 1


def test_scoring_moves_no_random_numbers_and_no_buffers() -> None:
    ends = []
    for callbacks in ([], [DomainAccuracy(every_n_steps=1)]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(128, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
        module = ERMModule(network, learning_rates=0.1)
        torch.manual_seed(1)
        kit.trainer(5, callbacks=callbacks).fit(module, datamodule=ColouredDigitsDataModule(batch_size=160))
        ends.append([*module.state_dict().values(), torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_state_loads_as_plain_types() -> None:
    module, data = coloured()
    accuracy = DomainAccuracy(every_n_steps=1)
    kit.trainer(1, callbacks=[accuracy]).fit(module, datamodule=data)
    again = DomainAccuracy()
    again.load_state_dict(accuracy.state_dict())
    assert again.history == accuracy.history


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_data_that_do_not_say_their_domains_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"domains, train_domains, held_out, num_classes \(got NoneType\)"):
        kit.trainer(1, callbacks=[DomainAccuracy()]).fit(kit.erm(), kit.loader(12))


def test_a_held_out_domain_that_is_trained_on_is_refused() -> None:
    data = Signs()
    data.train_domains = ("a", "c")
    with pytest.raises(ConfigurationError, match=r"held-out domain because it is among the training domains.*'c'"):
        kit.trainer(1, callbacks=[DomainAccuracy()]).fit(Follows([1.0]), datamodule=data)


def test_numbers_have_no_accuracy() -> None:
    module = ERMModule(nn.Linear(10, 1), loss="squared")
    with pytest.raises(ConfigurationError, match="accuracy of targets that are numbers"):
        kit.trainer(1, callbacks=[DomainAccuracy()]).fit(module, datamodule=LinearSEMDataModule())


def test_a_module_of_another_number_of_groups_is_refused() -> None:
    data = ColouredDigitsDataModule(groups="label_colour", batch_size=40)
    with pytest.raises(ConfigurationError, match=r"another number of groups; set the module's to 4 \(got 3\)"):
        kit.trainer(1).fit(GroupDROModule(MLP(128, 1), 3), datamodule=data)


@pytest.mark.parametrize("settings", [{"every_n_steps": 0}, {"select": "best"}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        DomainAccuracy(**settings)


def test_moons_need_no_more_than_a_linear_layer_to_be_scored() -> None:
    accuracy = DomainAccuracy(every_n_steps=1)
    module = ERMModule(nn.Linear(2, 2))  # a logit per class
    data = MoonsDataModule(batch_size=40)
    module.takes_unlabelled = True  # the target's samples have loss 0
    kit.trainer(1, callbacks=[accuracy]).fit(module, datamodule=data)
    assert 0.0 <= accuracy.history[0]["values"]["accuracy/target"] <= 1.0
