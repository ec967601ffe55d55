"""The command `lightning-lead`: fit, validate, test, predict by LightningCLI; compare, evaluate, fetch beside them.

lightning-lead fit --config examples/recipes/digits.yaml --game ExtraAdam
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path
from typing import Any

from lightning_lead._errors import (
    CheckpointMismatchError,
    ConfigurationError,
    DifferentiationError,
    DivergenceError,
)

__all__ = ["command", "main"]


def main(args: list[str] | None = None, *, run: bool = True) -> Any:
    """Run the command line.

    Args:
        args: arguments after the program's name; default those of the process.
        run: whether to run the subcommand; otherwise there is none, and everything is built for the caller to use.

    Returns:
        The LightningCLI object, with its `trainer`, `model` and `datamodule`; of compare, evaluate and fetch, the exit
        status.

    Raises:
        ConfigurationError: jsonargparse, which the command line needs, is not installed.

    Example:
        >>> import contextlib, io
        >>> from unittest import mock
        >>> with mock.patch("sys.argv", ["lightning-lead", "--help"]), contextlib.suppress(SystemExit):
        ...     with contextlib.redirect_stdout(io.StringIO()) as out:
        ...         main()
        >>> "fit" in out.getvalue()
        True
    """
    words = sys.argv[1:] if args is None else args
    if run and words[:1] == ["compare"]:
        from lightning_lead.compare import compare

        return compare(words[1:])
    if run and words[:1] == ["evaluate"]:
        from lightning_lead.evaluate import evaluate

        return evaluate(words[1:])
    if run and words[:1] == ["fetch"]:
        from lightning_lead.fetch import fetch

        return fetch(words[1:])
    try:
        import jsonargparse  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "Cannot run the command line because jsonargparse is not installed; pip install 'lightning-lead[cli]'"
        ) from error
    from pytorch_lightning import LightningDataModule
    from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

    from lightning_lead.gan import LeadGANModule
    from lightning_lead.systems import game_names

    class GameCLI(LightningCLI):
        """LightningCLI with one more argument, `--game NAME`, which wins over the recipe's `model.game`."""

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            """Add `--game`."""
            names = ", ".join(game_names())
            parser.add_argument(
                "--game",
                type=str | None,
                default=None,
                help=f"game optimizer: NAME or 'NAME(setting=value, ...)' or the dotted path of a rule; names: {names}",
            )

        def before_instantiate_classes(self) -> None:
            """Hand it to the model."""
            config = self.config[self.subcommand] if self.subcommand else self.config
            if config.game is not None:
                config.model.game = config.game

        def before_fit(self) -> None:
            """Keep the checkpoints of an earlier run."""
            _keep_earlier(self.trainer, goes_on=self._get(self.config, "ckpt_path") is not None)

    return GameCLI(
        LeadGANModule,
        LightningDataModule,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True},
        auto_configure_optimizers=False,
        run=run,
        args=args,
        parser_kwargs={
            "epilog": "And `lightning-lead compare --help`: several game optimizers on one recipe; "
            "`lightning-lead evaluate --help`: scores of a checkpoint or of a folder of images; "
            "`lightning-lead fetch --help`: CIFAR-10, and the network of FID."
        },
    )


def _keep_earlier(trainer: Any, *, goes_on: bool) -> None:
    """A fresh run's checkpoints have an earlier one's names: its folders go aside."""
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.utilities import rank_zero_info

    savers = [callback for callback in trainer.callbacks if isinstance(callback, ModelCheckpoint)]
    if trainer.fast_dev_run:
        for saver in savers:
            saver.save_last = False  # Lightning 2.6 writes last.ckpt even so
        return
    if goes_on or not trainer.is_global_zero:
        return
    for folder in (Path(saver.dirpath) for saver in savers if saver.dirpath is not None):
        if not any(folder.glob("*.ckpt")):
            continue
        if Path.cwd().is_relative_to(folder.resolve()):
            raise ConfigurationError(
                f"Cannot begin a new run in {folder} because it holds the checkpoints of an earlier one; pass another "
                "dirpath to ModelCheckpoint, or go on by --ckpt_path"
            )
        aside = next(path for k in count(1) if not (path := folder.with_name(f"{folder.name}.{k}")).exists())
        folder.rename(aside)
        rank_zero_info(f"{folder} holds the checkpoints of an earlier run, which are now in {aside}")


def command() -> None:
    """What the installed command runs: `main`, without a result that a shell would take for a failure.

    Modules in the current folder can be named in recipes and by `--game`, as under `python -m`; installed ones of the
    same name come first. What the package itself refuses is said in one line, however deep in other errors it lies;
    what nobody has foreseen keeps its traceback.

    Example:
        >>> from unittest import mock
        >>> with mock.patch("lightning_lead.cli.main", return_value="a LightningCLI"):
        ...     command()
    """
    if not {"", str(Path.cwd())} & set(sys.path):  # an installed command has its own folder there instead
        sys.path.append(str(Path.cwd()))
    try:
        outcome = main()
    except Exception as error:
        said = _own_words(error)
        if said is None:
            raise
        sys.exit(f"lightning-lead: {said}")
    if isinstance(outcome, int):
        sys.exit(outcome)


def _own_words(error: BaseException | None) -> str | None:
    """The first error in the chain that says what to do; None if there is none."""
    from lightning_lead.fetch.store import FetchError

    own = (CheckpointMismatchError, ConfigurationError, DifferentiationError, DivergenceError, FetchError)
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, own):
            return str(error)
        if isinstance(error, FileNotFoundError) and str(error).startswith("Checkpoint file not found"):
            return f"{error} Pass another --ckpt_path."  # Lightning's
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


if __name__ == "__main__":
    command()
