"""Data modules with several domains: shares of a batch, parts, what is held out, and what the data are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import grid_sample

from lightning_lead import ConfigurationError
from lightning_lead.data import (
    AbstractDomainDataModule,
    ColouredDigitsDataModule,
    DigitsDataModule,
    DomainSamples,
    LinearSEMDataModule,
    MoonsDataModule,
    ShiftedDigitsDataModule,
)

pytest.importorskip("sklearn")

MODULES: dict[str, Any] = {
    "coloured": lambda **settings: ColouredDigitsDataModule(**({"batch_size": 40} | settings)),
    "label and colour": lambda **settings: ColouredDigitsDataModule(
        **({"batch_size": 40, "groups": "label_colour"} | settings)
    ),
    "inverted": lambda **settings: ShiftedDigitsDataModule(**({"batch_size": 40} | settings)),
    "turned": lambda **settings: ShiftedDigitsDataModule(**({"batch_size": 40, "shift": "rotated"} | settings)),
    "moons": lambda **settings: MoonsDataModule(**({"batch_size": 40} | settings)),
    "linear": lambda **settings: LinearSEMDataModule(**({"batch_size": 40, "validation": 0.2} | settings)),
}


def batches(data: AbstractDomainDataModule, epoch: int = 0) -> list[list[torch.Tensor]]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


@pytest.mark.parametrize("name", MODULES)
def test_batches_are_a_function_of_seed_and_epoch(name: str) -> None:
    first, again = batches(MODULES[name](seed=5)), batches(MODULES[name](seed=5))
    assert all(
        torch.equal(a, b) for one, other in zip(first, again, strict=True) for a, b in zip(one, other, strict=True)
    )
    for other in (batches(MODULES[name](seed=6)), batches(MODULES[name](seed=5), epoch=1)):
        assert not torch.equal(first[0][0], other[0][0])


@pytest.mark.parametrize("name", MODULES)
def test_no_generator_outside_is_moved(name: str) -> None:
    before = torch.get_rng_state()
    data = MODULES[name]()
    for loader in (data.train_dataloader(), *data.val_dataloader()):
        next(iter(loader))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", [name for name in MODULES if name != "label and colour"])
def test_every_domain_has_its_share_of_every_batch_and_of_its_parts(name: str) -> None:
    data = MODULES[name]()
    for _, _, groups in batches(data):
        assert groups.bincount().tolist() == [20, 20]
        for part in groups.split(10):  # micro-batches
            assert part.bincount().tolist() == [5, 5]


def test_natural_shares_are_those_of_the_data() -> None:
    data = MODULES["label and colour"](flips=(0.1,), label_noise=0.0, validation=0.0)
    sizes = [part.size for part in data.training_samples().values()]
    assert sum(sizes) == 1200
    for rare, common in ((sizes[1], sizes[0]), (sizes[2], sizes[3])):
        # 600 ± 20 of each label, of which a tenth, ± 4 standard deviations
        assert rare / (rare + common) == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 580))
    groups = torch.cat([groups for _, _, groups in batches(data)])
    assert groups.bincount().tolist() == sizes  # 40 divides 1200: an epoch is every sample once


@pytest.mark.parametrize("name", ["coloured", "inverted", "moons", "linear"])
def test_an_epoch_passes_the_largest_domain_once(name: str) -> None:
    data = MODULES[name](batch_size=2)
    largest = max(data.training_samples().values(), key=lambda part: part.size)
    number = [part.size for part in data.training_samples().values()].index(largest.size)
    inputs = torch.cat([inputs[groups == number] for inputs, _, groups in batches(data)])
    seen = sorted(map(bytes, (row.numpy() for row in inputs)))
    assert seen == sorted(map(bytes, (row.numpy() for row in largest.inputs)))


@pytest.mark.parametrize("name", MODULES)
def test_what_is_scored_is_not_trained_on(name: str) -> None:
    data = MODULES[name]()
    trained, scored = data.training_samples(), data.scored_samples()
    for domain in data.train_domains:
        kept, rest = trained[domain], scored[domain]
        whole = data.samples()[domain]
        assert kept.size + rest.size == whole.size
        assert rest.size == pytest.approx(0.2 * whole.size, abs=0.51)
        both = torch.cat([kept.inputs, rest.inputs]).flatten(1).double().sum(0)
        torch.testing.assert_close(both, whole.inputs.flatten(1).double().sum(0))
    names = [(loader.dataset[0][2].item(), len(loader.dataset)) for loader in data.val_dataloader()]
    assert names == [(k, part.size) for k, part in enumerate(scored.values())]
    assert list(scored) == list(data.domains)
    assert data.domains[-1] == data.held_out
    assert (data.held_out in trained) == data.adapts
    assert len(next(iter(data.predict_dataloader()))) == min(1024, data.samples()[data.held_out].size)


@pytest.mark.parametrize("name", ["inverted", "turned", "moons"])
def test_labels_of_the_target_are_hidden_in_training_and_known_for_scores(name: str) -> None:
    data = MODULES[name]()
    assert data.adapts
    for _, labels, groups in batches(data):
        assert bool((labels[groups == 1] == -1).all())
        assert bool((labels[groups == 0] >= 0).all())
    assert bool((data.scored_samples()["target"].labels >= 0).all())


def test_without_a_validation_part_training_samples_are_scored() -> None:
    data = MODULES["moons"](validation=0.0)
    assert data.scored_samples()["source"].size == data.training_samples()["source"].size == 300


def test_two_ranks_have_the_joint_batch_between_them() -> None:
    class Trainer:
        world_size = 1
        global_rank = 0

    joint = batches(MODULES["inverted"](batch_size=8))
    shares = []
    for rank in range(2):
        data = MODULES["inverted"](batch_size=4)
        data.trainer = Trainer()
        data.trainer.world_size, data.trainer.global_rank = 2, rank
        shares.append(batches(data))
    for k in range(10):
        both = torch.cat([shares[rank][k][0] for rank in range(2)])
        assert sorted(bytes(row.numpy()) for row in both) == sorted(bytes(row.numpy()) for row in joint[k][0])


# ---- coloured digits ------------------------------------------------------------------------------------------------


def test_colours_and_labels_are_wrong_as_often_as_they_should_be() -> None:
    data = ColouredDigitsDataModule(copies=10)
    digits, names = DigitsDataModule().tensors()
    known = {bytes(((image + 1) / 2).numpy()): int(name) for image, name in zip(digits, names, strict=True)}
    for flip, samples in zip((0.2, 0.1, 0.9), data.samples().values(), strict=True):
        colours = (samples.inputs.amax((2, 3)) > 0).long()
        assert bool((colours.sum(1) == 1).all())  # one channel alone
        count = samples.size
        wrong = (colours.argmax(1) != samples.labels).double().mean().item()
        assert wrong == pytest.approx(flip, abs=4 * math.sqrt(flip * (1 - flip) / count))
        shapes = torch.tensor([known[bytes(image.amax(0, keepdim=True).numpy())] < 5 for image in samples.inputs])
        noise = (shapes.long() != samples.labels).double().mean().item()
        assert noise == pytest.approx(0.25, abs=4 * math.sqrt(0.1875 / count))


def test_no_image_is_in_two_environments_or_in_two_parts() -> None:
    data = ColouredDigitsDataModule(copies=3, grey=True)
    everywhere = [*data.training_samples().values(), *data.scored_samples().values()]
    found = [{bytes(image.numpy()) for image in samples.inputs} for samples in everywhere]
    digits, _ = DigitsDataModule().tensors()
    assert len(set.union(*found)) == len({bytes(image.numpy()) for image in digits})
    assert sum(map(len, found)) == len(set.union(*found))
    assert all(samples.size == 3 * len(images) for samples, images in zip(everywhere, found, strict=True))


def test_grey_is_the_same_without_the_colour() -> None:
    coloured, grey = (ColouredDigitsDataModule(grey=g, seed=3).samples()["flip0.1"] for g in (False, True))
    assert torch.equal(coloured.inputs.sum(1, keepdim=True), grey.inputs)
    assert torch.equal(coloured.labels, grey.labels)
    assert ColouredDigitsDataModule(grey=True).image_shape == grey.inputs.shape[1:]


def test_groups_of_label_and_colour_are_what_they_say() -> None:
    data = MODULES["label and colour"]()
    for name in data.train_domains:
        samples = data.samples()[name]
        colours = (samples.inputs.amax((2, 3)) > 0).long().argmax(1)
        assert {f"label{y}_colour{z}" for y, z in zip(samples.labels.tolist(), colours.tolist(), strict=True)} == {name}


def test_mnist_is_every_second_pixel_of_torchvisions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    class MNIST:
        data = torch.randint(256, (60_000, 28, 28), dtype=torch.uint8)
        targets = torch.arange(60_000) % 10

        def __init__(self, root: str, *, train: bool, download: bool) -> None:
            asked.append((root, train, download))

    monkeypatch.setattr("torchvision.datasets.MNIST", MNIST)
    data = ColouredDigitsDataModule(source="mnist", root=str(tmp_path), download=True, grey=True)
    data.prepare_data()
    sizes = [samples.size for samples in data.samples().values()]
    assert sizes == [25_000, 25_000, 10_000]
    assert asked == [(str(tmp_path), True, True), (str(tmp_path), True, False)]
    images = {bytes(image.numpy()) for image in MNIST.data[:, ::2, ::2].float() / 255}
    assert all(bytes(image[0].numpy()) in images for image in data.samples()["flip0.9"].inputs[:50])
    assert data.image_shape == (1, 14, 14)


def test_mnist_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"find MNIST in .*download=True"):
        ColouredDigitsDataModule(source="mnist", root=str(tmp_path)).samples()


# ---- shifted digits, moons ------------------------------------------------------------------------------------------


def test_inverted_digits_are_other_digits_with_light_and_dark_exchanged() -> None:
    digits, names = DigitsDataModule().tensors()
    known = {bytes(image.numpy()): int(name) for image, name in zip(digits, names, strict=True)}
    source, target = ShiftedDigitsDataModule().samples().values()
    assert source.size + target.size == len(digits)
    assert [known[bytes(image.numpy())] for image in source.inputs] == source.labels.tolist()
    back = (-target.inputs + 0.0).clamp(-1, 1)  # −0 is another zero to bytes
    assert [known[bytes(image.numpy())] for image in back] == target.labels.tolist()


def test_a_quarter_turn_is_that_of_rot90() -> None:
    quarter, none = (ShiftedDigitsDataModule(shift="rotated", angle=angle) for angle in (90.0, 1e-9))
    turned, upright = (data.samples()["target"].inputs for data in (quarter, none))
    torch.testing.assert_close(turned, torch.rot90(upright, 1, (2, 3)), rtol=0, atol=1e-5)


def test_moons_are_those_of_scikit_learn_turned() -> None:
    straight, turned = (MoonsDataModule(angle=angle, seed=2).samples() for angle in (1e-9, 90.0))
    assert torch.equal(straight["source"].inputs, turned["source"].inputs)
    x, y = straight["target"].inputs.T
    torch.testing.assert_close(turned["target"].inputs, torch.stack([-y, x], dim=1), rtol=0, atol=1e-6)
    assert turned["target"].labels.bincount().tolist() == [150, 150]
    assert straight["source"].inputs.mean(0).abs().max() < 1e-6
    assert not torch.equal(straight["source"].inputs, straight["target"].inputs)


# ---- the linear model -----------------------------------------------------------------------------------------------


def test_exact_moments_make_least_squares_what_theory_says() -> None:
    data = LinearSEMDataModule(model="confounded", environments=(1.0, -0.5), test=-2.0, exact=True, num_samples=40)
    for strength, samples in zip(data.numbers, data.samples().values(), strict=True):
        inputs, targets = samples.inputs.double(), samples.labels.double()
        found = torch.linalg.lstsq(inputs, targets).solution
        spurious = strength * data._kappa * data._eta / (strength**2 * data._kappa**2 + 1)
        # the samples are float32
        torch.testing.assert_close(found, torch.cat([data.invariant[:5], spurious]), rtol=0, atol=1e-5)
        torch.testing.assert_close(inputs.mean(0), torch.zeros(10).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("heteroskedastic", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
def test_the_chain_has_the_moments_of_its_equations(hidden: bool, heteroskedastic: bool) -> None:
    data = LinearSEMDataModule(
        environments=(0.5, 2.0), hidden=hidden, heteroskedastic=heteroskedastic, exact=True, num_samples=40, dim=2
    )
    for e, samples in zip(data.numbers, data.samples().values(), strict=True):
        causes, targets = samples.inputs.double()[:, :2], samples.labels.double()
        of_causes = causes.T @ causes / 40
        torch.testing.assert_close(of_causes, (1 + hidden) * e**2 * torch.eye(2).double(), rtol=1e-5, atol=1e-5)
        rest = targets - causes @ data.invariant[:2]  # ηᵀh + σ_y n
        sigma = 1.0 if heteroskedastic else e
        expected = hidden * e**2 * data._eta.square().sum() + sigma**2
        assert rest.square().mean().item() == pytest.approx(float(expected), rel=1e-5)


def test_scrambled_inputs_are_turned_and_so_is_the_invariant_predictor() -> None:
    plain, turned = (LinearSEMDataModule(scramble=s, num_samples=30) for s in (False, True))
    one, other = plain.samples()["e2"], turned.samples()["e2"]
    assert torch.equal(one.labels, other.labels)
    torch.testing.assert_close(
        one.inputs @ plain.invariant.float(), other.inputs @ turned.invariant.float(), rtol=0, atol=1e-4
    )
    assert not torch.allclose(one.inputs, other.inputs)


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ColouredDigitsDataModule(flips=(0.2,)), r"one environment alone.*two or more"),
        (lambda: ColouredDigitsDataModule(flips=(0.2, 0.2)), "two training environments are the same"),
        (lambda: ColouredDigitsDataModule(flips=(0.2, 0.9)), r"test domain is among the training domains.*flip0\.9"),
        (lambda: ColouredDigitsDataModule(flips=(0.2, 1.5)), "flips"),
        (lambda: ColouredDigitsDataModule(test_flip=-0.1), "test_flip"),
        (lambda: ColouredDigitsDataModule(label_noise=0.5), "label_noise"),
        (lambda: ColouredDigitsDataModule(batch_size=41), r"a batch_size that 2 divides \(got 41\)"),
        (lambda: ColouredDigitsDataModule(groups="label_colour", copies=2), "copies of an image"),
        (lambda: ColouredDigitsDataModule(copies=0), "copies"),
        (lambda: ColouredDigitsDataModule(validation=1.0), "validation"),
        (lambda: ColouredDigitsDataModule(seed=-1), "seed"),
        (lambda: MoonsDataModule(angle=360.0), "a test domain among the training domains"),
        (lambda: MoonsDataModule(noise=-1.0), "noise"),
        (lambda: MoonsDataModule(num_points=1), "num_points"),
        (lambda: ShiftedDigitsDataModule(shift="upside down"), "'inverted' or 'rotated'"),
        (lambda: ShiftedDigitsDataModule(shift="rotated", angle=0.0), "a test domain among the training domains"),
        (lambda: ShiftedDigitsDataModule(image_size=9), "image_size"),
        (lambda: LinearSEMDataModule(environments=(1.0,)), "one environment alone"),
        (lambda: LinearSEMDataModule(environments=(0.2, 5.0)), "test domain is among the training domains"),
        (lambda: LinearSEMDataModule(environments=(0.2, -2.0)), "scale"),
        (lambda: LinearSEMDataModule(model="confounded", environments=(0.0, 1.0)), "pass no 0"),
        (lambda: LinearSEMDataModule(exact=True, num_samples=16), r"num_samples > 16"),
        (lambda: LinearSEMDataModule(exact=True, validation=0.2), "exact"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_built(build, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build()


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Cannot fill a batch"):
        MoonsDataModule(num_points=10, batch_size=40).train_dataloader()


def test_a_data_module_of_ones_own_says_what_is_held_out() -> None:
    class Own(AbstractDomainDataModule):
        def load(self) -> list[DomainSamples]:
            return [DomainSamples(torch.full((6, 1), float(k)), torch.arange(6) % 2) for k in range(3)]

    data = Own(domains=("a", "b", "c"), held_out="b", batch_size=4, validation=0.5)
    assert (data.train_domains, data.num_groups) == (("a", "c"), 2)
    (inputs, _, groups), *_ = batches(data)
    assert inputs.flatten().tolist() == [0.0, 2.0, 0.0, 2.0]
    assert groups.tolist() == [0, 1, 0, 1]


def test_grid_sample_reads_rows_downwards() -> None:
    """The grounds of a turn's direction."""
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    top_left = grid_sample(image, torch.tensor([[[[-0.5, -0.5]]]]), align_corners=False)
    assert top_left.item() == 1.0
