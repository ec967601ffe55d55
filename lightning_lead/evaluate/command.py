"""The command `lightning-lead evaluate`: a table of scores, their protocol, and a file with both."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_lead._errors import ConfigurationError, StorageError
from lightning_lead._files import check_writable, write_json

__all__ = ["differences", "evaluate"]

_OUTCOMES = ("clipped_share", "generator_sha256")  # fields of a protocol that say nothing of how it was measured


def evaluate(arguments: Sequence[str]) -> int:
    """Run the command `lightning-lead evaluate`.

    Args:
        arguments: of the command line, after the word evaluate.

    Returns:
        0.

    Raises:
        ConfigurationError: files that are missing, or settings that cannot work.

    Example:
        >>> import contextlib, io
        >>> with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:
        ...     evaluate(["--help"])
        >>> "--checkpoint" in out.getvalue()
        True
    """
    parser = _parser()
    chosen, overrides = parser.parse_known_args(arguments)
    _check(parser, chosen, overrides)

    from torchvision.transforms.functional import to_pil_image  # these not above: help would import torch

    from lightning_lead.evaluate.measure import evaluate_checkpoint, evaluate_images
    from lightning_lead.metrics._protocol import protocol_table, read_records

    check_writable(chosen.output)  # before hours of scoring
    read_records(chosen.output)
    names = ("extractor", "metrics", "num_samples", "batch_size", "seed", "kid_subset_size", "is_splits", "cache")
    settings = {name: value for name in names if (value := getattr(chosen, name)) is not None}
    if chosen.checkpoint is not None:
        trainer = {"devices": chosen.devices, "accelerator": chosen.accelerator}
        overrides += [f"--trainer.{name}={value}" for name, value in trainer.items() if value is not None]
        found = evaluate_checkpoint(
            chosen.config,
            chosen.checkpoint,
            reference=chosen.reference,
            weights=chosen.weights,
            overrides=overrides,
            **settings,
        )
    else:
        found = evaluate_images(
            chosen.images,
            reference_images=chosen.reference_images,
            config=chosen.config,
            reference=chosen.reference,
            overrides=overrides,
            device=_device(chosen.accelerator),
            **settings,
        )
    if found.record is None:
        return 0
    print(protocol_table(found.record), flush=True)  # whatever becomes of the file
    records = [*read_records(chosen.output), found.record]
    try:
        write_json(chosen.output, records)
        print(f"\nwritten to {chosen.output}, which holds {len(records)} record{'s' if len(records) > 1 else ''} now")
        if found.picture is not None:
            # each record has a picture of its own, which the next one leaves alone
            suffix = ".nearest.png" if len(records) == 1 else f".nearest_{len(records)}.png"
            picture = chosen.output.with_suffix(suffix)
            to_pil_image(found.picture).save(picture)
            print(f"samples above their nearest training images: {picture}")
    except OSError as error:
        raise StorageError(
            f"Cannot write the scores above to {chosen.output}, or their picture; keep what is printed (got {error})"
        ) from error
    return 0


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two protocols differ: name -> both values; without any, their numbers compare.

    Args:
        a: a record with a "protocol", as in generative_metrics.json, or a protocol itself.
        b: another.

    Example:
        >>> a = {"protocol": {"num_samples": 50_000, "versions": {"torch": "2.8"}}}
        >>> b = {"protocol": {"num_samples": 10_000, "versions": {"torch": "2.8"}}}
        >>> differences(a, b)
        {'num_samples': (50000, 10000)}
    """
    left, right = (_flat(record.get("protocol", record)) for record in (a, b))
    names = [name for name in {**left, **right} if name not in _OUTCOMES]
    return {name: (left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _check(parser: argparse.ArgumentParser, chosen: argparse.Namespace, overrides: Sequence[str]) -> None:
    if strange := [argument for argument in overrides if not argument.startswith("--")]:
        parser.error(f"write --argument=value for what goes to the recipe (got {' '.join(strange)})")
    if (chosen.checkpoint is None) == (chosen.images is None):
        parser.error("pass --config with --checkpoint, or --images: one of the two")
    if chosen.checkpoint is not None:
        if chosen.config is None or chosen.reference_images is not None:
            parser.error("--checkpoint needs --config, whose data it is compared with")
        return
    if chosen.devices not in (None, 1):
        parser.error("a folder of images is scored by one process; leave out --devices")
    if (chosen.reference_images is None) == (chosen.config is None):
        parser.error("--images needs --reference-images or --config: one of the two")
    if chosen.config is None and overrides:
        parser.error(f"unknown arguments (got {' '.join(overrides)})")


def _device(accelerator: str | None) -> str:
    import torch

    if accelerator in (None, "auto", "gpu", "cuda") and torch.cuda.is_available():
        return "cuda"
    if accelerator in (None, "auto", "cpu"):
        return "cpu"
    raise ConfigurationError(
        f"Cannot compute on this machine's {accelerator!r}; leave out --accelerator, or pass 'cpu'"
    )


def _cache(text: str) -> bool | str:
    return False if text == "none" else text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-lead evaluate",
        description="Score a checkpoint as its recipe says, or a folder of PNG files, and say how it was measured.",
        epilog="Any other argument goes to the recipe, as in --data.folder=… or --trainer.precision=32-true.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", type=Path, help="the recipe, as fit takes it")
    add("--checkpoint", type=Path, help="of a run of the recipe")
    add("--images", type=Path, help="instead of a checkpoint: a folder of PNG files")
    add("--reference-images", type=Path, help="with --images: a folder of real images as PNG files")
    add("--reference", choices=["train", "test"], help="which images of the recipe's data")
    add("--samples", type=int, dest="num_samples", help="default: the recipe's, or all of the folder")
    metrics = "fid, kid, prdc, memorization, ...; an unknown name lists all; default: the recipe's"
    add("--metrics", nargs="+", help=metrics)
    add("--extractor", help="inception, digits, ...; default: the recipe's, or inception")
    add("--weights", choices=["auto", "ema", "live"], default="auto", help="of the generator")
    add("--batch-size", type=int, help="another one draws other samples")
    add("--seed", type=int, help="of the samples; default: the recipe's")
    add("--kid-subset-size", type=int, help="samples in each of KID's subsets")
    add("--is-splits", type=int, help="parts that the classifier's score is averaged over")
    add("--cache", type=_cache, help="folder of reference statistics, or none")
    add("--devices", type=int, help="processes that share the work")
    add("--accelerator", help="cpu, gpu or auto; default: the recipe's, or auto for folders")
    add("--output", type=Path, default=Path("scores.json"), help="added to (default: %(default)s)")
    return parser
