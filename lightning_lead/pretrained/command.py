"""The command `lightning-lead sample`: a picture of what a trained generator draws."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from lightning_lead._errors import ConfigurationError

__all__ = ["sample"]


def sample(arguments: Sequence[str]) -> int:
    """Run the command `lightning-lead sample`.

    Args:
        arguments: of the command line, after the word sample.

    Returns:
        0.

    Raises:
        ConfigurationError: a file that is missing or holds no generator, samples that are no images, or a picture that
            is to be no PNG file.

    Example:
        >>> import contextlib, io
        >>> with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:
        ...     sample(["--help"])
        >>> "--out" in out.getvalue()
        True
    """
    chosen = _parser().parse_args(arguments)
    if chosen.out.suffix != ".png":
        raise ConfigurationError(
            f"Cannot write the picture because it is no PNG file; pass --out grid.png (got {chosen.out})"
        )

    from torchvision.transforms.functional import to_pil_image  # these not above: help would import torch

    from lightning_lead._files import check_writable
    from lightning_lead._images import image_grid, picture_bytes
    from lightning_lead.pretrained.load import load_trained
    from lightning_lead.pretrained.sampling import draw_samples

    check_writable(chosen.out)
    ema = {"auto": None, "ema": True, "live": False}[chosen.weights]
    trained = load_trained(chosen.checkpoint, ema=ema, name=chosen.name)
    samples = draw_samples(trained.network, chosen.n, seed=chosen.seed, labels=chosen.labels)
    if samples.dim() != 4 or samples.shape[1] not in (1, 3):
        raise ConfigurationError(
            "Cannot draw the samples because they are no images (n, 1 or 3, H, W); use load_generator in Python "
            f"(got {tuple(samples.shape)})"
        )
    to_pil_image(image_grid(picture_bytes(samples), chosen.nrow or math.isqrt(chosen.n - 1) + 1)).save(chosen.out)
    weights = "averaged" if trained.averaged else "live"
    print(f"{chosen.out}: {chosen.n} samples by the {weights} weights of game step {trained.game_steps}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-lead sample",
        description="Draw a grid of samples of a trained generator; its checkpoint is all that is needed.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help="of a fit, or a file with the generator alone")
    add("--n", type=int, default=64, help="samples (default: %(default)s)")
    add("--out", type=Path, default=Path("grid.png"), help="the picture, a PNG file (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the latents (default: %(default)s)")
    add("--labels", type=int, nargs="+", help="classes, over and over; default: all in turn")
    add("--nrow", type=int, help="samples in a row; default: about as many as rows")
    add("--weights", choices=["auto", "ema", "live"], default="auto", help="auto: the average if there is one")
    add("--name", default="generator", help="of the network in the module (default: %(default)s)")
    return parser
