"""The plan of a comparison: a run per game and seed, each in a folder of its own, and a fingerprint of its settings."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_lead._errors import ConfigurationError
from lightning_lead.engine.named_rules import find_game, game_names
from lightning_lead.recipe import QUIET, build, configuration

__all__ = ["Entry", "Run", "check_score", "configurations", "overruled", "plan_runs", "read_entries"]

_TWICE = {"GradientDescent", "GradientPlay"}  # AlternatingGDA by other names


class Entry(NamedTuple):
    """One line of the table.

    Example:
        >>> Entry("LEAD a = 3", "LEAD(coupling=3.0)", ()).slug
        'lead-a-3'
    """

    label: str
    game: str  # as --game takes it
    overrides: tuple[str, ...]  # further arguments, "--model.generator_lr=0.02"

    @property
    def slug(self) -> str:
        """The label as a folder's name."""
        return re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")


class Run(NamedTuple):
    """One fit of a comparison.

    Example:
        >>> Run(Entry("LEAD", "LEAD", ()), 0, Path("out/lead/seed0"), ("--config=a.yaml",), "").seed
        0
    """

    entry: Entry
    seed: int
    folder: Path
    arguments: tuple[str, ...]  # of `lightning-lead fit`, and --every=N
    fingerprint: str  # of the recipe's text and the arguments


def read_entries(games: Sequence[str], file: Path | None) -> list[Entry]:
    """Return the entries of the names, which are labels of the file or games as `--game` takes them.

    No names stand for all labels of the file; without a file, for all games.
    """
    known = {} if file is None else _entries(file)
    chosen = list(games) or list(known) or [name for name in game_names() if name not in _TWICE]
    entries = [known.get(name, Entry(name, name, ())) for name in chosen]
    for entry in entries:
        find_game(entry.game)  # an unknown name shows before anything is run
    slugs = [entry.slug for entry in entries]
    if twice := sorted({slug for slug in slugs if slugs.count(slug) > 1}):
        raise ConfigurationError(f"Cannot tell games apart whose labels share a folder; rename them (got {twice})")
    return entries


def plan_runs(
    entries: Sequence[Entry], config: Path, seeds: Sequence[int], output: Path, extra: Sequence[str]
) -> list[Run]:
    """Plan every run, seed by seed, so that an early look compares all games on the first seed.

    Args:
        entries: the games that are compared.
        config: the recipe.
        seeds: ≥ 0, at least one.
        output: where folders are made.
        extra: arguments for every run; an entry's own ones win.

    Raises:
        ConfigurationError: no seeds, or no such recipe.

    Example:
        >>> recipe = Path("setup.cfg")  # any file will do for a plan
        >>> runs = plan_runs([Entry("LEAD", "LEAD", ())], recipe, [0, 1], Path("out"), [])
        >>> [run.folder.as_posix() for run in runs]
        ['out/lead/seed0', 'out/lead/seed1']
    """
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ConfigurationError(f"Cannot compare over seeds {list(seeds)}; pass one or more different ones ≥ 0")
    if not config.is_file():
        raise ConfigurationError(f"Cannot find the recipe {config}; pass the path of a YAML file that `fit` takes")
    text = config.read_text(encoding="utf-8")
    runs = []
    for seed in seeds:
        for entry in entries:
            own = (f"--config={config}", f"--seed_everything={seed}", f"--game={entry.game}")
            arguments = (*own, *extra, *entry.overrides)
            # the recipe's text and not its path: a recipe that has moved is the same
            decides = json.dumps([text, *arguments[1:]])
            digest = hashlib.sha256(decides.encode()).hexdigest()[:16]
            runs.append(Run(entry, seed, output / entry.slug / f"seed{seed}", arguments, digest))
    return runs


def configurations(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Return label -> what the arguments of its first run amount to; arguments that `fit` refuses are an error."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        if run.entry.label not in found:
            arguments = [argument for argument in run.arguments if not argument.startswith("--every=")]
            found[run.entry.label] = configuration(arguments, name=run.entry.label)
    return found


def check_score(score: str, run: Run) -> None:
    """Refuse a score that no callback of the recipe keeps a history of; of a recipe without such nobody knows yet."""
    arguments = [argument for argument in run.arguments if not argument.startswith("--every=")]
    trainer: Any = build([*arguments, *QUIET]).trainer  # whose callbacks Lightning does not declare
    keep = [getattr(callback, "scorer", callback) for callback in trainer.callbacks if hasattr(callback, "history")]
    if not keep or not all(hasattr(each, "names") for each in keep):
        return
    names = [name for each in keep for name in each.names]
    if not any(score == name or score.startswith(f"{name}_") for name in names):  # "kid_std" stands beside "kid"
        raise ConfigurationError(f"Cannot show the score {score!r}; choose one that the recipe has: {', '.join(names)}")


def overruled(entry: Entry, extra: Sequence[str]) -> list[tuple[str, str]]:
    """Return arguments for every run that do not reach this entry's, each with the entry's own one."""
    pairs = [(given, own) for given in extra for own in entry.overrides]
    return [(given, own) for given, own in pairs if _overlap(_key(given), _key(own)) and given != own]


def _key(argument: str) -> list[str]:
    return argument.removeprefix("--").split("=", 1)[0].replace(".init_args.", ".").split(".")


def _overlap(one: Sequence[str], other: Sequence[str]) -> bool:
    """Return True for the same setting twice, or a setting and a group that it is in."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _entries(file: Path) -> dict[str, Entry]:
    """Read YAML of the form label -> {game: NAME, overrides: {argument: value}}."""
    try:
        read = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"Cannot read the games file {file} because {error}") from error
    if not isinstance(read, dict):
        raise ConfigurationError(f"Cannot read the games file {file}; write label -> {{game: NAME}} (got {read!r})")
    entries: dict[str, Entry] = {}
    for label, settings in read.items():
        if not isinstance(settings, dict) or not set(settings) <= {"game", "overrides"}:
            raise ConfigurationError(
                f"Cannot read {label!r} in {file}; write a mapping of game: NAME and overrides: "
                f"{{argument: value}} (got {settings!r})"
            )
        overrides = (settings.get("overrides") or {}).items()
        extra = tuple(f"--{key}={_text(value)}" for key, value in overrides)
        entries[label] = Entry(label, str(settings.get("game", label)), extra)
    return entries


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (list, dict, bool)) or value is None else str(value)
