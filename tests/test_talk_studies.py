"""The scripts that measure LEAD's forms against each other: what they compute, and that they run, briefly."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import processes
import pytest
import torch
from recipe_kit import write_store
from torch import nn
from torch.nn.functional import softplus

from lightning_lead import LeadGANModule
from lightning_lead.analysis import simulate
from lightning_lead.games import QuadraticGame
from lightning_lead.objectives import R1
from lightning_lead.rules import LEAD
from lightning_lead.rules._coupling import coupling_by_momentum

TALK = Path(__file__).parents[1] / "examples" / "talk"


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a script by its name, as the scripts import each other."""
    monkeypatch.syspath_prepend(str(TALK))
    loaded: list[str] = []

    def load(name: str) -> ModuleType:
        loaded.extend(path.stem for path in TALK.glob("*.py"))
        return importlib.import_module(name)

    yield load
    for name in loaded:
        sys.modules.pop(name, None)


def rows_of(folder: Path, script: str, *arguments: object) -> list[list[str]]:
    """The cells of the table that a script prints, without its ruler."""
    done = processes.run([TALK / f"{script}.py", "--fast", *arguments], cwd=folder, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len({len(line) for line in lines}) == 1
    return lines


@pytest.mark.slow
def test_domain_training_has_a_row_per_method_and_keeps_its_runs(tmp_path: Path, talk: Any) -> None:
    head, *rows = rows_of(tmp_path, "domains")
    assert [row[0] for row in rows] == list(talk("domains").methods(0.9))
    assert all(0.0 < float(cell) < 1.0 for row in rows for cell in row[1:])
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")}
    assert len(kept) == len(rows) * len(head[1:])
    assert rows_of(tmp_path, "domains") == [head, *rows]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.slow
def test_overfitting_has_a_row_per_training_and_keeps_its_runs(tmp_path: Path, talk: Any) -> None:
    head, *rows = rows_of(tmp_path, "overfitting")
    study = talk("overfitting")
    assert head[1:4] == ["clean", "FGSM", "PGD-20"]
    assert [row[0] for row in rows] == list(study.ROWS)[:2]
    assert all(0.0 <= float(cell) <= 1.0 for row in rows for cell in row[1:5])
    assert rows[0][6] == "1.00"
    assert len(list((tmp_path / "runs").rglob("*-seed0.json"))) == 2
    looks = [{"robust_accuracy/pgd-10": value} for value in (0.0, 0.3, 0.04, 0.01)]
    assert [study.collapse(looks[:k]) for k in range(5)] == [None, 1, None, 3, 3]
    assert study.collapse([]) is None


def test_every_row_of_the_study_of_overfitting_builds_and_gradalign_is_a_cosine(talk: Any) -> None:
    study = talk("overfitting")
    assert len({repr(row.module().game.rule) + str(row[:2]) + str(row[3:]) for row in study.ROWS.values()}) == len(
        study.ROWS
    )
    images, labels = torch.rand(4, 1, 3, 3), torch.arange(4) % 2
    linear = nn.Sequential(nn.Flatten(), nn.Linear(9, 1, bias=False))

    def logits(x: torch.Tensor) -> torch.Tensor:  # of two classes; its gradients are parallel, up to the sign
        return torch.cat([linear(x), -linear(x)], 1)

    loss = study.GradAlign(0.7, 0.1).network_loss(logits, images, images, labels)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits(images), labels))


@pytest.mark.slow
def test_robust_training_is_judged_beside_its_loop_and_drawn(tmp_path: Path) -> None:
    head, *rows = rows_of(tmp_path, "robust")
    assert head[1:] == ["by", "clean", "PGD-20", "AutoAttack", "weights apart"]
    assert [row[1] for row in rows] == ["module", "loop"] * 2
    assert [float(row[5]) for row in rows[::2]] == [0.0, 0.0]  # the same kernels, in the same order
    drawn = {path.name for path in (tmp_path / "runs" / "talk").glob("*.png")}
    assert drawn == {"robust_epsilon.png", "robust_universal.png", "robust_patch.png"}


@pytest.mark.slow
def test_agreement_is_measured_in_three_games(tmp_path: Path) -> None:
    _, *rows = rows_of(tmp_path, "agreement")
    assert {row[0].split(",")[0] for row in rows} == {"domains", "digits", "gaussians"}
    assert {row[1].split(",")[0] for row in rows} == {"exact", "extrapolated"}
    for row in rows:
        quantiles = [float(cell) for cell in row[5:]]
        assert quantiles == sorted(quantiles), row
        if row[4].startswith("cos"):
            assert quantiles[0] >= -1.0, row
            assert quantiles[-1] <= 1.0, row


@pytest.mark.slow
def test_eight_gaussians_are_counted(tmp_path: Path) -> None:
    _, *rows = rows_of(tmp_path, "eight_gaussians", "--jobs", 1)
    assert [row[0] for row in rows] == ["OptimisticAdam", "LEAD exact, a = 1.0"]
    assert all(row[3].endswith("of 1") and 0.0 <= float(row[6]) <= 1.0 for row in rows)


@pytest.mark.slow
def test_the_relativistic_gan_is_scored(tmp_path: Path, talk: Any) -> None:
    _, *rows = rows_of(tmp_path, "relativistic")
    methods = talk("relativistic").METHODS
    assert [row[0].rsplit(", γ", 1)[0] for row in rows] == [*methods, *methods]
    assert all(float(row[1]) > 0 for row in rows)


needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon since 2.9")


@pytest.mark.slow
@needs_muon
def test_muon_plays_every_row(tmp_path: Path, talk: Any) -> None:
    _, *rows = rows_of(tmp_path, "muon")
    assert [row[0] for row in rows] == [label for label in talk("muon").rows() if "0.95" in label]


@needs_muon
def test_muon_has_the_hidden_weights_alone_and_every_weight_moves_once(talk: Any) -> None:
    muon = talk("muon")
    networks = muon.MLPGenerator(latent_dim=4, width=8), muon.MLPDiscriminator(width=8)
    gan = muon.MuonGAN(muon.Setting("Muon", 0.95, False, "AlternatingGDA", 1e-3), *networks)
    hidden, rest = gan.configure_optimizers()
    assert all(p.shape == (8, 8) for group in hidden.param_groups for p in group["params"])
    held = [id(p) for optimizer in (hidden, rest) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in gan.parameters())


@pytest.mark.parametrize(("nesterov", "law"), [(False, 19.5), (True, 18.55)])
def test_the_law_of_the_table_is_the_law_of_the_library(nesterov: bool, law: float, talk: Any) -> None:
    muon = talk("muon")
    assert muon.Setting("Muon", 0.95, nesterov, "", 1e-3).law == pytest.approx(law)
    lag = muon.Setting("Muon", 0.95, nesterov, "", 1e-3).law - 0.5
    assert coupling_by_momentum(lag) == pytest.approx(law)


def test_on_a_quadratic_game_both_terms_are_one_and_watching_changes_nothing(talk: Any) -> None:
    watched = talk("agreement").Watched(LEAD(1.5, cross="extrapolated"), every=1)
    game = QuadraticGame([[1.0, 0.3], [0.2, 0.7]], curvature=0.2)
    seen = simulate(watched, game, lr=0.2, steps=8)
    plain = simulate(LEAD(1.5, cross="extrapolated"), game, lr=0.2, steps=8)
    assert torch.equal(seen.points, plain.points)
    assert len(watched.records) == 2 * 8 - 1  # in the first turn of all nobody has moved
    for record in watched.records:
        told = talk("agreement").measures(record)
        # in float64 a difference of gradients has 1e-16 of them, and the terms are within 100 of these
        assert told["cos(a·c, e)"] == pytest.approx(1.0, abs=1e-12)
        assert told["|e| / |a·c|"] == pytest.approx(1.0, abs=1e-12)
        assert told["|e − a·c| / |a·c|"] < 1e-6  # the root of a difference of squares


def test_distorted_digits_are_always_the_same_and_stay_images(talk: Any) -> None:
    domains = talk("domains")
    first, again = domains.load(), domains.load()
    assert torch.equal(first.target, again.target)
    assert first.target.min() >= -1.0
    assert first.target.max() <= 1.0
    assert len(first.source) + len(first.target) == 1797
    assert not torch.equal(first.source[: len(first.target)], first.target)


def test_the_domain_game_is_zero_sum_but_for_the_labels(talk: Any) -> None:
    domains = talk("domains")
    module = domains.DomainAdversarial(weight=0.5)
    batch = next(iter(domains.Batches(domains.load(), size=16, seed=0)))
    losses = module.player_losses(batch)
    labels = nn.functional.cross_entropy(module.classifier(module.features(batch[0])), batch[1])
    torch.testing.assert_close(losses["features"] + 0.5 * losses["domains"], labels)


def test_relativistic_losses_and_penalties_are_what_they_say(talk: Any) -> None:
    relativistic = talk("relativistic")
    torch.manual_seed(0)
    generator, discriminator = (
        nn.Sequential(nn.Linear(3, 4)),
        nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)),
    )
    discriminator.append(nn.Flatten(0))
    generator.latent_dim = 3
    plain, penalised = (
        relativistic.RelativisticGAN(generator, discriminator, penalty=penalty)
        for penalty in (None, relativistic.BothEnds(0.7))
    )
    batch = next(iter(LeadGANModule._micro(plain, torch.randn(6, 4), None, 6, ("discriminator",), update=0, parts=1)))
    wanted = frozenset({"discriminator", "generator"})
    losses, with_penalty = plain.wanted_losses(batch, wanted), penalised.wanted_losses(batch, wanted)
    fakes = generator(batch.latents)
    ahead = discriminator(batch.real) - discriminator(fakes)
    torch.testing.assert_close(losses["generator"], softplus(ahead).mean())
    torch.testing.assert_close(losses["discriminator"], softplus(-ahead).mean())
    assert torch.equal(with_penalty["generator"], losses["generator"])
    both = R1(0.7)(discriminator, batch.real) + R1(0.7)(discriminator, fakes)
    torch.testing.assert_close(with_penalty["discriminator"] - losses["discriminator"], both)


@pytest.mark.slow
def test_cifar10_is_judged_once_per_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(tmp_path / "store" / "cifar10")
    monkeypatch.setenv("LIGHTNING_LEAD_HOME", str(tmp_path / "store"))
    head, *rows = rows_of(tmp_path, "cifar10")
    assert head == ["after 2 game steps", "FID, β₁ = 0.5", "KID × 1000, β₁ = 0.5"]
    assert [row[:2] for row in rows] == [["Adam", "inf"], ["LEAD extrapolated, auto", "inf"]]  # too few for FID
    assert all(math.isfinite(float(row[2])) for row in rows)
    assert len(list((tmp_path / "runs").rglob("*-seed0.json"))) == len(rows)


@pytest.mark.slow
def test_domain_adversarial_training_by_every_rule_has_its_table_and_keeps_its_runs(tmp_path: Path, talk: Any) -> None:
    head, *rows = rows_of(tmp_path, "dann")
    dann = talk("dann")
    assert [row[0] for row in rows] == list(dann.METHODS)
    assert head[0].startswith("moons")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")}
    assert len(kept) == len(rows)
    assert rows_of(tmp_path, "dann", "--table") == [head, *rows]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_steps_to_an_accuracy_are_those_of_a_mean_of_looks(talk: Any) -> None:
    dann = talk("dann")
    curve = dann.Curve(list(range(10, 110, 10)), [0.0, 0.0, 1.0, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0], [1.0] * 10)
    assert dann.steps_to(curve, 0.5) == 60  # 0, 1, .5, .5, .5 is the first mean of five that is there
    assert dann.steps_to(curve, 0.9) == 100
    assert dann.steps_to(curve, 0.95) == math.inf
    assert dann.last_quarter(curve) == 1.0


def test_every_rule_has_a_row_of_domain_adversarial_training(talk: Any) -> None:
    from lightning_lead.engine.named_rules import find_game, game_names

    rows = {find_game(method.game).rule.name for method in talk("dann").METHODS.values()}
    assert rows == {find_game(name).rule.name for name in game_names()}


@pytest.mark.slow
@pytest.mark.parametrize(("script", "count"), [("coloured_digits", 4), ("groups", 8)])
def test_tables_of_domains_are_printed(script: str, count: int, tmp_path: Path) -> None:
    rows = [row for row in rows_of(tmp_path, script) if "±" not in row[0]]
    assert sum(row[1].replace(".", "").isdigit() for row in rows) == count
