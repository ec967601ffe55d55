"""Domain-adversarial training by every rule: game steps to 95 % of the best target accuracy, at three momenta.

    python examples/talk/dann.py [--output runs/talk] [--seeds 0 1 2 3 4] [--data moons digits turned] [--table]

The data are two moons against moons turned by 35°; digits against other digits in which dark and light are exchanged
(by a network whose first layer is rectified, see `ConvFeatures`); and digits against digits turned by 45°. A row is a
rule, a column a momentum β of SGD. The rate is η (1 − β), so that the effective one is the same. Rows of Adam have
betas (β, 0.999). The rates η were chosen by plain play of seed 100 at momentum 0, by the accuracy in the last quarter
of 1,000 steps; a run here has 600.

A cell has the median over seeds of the first step whose target accuracy, a mean of five looks ten steps apart, is at
least 95 % of the best in the table (of its means over seeds of the last quarter of a run), and behind it the mean ±
standard deviation of the last quarter itself. "–" never got there; "(2/5)" is how many seeds did, where not all did;
"·" was not played, because the row has a momentum of its own or takes plain steps. Every run is kept in `dann/` and not
made again; `--table` prints those that are there, and `--fast` sees that it runs. Draws

    dann_moons.png, dann_digits.png, …     target accuracy against game steps, by momentum

References: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016 (the game, and the moons); Acuna,
Law, Zhang and Fidler, "Domain Adversarial Training: A Game Perspective", ICLR 2022 (Runge-Kutta against momentum SGD).
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from drawing import parser_of, save
from pytorch_lightning import seed_everything
from torch import nn
from training import quiet, silent_trainer

from lightning_lead import DANNModule, DivergenceError, DomainAccuracy, MoonsDataModule, ShiftedDigitsDataModule
from lightning_lead._files import write_json
from lightning_lead.networks import MLP, ConvFeatures

EVERY = 10  # game steps between looks at the accuracy
WINDOW = 5  # looks in a mean
MOMENTA = (0.0, 0.5, 0.9)
SHARE = 0.95


class Study(NamedTuple):
    """Data, networks, and the rates of both optimizers."""

    title: str
    data: Callable[[int], Any]
    networks: Callable[[], Sequence[nn.Module]]  # features, classifier, discriminator
    sgd: float
    adam: float
    guess: float  # the accuracy of guessing
    steps: int = 600


STUDIES = {
    "moons": Study(
        "moons → moons turned by 35°",
        lambda seed: MoonsDataModule(angle=35.0, batch_size=64, seed=seed),
        lambda: (MLP(2, width=32), MLP(32, 1, depth=0), MLP(32, 1, width=32)),
        sgd=0.3,
        adam=2e-2,
        guess=0.5,
    ),
    "digits": Study(
        "digits → inverted digits",
        lambda seed: ShiftedDigitsDataModule(shift="inverted", batch_size=128, seed=seed),
        lambda: (ConvFeatures(rectify=True), MLP(64, 10, depth=0), MLP(64, 1, width=64)),
        sgd=0.1,
        adam=3e-3,
        guess=0.1,
    ),
    "turned": Study(
        "digits → digits turned by 45°",
        lambda seed: ShiftedDigitsDataModule(shift="rotated", angle=45.0, batch_size=128, seed=seed),
        lambda: (MLP(64, width=64, depth=2), MLP(64, 10, depth=0), MLP(64, 1, width=64)),
        sgd=0.4,
        adam=1e-2,
        guess=0.1,
    ),
}


class Method(NamedTuple):
    """One row: a game as `lightning_lead.engine.named_rules.find_game` takes it, and what moves the weights."""

    game: str
    optimizer: str = "SGD"
    alone: bool = False  # it has a momentum of its own, or takes plain steps: at β = 0 only


METHODS = {
    "plain play, alternating": Method("AlternatingGDA"),
    "plain play, simultaneous": Method("SimultaneousGDA"),
    "LEAD exact, auto": Method("LEAD(coupling='auto', cross='exact')"),
    "LEAD extrapolated, auto": Method("LEAD(coupling='auto', cross='extrapolated')"),
    "LEAD difference, auto": Method("LEAD(coupling='auto', cross='difference')"),
    "ODE-GAN RK2": Method("ODEGAN(scheme='heun', regularization=0.0)", alone=True),
    "ODE-GAN RK4": Method("ODEGAN(scheme='rk4', regularization=0.0)", alone=True),
    "optimistic gradient": Method("OptimisticGradient"),
    "extragradient": Method("Extragradient"),
    "past extragradient": Method("PastExtragradient"),
    "level-2 play": Method("LevelK(level=2)"),
    "prediction": Method("Prediction"),
    "Alex-GDA, γ = δ = 2": Method("AlexGDA(gamma=2.0, delta=2.0)"),
    "νPI, κ = 1.5, ν = 0.5": Method("NuPI(kappa=1.5, nu=0.5)"),
    "Lookahead-minmax": Method("LookaheadMinmax(steps=5, alpha=0.5)"),
    "consensus": Method("ConsensusOptimization(weight=0.1)"),
    "symplectic adjustment": Method("SymplecticGradientAdjustment(weight=0.1)"),
    "negative momentum, −0.5": Method("NegativeMomentum(beta=-0.5)", alone=True),
    "Polyak momentum, 0.5": Method("PolyakMomentum(beta=0.5)", alone=True),
    "CGD": Method("CGD(tolerance=0.01, max_iterations=10)", alone=True),
    "plain play, Adam": Method("AlternatingGDA", "Adam"),
    "OptimisticAdam": Method("OptimisticAdam", "Adam"),
    "ExtraAdam": Method("ExtraAdam", "Adam"),
    "LEAD-Adam exact, auto": Method("LEAD(coupling='auto', cross='exact')", "Adam"),
    "LEAD-Adam extrapolated, auto": Method("LEAD(coupling='auto', cross='extrapolated')", "Adam"),
    "Adam, β₁ = −0.5": Method("NegativeAdam(beta1=-0.5, beta2=0.999)", "Adam", alone=True),
    "ACGD": Method("ACGD(tolerance=0.01, max_iterations=10)", "Adam", alone=True),
}


class Silent(DANNModule):
    """Logs nothing, which takes a third of a step on networks as small as these."""

    def log_game_step(self, *_: Any) -> None:
        pass


class Curve(NamedTuple):
    """The record of a run: looks at the held-out domain, and at the validation part of the source."""

    steps: list[int]
    target: list[float]
    source: list[float]


def module_of(study: Study, method: Method, momentum: float, *, rate: float | None = None) -> DANNModule:
    """Both players, moved by SGD at the effective rate, or by Adam."""
    if method.optimizer == "Adam":
        rate = study.adam if rate is None else rate
        make = lambda groups: torch.optim.Adam(groups, betas=(momentum, 0.999))  # noqa: E731
    else:
        rate = (study.sgd if rate is None else rate) * (1 - momentum)
        make = lambda groups: torch.optim.SGD(groups, momentum=momentum)  # noqa: E731
    return Silent(*study.networks(), game=method.game, optimizer=make, learning_rates=rate)


def trained(
    study: Study, method: Method, momentum: float, seed: int, steps: int, *, rate: float | None = None
) -> Curve:
    """The accuracies along a run; of one that diverges, up to there and then those of guessing."""
    seed_everything(seed, verbose=False)
    module, looks = module_of(study, method, momentum, rate=rate), DomainAccuracy(every_n_steps=EVERY)
    trainer = silent_trainer(steps, looks)
    with contextlib.suppress(DivergenceError):
        trainer.fit(module, datamodule=study.data(seed))
    seen = {record["step"]: record["values"] for record in looks.history}
    at = list(range(EVERY, steps + 1, EVERY))
    target, source = (
        [seen[step][f"accuracy/{name}"] if step in seen else study.guess for step in at]
        for name in ("held_out", "source")
    )
    return Curve(at, target, source)


def curve_of(
    name: str, label: str, momentum: float, seed: int, steps: int, folder: Path, *, make: bool
) -> Curve | None:
    """A run's curve, made if it is not in the folder and may be."""
    study, method = STUDIES[name], METHODS[label]
    rate = study.adam if method.optimizer == "Adam" else study.sgd
    words = (
        name,
        method.optimizer,
        method.game,
        f"momentum{momentum:g}",
        f"rate{rate:g}",
        f"steps{steps}",
        f"seed{seed}",
    )
    path = folder / f"{re.sub(r'[^a-zA-Z0-9.=]+', '-', '-'.join(words))}.json"
    if not path.is_file():
        if not make:
            return None
        curve = trained(study, method, momentum, seed, steps)
        write_json(
            path,
            {"data": name, "label": label, **method._asdict(), "momentum": momentum, "rate": rate}
            | {"seed": seed, "curve": curve._asdict()},
        )
        print(path, f"{last_quarter(curve):.3f}", flush=True)
    return Curve(**json.loads(path.read_text(encoding="utf-8"))["curve"])


def last_quarter(curve: Curve) -> float:
    """The mean target accuracy of the last quarter of a run."""
    pairs = zip(curve.steps, curve.target, strict=True)
    return statistics.fmean(value for step, value in pairs if step > 0.75 * curve.steps[-1])


def steps_to(curve: Curve, wanted: float) -> float:
    """The first step at which the mean of the last looks is what is wanted; inf if there is none."""
    for k in range(WINDOW, len(curve.steps) + 1):
        if statistics.fmean(curve.target[k - WINDOW : k]) >= wanted:
            return curve.steps[k - 1]
    return math.inf


def momenta_of(method: Method) -> tuple[float, ...]:
    """The columns that a row has."""
    return MOMENTA[:1] if method.alone else MOMENTA


def table(study: Study, curves: Mapping[tuple[str, float], Sequence[Curve]]) -> str:
    """Steps and accuracies in Markdown."""
    means = {key: statistics.fmean(map(last_quarter, found)) for key, found in curves.items() if found}
    best = max(means.values())
    heads = [f"{study.title}; best {best:.3f}", *(f"β = {momentum:g}" for momentum in MOMENTA)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for label in METHODS:
        cells = [label]
        for momentum in MOMENTA:
            found = curves.get((label, momentum), [])
            cells.append(_cell(found, SHARE * best) if found else "·")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(curves: Sequence[Curve], wanted: float) -> str:
    taken = [steps_to(curve, wanted) for curve in curves]
    reached = sum(map(math.isfinite, taken))
    median = statistics.median_low(sorted(taken)) if len(taken) % 2 else statistics.median_high(sorted(taken))
    text = f"{median:g}" if math.isfinite(median) else "–"
    text += f" ({reached}/{len(taken)})" if 0 < reached < len(taken) else ""
    scores = [last_quarter(curve) for curve in curves]
    spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
    return f"{text}; {statistics.fmean(scores):.3f}{spread}"


DRAWN = {
    "plain play, alternating": "black",
    "LEAD exact, auto": "tab:red",
    "LEAD extrapolated, auto": "tab:orange",
    "optimistic gradient": "tab:blue",
    "extragradient": "tab:green",
    "ODE-GAN RK4": "tab:purple",
}
"""Rows of the picture, and their colours."""


def draw(study: Study, curves: Mapping[tuple[str, float], Sequence[Curve]], folder: Path, name: str) -> None:
    """Target accuracy against game steps, a panel per momentum: the mean over seeds, of five looks, and every seed."""
    figure, panels = plt.subplots(1, len(MOMENTA), figsize=(11, 3.6), sharey=True, layout="constrained")
    for axes, momentum in zip(panels, MOMENTA, strict=True):
        for label, colour in DRAWN.items():
            alone = METHODS[label].alone  # Runge-Kutta takes plain steps: the same curve in every panel
            found = curves.get((label, 0.0 if alone else momentum), [])
            smooth = [_means(curve.target) for curve in found]
            for ys in smooth:
                axes.plot(found[0].steps[WINDOW - 1 :], ys, color=colour, lw=0.6, alpha=0.3)
            if found:
                mean = [statistics.fmean(values) for values in zip(*smooth, strict=True)]
                style = {"color": colour, "lw": 2, "ls": ":" if alone and momentum else "-"}
                axes.plot(found[0].steps[WINDOW - 1 :], mean, label=label, **style)
        axes.set(title=f"β = {momentum:g}", xlabel="game steps")
    panels[0].set_ylabel(f"accuracy, {study.title}", fontsize=9)
    panels[0].legend(frameon=False, fontsize=8)
    save(figure, folder, f"dann_{name}")


def _means(values: Sequence[float]) -> list[float]:
    return [statistics.fmean(values[k - WINDOW : k]) for k in range(WINDOW, len(values) + 1)]


def main() -> None:
    """Play, print, and draw."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--data", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--table", action="store_true", help="make no run, print those that are there")
    options = parser.parse_args()
    quiet()
    folder = options.output / ("dann_fast" if options.fast else "dann")
    folder.mkdir(parents=True, exist_ok=True)
    if options.fast:
        options.seeds, options.data = [0], ["moons"]
    for name in options.data:
        steps = WINDOW * EVERY if options.fast else STUDIES[name].steps
        curves: dict[tuple[str, float], list[Curve]] = {}
        for seed in options.seeds:  # an early look has all rows of the first seed
            for label, method in METHODS.items():
                for momentum in momenta_of(method)[: 1 if options.fast else None]:
                    curve = curve_of(name, label, momentum, seed, steps, folder, make=not options.table)
                    curves.setdefault((label, momentum), []).extend([] if curve is None else [curve])
        if any(curves.values()):
            print(table(STUDIES[name], curves), end="\n\n", flush=True)
            draw(STUDIES[name], curves, options.output, name)


if __name__ == "__main__":
    main()
