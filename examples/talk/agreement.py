"""How far one gradient at an extrapolated opponent agrees with the exact cross term, along runs of three games.

    python examples/talk/agreement.py [--output runs/talk] [--games domains digits gaussians] [--seeds 0 1] [--fast]

Every ten game steps, for each player i, at the point and on the batch of its turn, j being the opponent:

    c = (∂²L_i / ∂θ_i ∂θ_j) Δ_j                  the exact term, in own form
    e = ∇_i L_i(θ_i, θ_j + a·Δ_j) − ∇_i L_i      what the extrapolated form adds

Both are looked at beside the turn, so a watched run is the run that is not watched, bit for bit. Prints quantiles of
cos(a·c, e), |e| / |a·c| and |e − a·c| / |a·c| as a table in Markdown, in the first 100 game steps and after them. Every
series is kept in `agreement/`, with all inner products of g, a·c and e, and not measured again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import domains
import torch
from drawing import parser_of
from training import RECIPES, quiet

from lightning_lead import GameStrategy
from lightning_lead._files import write_json
from lightning_lead._types import Point, Vector
from lightning_lead.calculus import HessianTerm
from lightning_lead.calculus._players import extrapolated, inner, norm, opponent_of, weighted_sum
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.cli import main as command_line
from lightning_lead.engine.named_rules import find_game
from lightning_lead.rules import LEAD, AbstractGameRule
from lightning_lead.rules._coupling import coupling_by_momentum
from lightning_lead.rules.base import RuleNeeds, RuleState

EARLY = 100  # game steps
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@final
class Watched(AbstractGameRule):
    """LEAD, and every so many game steps a look aside at its exact term and at what the extrapolated form adds.

    Args:
        rule: whose directions are taken.
        every: game steps between looks, ≥ 1.
    """

    plays = ("alternating",)
    needs = RuleNeeds(uses_opponent=True, second_order=True, repeats_batch=True, reads_momentum=True)
    form = "own"

    def __init__(self, rule: LEAD | None = None, *, every: int = 10) -> None:
        self.rule, self.every = rule or LEAD(), every
        self.records: list[dict[str, Any]] = []

    def init(self, point: Point) -> RuleState:
        """The rule's, and how many turns each player has had."""
        return {"watched": self.rule.init(point), "turns": dict.fromkeys(point, 0)}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """The rule's own. Its look is the turn's first and real one; all looks aside repeat it."""
        before, turns = state["watched"], dict(state["turns"])
        directions, after = self.rule.direction(oracle, players, before)
        for player in players:
            opponent = opponent_of(player, oracle.names)
            if turns[player] % self.every == 0 and before["moved"][opponent]:
                record = self._looked(player, oracle, before["anchor"][opponent])
                self.records.append({"step": turns[player], "player": player, **record})
            turns[player] += 1
        return directions, {"watched": after, "turns": turns}

    def _looked(self, player: str, oracle: GameOracle, before: Vector) -> dict[str, float]:
        opponent = opponent_of(player, oracle.names)
        coupling = self.rule.coupling
        if isinstance(coupling, dict):
            coupling = coupling[player]
        a = coupling_by_momentum(oracle.lag(player)) if coupling == "auto" else coupling
        here = oracle.point
        moved = weighted_sum([(1.0, here[opponent]), (-1.0, before)])
        g = oracle.gradient(player, at=here)
        term = oracle.hessian_product(player, [HessianTerm(player, opponent, moved)])
        c = weighted_sum([(a, term)])
        there = oracle.gradient(player, at={**here, opponent: extrapolated(here[opponent], before, a)})
        e = weighted_sum([(1.0, there), (-1.0, g)])
        products = {"gg": (g, g), "cc": (c, c), "ee": (e, e), "gc": (g, c), "ge": (g, e), "ce": (c, e)}
        found = {name: float(inner(*pair)) for name, pair in products.items()}
        return {"a": a, **found, "share_moved": a * float(norm(moved) / norm(here[opponent]))}


class Series(NamedTuple):
    """One watched run."""

    game: str  # the column of the table
    rule: str
    steps: int
    seed: int
    records: list[dict[str, Any]]


def watched_domains(momentum: float, rule: LEAD, seed: int, steps: int) -> list[dict[str, Any]]:
    """Domain-adversarial digits, by SGD."""
    setting = domains.Setting("", momentum)
    watch = Watched(rule)
    domains.trained(domains.module_of(setting, GameStrategy(watch), seed), setting, seed, steps)
    return watch.records


def watched_recipe(recipe: str, momentum: float, rule: LEAD, seed: int, steps: int) -> list[dict[str, Any]]:
    """A GAN, by Adam."""
    off = ("enable_progress_bar", "enable_model_summary", "logger")
    arguments = [f"--config={RECIPES / recipe}.yaml", f"--seed_everything={seed}", f"--trainer.max_steps={steps}"]
    arguments += [f"--model.optimizer.init_args.betas=[{momentum},0.9]", *(f"--trainer.{name}=false" for name in off)]
    built = command_line(arguments, run=False)
    watch = Watched(rule)
    built.trainer.callbacks = []
    built.model.game = GameStrategy(watch)
    built.trainer.fit(built.model, built.datamodule)
    return watch.records


PLANS = {  # game -> (momentum, couplings), and game steps
    "domains": ([(0.9, (10.0, "auto"))], 1000),
    "digits": ([(0.5, ("auto",)), (0.8, ("auto",))], 500),
    "gaussians": ([(0.5, (2.0, "auto"))], 1000),
}


def series(games: Sequence[str], seeds: Sequence[int], folder: Path, fast: bool) -> Iterator[Series]:
    """Every run, watched if its series is not in the folder."""
    for name in games:
        plan, steps = PLANS[name]
        if fast:
            plan, steps = [(plan[0][0], plan[0][1][:1])], 21
        for seed in seeds:
            for momentum, couplings in plan:
                for a in couplings:
                    for cross in ("exact", "extrapolated"):
                        text = f"LEAD(coupling={a!r}, cross={cross!r})"
                        path = folder / f"{name}-{momentum}-{cross}-{a}-{steps}-seed{seed}.json"
                        if not path.is_file():
                            rule: Any = find_game(text).rule
                            play = watched_domains if name == "domains" else _of_recipe(name)
                            write_json(path, {"records": play(momentum, rule, seed, steps)})
                            print(path, flush=True)
                        game = f"{name}, β = {momentum:g}"
                        yield Series(game, f"{cross}, a = {a}", steps, seed, json.loads(path.read_text())["records"])


def _of_recipe(name: str) -> Any:
    return lambda *arguments: watched_recipe(name, *arguments)


def measures(record: dict[str, Any]) -> dict[str, float]:
    """What is told by the inner products of one look."""
    gg, cc, ee, gc, ge, ce = (record[key] for key in ("gg", "cc", "ee", "gc", "ge", "ce"))
    off = max(ee - 2 * ce + cc, 0.0)
    exact, cheap = gg + 2 * gc + cc, gg + 2 * ge + ee
    return {
        "cos(a·c, e)": _ratio(ce, math.sqrt(cc * ee)),
        "|e| / |a·c|": math.sqrt(_ratio(ee, cc)),
        "|e − a·c| / |a·c|": math.sqrt(_ratio(off, cc)),
        "|a·c| / |g|": math.sqrt(_ratio(cc, gg)),
        "cos(g + a·c, g + e)": _ratio(gg + gc + ge + ce, math.sqrt(max(exact * cheap, 0.0))),
    }


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.nan


def table(found: Sequence[Series]) -> str:
    """Quantiles over the looks of all seeds, in Markdown."""
    head = ["game", "run", "player", "game steps", "measure", *(f"{q:.0%}" for q in QUANTILES)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for game, rule in dict.fromkeys((s.game, s.rule) for s in found):
        looks = [record for s in found if (s.game, s.rule) == (game, rule) for record in s.records]
        for player in dict.fromkeys(record["player"] for record in looks):
            for phase, early in ((f"first {EARLY}", True), ("the rest", False)):
                own = [measures(r) for r in looks if r["player"] == player and (r["step"] < EARLY) == early]
                for name in own[0] if own else ():
                    values = torch.tensor([o[name] for o in own], dtype=torch.float64)
                    cells = [
                        f"{value:.2f}" for value in values.nanquantile(torch.tensor(QUANTILES, dtype=torch.float64))
                    ]
                    lines.append("| " + " | ".join([game, rule, player, phase, name, *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Watch, and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--games", nargs="+", choices=PLANS, default=list(PLANS))
    options = parser.parse_args()
    quiet()
    folder = options.output / ("agreement_fast" if options.fast else "agreement")
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [0] if options.fast else options.seeds
    print(table(list(series(options.games, seeds, folder, options.fast))))


if __name__ == "__main__":
    main()
