"""The command `lightning-lead`: chooses a subcommand, and says in one line what the package refuses.

lightning-lead fit --config examples/recipes/digits.yaml --game ExtraAdam

Help that needs no torch is shown without importing it.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import sys
from pathlib import Path
from typing import Any

from lightning_lead._errors import (
    BusyFolderError,
    CheckpointMismatchError,
    ConfigurationError,
    DifferentiationError,
    DivergenceError,
    StorageError,
)

__all__ = ["command", "main"]

_SUBCOMMANDS = {
    "fit": "train by a recipe",
    "validate": "validate a checkpoint",
    "test": "test a checkpoint",
    "predict": "write or return samples of a checkpoint",
    "compare": "train one recipe by several game optimizers; a table and a figure",
    "sample": "draw a grid of what a trained generator makes",
    "evaluate": "score a checkpoint, or a folder of images",
    "fetch": "fetch CIFAR-10, MNIST, or the network of FID",
}


def main(args: list[str] | None = None, *, run: bool = True) -> Any:
    """Run the command line.

    Args:
        args: arguments after the program's name; default those of the process.
        run: whether to run the subcommand; otherwise there is none, and everything is built for the caller to use.

    Returns:
        The LightningCLI object, with its `trainer`, `model` and `datamodule`; of compare, evaluate, sample and
        fetch, the exit status.

    Raises:
        ConfigurationError: no such command, arguments that cannot work, or jsonargparse, which the command line needs,
            is not installed.

    Example:
        >>> import contextlib, io
        >>> with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:
        ...     main(["--help"])
        >>> "fit" in out.getvalue()
        True
    """
    if not run:
        from lightning_lead.recipe import build

        return build(args)
    words = sys.argv[1:] if args is None else args
    first = words[0] if words else None
    if first in ("-h", "--help"):
        return _parser().parse_args(words)  # which shows the help and exits
    if first is None or not (first.startswith("-") or first in _SUBCOMMANDS):
        near = difflib.get_close_matches(first or "", _SUBCOMMANDS, n=1)
        what = "because no command is given" if first is None else f"{first} because there is no such command"
        known = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(_SUBCOMMANDS)}"
        raise ConfigurationError(f"Cannot run {what}; {known}")
    if first == "compare":
        from lightning_lead.compare import compare

        return compare(words[1:])
    if first == "evaluate":
        from lightning_lead.evaluate import evaluate

        return evaluate(words[1:])
    if first == "sample":
        from lightning_lead.pretrained.command import sample

        return sample(words[1:])
    if first == "fetch":
        from lightning_lead.fetch import fetch

        return fetch(words[1:])
    from lightning_lead.recipe import GameCLI

    return GameCLI(args, run=True)


def _parser() -> argparse.ArgumentParser:
    """Build the parser of the help alone: subcommands have their own."""
    parser = argparse.ArgumentParser(
        prog="lightning-lead",
        description="Train GANs and other two-player games under PyTorch Lightning, and score them.",
        epilog="For the arguments of a subcommand: lightning-lead fit --help, and so on.",
    )
    subcommands = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND")
    for name, purpose in _SUBCOMMANDS.items():
        subcommands.add_parser(name, help=purpose, add_help=False)
    return parser


def command() -> None:
    """Run `main` as the installed command does, without a result that a shell would take for a failure.

    Modules in the current folder can be named in recipes and by `--game`, as under `python -m`; installed ones of the
    same name come first. An error of the package is printed in one line, also where it is the cause of another error.
    Every other error keeps its traceback.

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
        message = _own_message(error)
        if message is None:
            raise
        sys.exit(f"lightning-lead: {message}")
    if isinstance(outcome, int):
        sys.exit(outcome)


def _own_message(error: BaseException | None) -> str | None:
    """Return the message of the first of this package's errors in the chain; None if there is none."""
    from lightning_lead.fetch._store import FetchError

    own = (
        BusyFolderError,
        CheckpointMismatchError,
        ConfigurationError,
        DifferentiationError,
        DivergenceError,
        FetchError,
        StorageError,
    )
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, own):
            return str(error)
        if isinstance(error, FileNotFoundError) and str(error).startswith("Checkpoint file not found"):
            return f"{error} Pass another --ckpt_path."  # Lightning's
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"Cannot go on because a file cannot be written; make room, and run it again (got {error})"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


if __name__ == "__main__":
    command()
