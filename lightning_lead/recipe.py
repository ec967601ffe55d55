"""A recipe and arguments, as `lightning-lead fit` takes them, turned into a trainer, a module and data.

`build` runs nothing. `GameCLI(run=True)` is the command line of fit, validate, test and predict.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import pkgutil
import sys
import typing
import warnings
from argparse import Namespace
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import yaml

from lightning_lead._command_line import ArgumentParser
from lightning_lead._configured import configuration_of, set_configuration
from lightning_lead._errors import ConfigurationError, first_line
from lightning_lead._files import held
from lightning_lead._lightning import (
    LightningArgumentParser,
    LightningCLI,
    LightningDataModule,
    ModelCheckpoint,
)
from lightning_lead._trusted import TRUSTED, is_trusted
from lightning_lead.callbacks._run_folders import RunFolders, last_checkpoint, local_folders
from lightning_lead.checkpoints._whole import refuse_damaged
from lightning_lead.engine.named_rules import game_names
from lightning_lead.gan import LeadGANModule
from lightning_lead.objectives import AdversarialObjective
from lightning_lead.training import LeadMixin

__all__ = ["QUIET", "TRUSTED", "GameCLI", "build", "configuration"]

QUIET = ("--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
"""Arguments of a run that writes and shows nothing of its own."""

_ROOMS = {
    "lightning_lead": "callbacks checkpoints data domains engine features gan metrics networks objectives robust "
    "rules training",
    "lightning.pytorch": "accelerators callbacks core loggers plugins profilers strategies",  # its command line is none
    "lightning.fabric": "accelerators loggers plugins strategies",
    "torch": "nn optim utils.data",
}
_ROOMS |= {"pytorch_lightning": _ROOMS["lightning.pytorch"], "lightning_fabric": _ROOMS["lightning.fabric"]}
_PARTS = (*(f"{package}.{room}." for package, rooms in _ROOMS.items() for room in rooms.split()), "torchmetrics.")


class GameCLI(LightningCLI):
    """LightningCLI with one more argument, `--game NAME`, which wins over the recipe's `model.game`.

    The model is a `LeadGANModule`, or a module of one's own by `model.class_path` in the recipe or the arguments.
    """

    def __init__(self, arguments: Sequence[str] | None = None, *, run: bool) -> None:
        try:
            import jsonargparse  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(
                "Cannot run the command line because jsonargparse is not installed; pip install 'lightning-lead[cli]'"
            ) from error
        self.own_module = _names_a_module(sys.argv[1:] if arguments is None else arguments)
        with contextlib.ExitStack() as self._held:
            super().__init__(
                LeadMixin if self.own_module else LeadGANModule,
                LightningDataModule,
                subclass_mode_model=self.own_module,
                subclass_mode_data=True,
                save_config_kwargs={"overwrite": True},
                auto_configure_optimizers=False,
                parser_class=ArgumentParser,
                run=run,
                args=None if arguments is None else list(arguments),
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `--game` and `--untrained`."""
        names = ", ".join(game_names())
        parser.add_argument(
            "--game",
            type=str | None,
            default=None,
            help=f"game optimizer: NAME or 'NAME(setting=value, ...)' or the dotted path of a rule; names: {names}",
        )
        about = "of validate, test and predict: take networks that no checkpoint has trained"
        parser.add_argument("--untrained", action="store_true", help=about)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and refuse a checkpoint that cannot be read, or whose absence would go unnoticed."""
        super().parse_arguments(parser, args)
        name = self.config.get("subcommand")
        if name is None:
            return
        path, untrained = (self.config[name].get(key) for key in ("ckpt_path", "untrained"))
        if str(path).startswith("http"):
            raise ConfigurationError(
                "Cannot load a checkpoint from an address because Lightning unpickles it, which may run anything; "
                f"download it, and pass the file (got --ckpt_path={path})"
            )
        if name != "fit" and path is None and not untrained:
            raise ConfigurationError(
                f"Cannot {name} because no checkpoint is named, and the networks would be untrained ones; pass "
                "--ckpt_path=FILE, as .../last.ckpt of a fit, or --untrained if that is what you want"
            )
        if path is not None:
            refuse_damaged(path)

    def before_instantiate_classes(self) -> None:
        """Refuse what a recipe may not build, and hand the game to the model."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        _check_classes(config)
        if config.game is None:
            return
        settings = self._settings_of_model(config)
        if self.own_module and "game" not in settings:
            raise ConfigurationError(
                f"Cannot play --game={config.game} because {config.model.class_path} takes no argument game; let its "
                "__init__(game=...) pass it on to super().__init__(game=game)"
            )
        settings.game = config.game

    def instantiate_classes(self) -> None:
        """Build all, and note how networks were built that do not know it themselves."""
        super().instantiate_classes()
        config = self.config[self.subcommand] if self.subcommand else self.config
        for name, part in self._settings_of_model(config).items():
            network = getattr(self.model, name, None)
            if isinstance(network, torch.nn.Module) and configuration_of(network) is None and "class_path" in part:
                plain = part.as_dict()
                set_configuration(network, {"class_path": plain["class_path"], "init_args": plain.get("init_args", {})})

    def _settings_of_model(self, config: Any) -> Any:
        return config.model.get("init_args", {}) if self.own_module else config.model

    def before_fit(self) -> None:
        """Let no other run save where this one does, and this one not write over what earlier ones have saved."""
        trainer: Any = self.trainer  # whose callbacks Lightning does not declare
        if trainer.fast_dev_run:
            for saver in (c for c in trainer.callbacks if isinstance(c, ModelCheckpoint)):
                saver.save_last = False  # Lightning 2.6 writes last.ckpt even so
            return
        if trainer.is_global_zero:
            for folder in local_folders(trainer):
                self._held.enter_context(held(folder, purpose="write checkpoints to"))
        self.before_validate()
        path = self._get(self.config, "ckpt_path")
        resumed = last_checkpoint(trainer) if path == "last" else path
        trainer.callbacks.insert(0, RunFolders(None if resumed is None else Path(resumed)))

    def before_validate(self) -> None:
        """Refuse a checkpoint that is damaged and was not named before: the last one."""
        if self._get(self.config, "ckpt_path") == "last" and (found := last_checkpoint(self.trainer)) is not None:
            refuse_damaged(found)

    before_test = before_predict = before_validate


def build(arguments: Sequence[str] | None = None) -> GameCLI:
    """Build `trainer`, `model` and `datamodule`, the attributes of what is returned; default arguments: the process's.

    Example:
        >>> built = build(["--config=examples/recipes/gaussians.yaml", "--game=ExtraAdam"])
        >>> built.model.game, type(built.datamodule).__name__
        (GameStrategy(ExtraAdam, play='simultaneous'), 'GaussiansDataModule')
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LightningCLI's args parameter is intended to run from within Python")
        return GameCLI(arguments, run=False)


def configuration(arguments: Sequence[str], *, name: str) -> dict[str, Any]:
    """Return what the arguments amount to, and build nothing; an error says that `name` cannot be run, and why."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            GameCLI([*arguments, "--print_config"], run=False)
        except (ConfigurationError, SystemExit) as end:
            if getattr(end, "code", 1):
                raise ConfigurationError(
                    f"Cannot run {name} because fit does not take its arguments; correct them (got {first_line(end)})"
                ) from end
    return yaml.safe_load(printed.getvalue()) or {}


def _names_a_module(arguments: Sequence[str]) -> bool:
    """Return True if the arguments, or a recipe that they name, say of which class the model is."""
    words = [part for word in arguments for part in word.split("=", 1)]
    for word, value in itertools.pairwise(words):
        if word == "--model.class_path":
            return True
        if word == "--model" and (not Path(value).is_file() or "class_path" in _read(Path(value))):
            return True
        if word in ("--config", "-c") and Path(value).is_file():
            recipe = _read(Path(value))
            models = [part.get("model") for part in (recipe, recipe.get("fit")) if isinstance(part, dict)]
            if any(isinstance(model, dict) and "class_path" in model for model in models):
                return True
    return False


def _read(path: Path) -> dict[str, Any]:
    """Return a recipe's entries; none where the parser will say what is wrong with it."""
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return recipe if isinstance(recipe, dict) else {}


def _check_classes(part: Any) -> None:
    """Refuse a `class_path` that is no part of a run, wherever it stands: an argument of any type may hold one."""
    if isinstance(part, (Mapping, Namespace)):
        entries = dict(vars(part) if isinstance(part, Namespace) else part)
        if isinstance(path := entries.get("class_path"), str):
            _check_class(path)
        part = list(entries.values())
    if isinstance(part, (list, tuple)):
        for each in part:
            _check_classes(each)


def _check_class(path: str) -> None:
    package = path.partition(".")[0]
    if is_trusted(package):
        return
    found = pkgutil.resolve_name(path)  # the parser has imported it already
    if inspect.ismethod(found):  # another constructor of its class
        found = found.__self__
    elif not isinstance(found, type):  # a function is what it says that it returns
        found = typing.get_type_hints(found).get("return") if callable(found) else None
    if isinstance(found, type):
        derived = any(f"{base.__module__}.".startswith(_PARTS) for base in found.__mro__)
        if derived or found is timedelta or issubclass(found, AdversarialObjective):
            return
    raise ConfigurationError(
        f"Cannot build {path} because it is no part of a run: no network, optimizer, dataset, metric, callback or "
        "other part of a Trainer or of this package, nor derived from one, and no objective; leave it out, or set "
        f"{TRUSTED}={package} if you know what it does"
    )
