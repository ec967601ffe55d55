"""The command `lightning-lead`: fit, validate, test and predict from a YAML recipe, through LightningCLI.

lightning-lead fit --config examples/recipes/digits.yaml
"""

from __future__ import annotations

from typing import Any

from lightning_lead._errors import ConfigurationError

__all__ = ["main"]


def main(args: list[str] | None = None, *, run: bool = True) -> Any:
    """Run the command line.

    Args:
        args: arguments after the program's name; default those of the process.
        run: whether to run the subcommand; otherwise there is none, and everything is built for the caller to use.

    Returns:
        The LightningCLI object, with its `trainer`, `model` and `datamodule`.

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
    try:
        import jsonargparse  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "Cannot run the command line because jsonargparse is not installed; pip install 'lightning-lead[cli]'"
        ) from error
    from pytorch_lightning import LightningDataModule
    from pytorch_lightning.cli import LightningCLI

    from lightning_lead.gan import LeadGANModule

    return LightningCLI(
        LeadGANModule,
        LightningDataModule,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True},
        auto_configure_optimizers=False,
        run=run,
        args=args,
    )


if __name__ == "__main__":
    main()
