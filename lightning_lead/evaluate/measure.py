"""Score a checkpoint as its recipe says, or a folder of images; the record is that of `GenerativeMetrics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import Callback, Trainer
from lightning_lead.callbacks import GenerativeMetrics, GeneratorEMA, find_ema
from lightning_lead.callbacks._generator_scores import find_reference, pass_reals, score_samples
from lightning_lead.checkpoints._game import saved_description
from lightning_lead.checkpoints._reading import read_checkpoint
from lightning_lead.evaluate._weights import load_weights, stored_dtype
from lightning_lead.evaluate.folder import PNGFolder
from lightning_lead.gan._sampling import check_generates
from lightning_lead.metrics import ReferenceImages, Scorer
from lightning_lead.metrics.scorer import Measurement
from lightning_lead.recipe import QUIET, GameCLI, build

__all__ = ["ScoreRecord", "evaluate_checkpoint", "evaluate_images"]

_Callback = TypeVar("_Callback", bound=Callback)


class ScoreRecord(NamedTuple):
    """A record, as in generative_metrics.json, and the picture of "memorization"; both None on other ranks than 0.

    Example:
        >>> ScoreRecord({"values": {"fid": 2.0}}, None).record["values"]
        {'fid': 2.0}
    """

    record: dict[str, Any] | None
    picture: Tensor | None


class _Scores(Callback):
    """Score once, under `trainer.validate`, where every rank has its weights and buffers on its device."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.measured: Measurement | None = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.sync_buffers()
        pass_reals(self.scorer, trainer, pl_module)
        self.measured = score_samples(self.scorer, trainer, pl_module, find_ema(trainer))
        self.scorer.free()


def evaluate_checkpoint(
    config: str | Path,
    checkpoint: str | Path,
    *,
    reference: str | None = None,
    weights: str = "auto",
    overrides: Sequence[str] = (),
    **settings: Any,
) -> ScoreRecord:
    """Rebuild module and data from the recipe, load the checkpoint, and score its samples.

    With no further settings this is the number that the recipe's `GenerativeMetrics` had at that step.

    Args:
        config: the recipe, as `lightning-lead fit` takes it.
        checkpoint: of a run of that recipe, compact or not, or a file with its generator alone; read with
            `weights_only=True`.
        reference: "train" or "test" images of a data module that has both; default the recipe's.
        weights: "ema", "live", or "auto": the average if the recipe has one.
        overrides: further arguments of `fit`, "--trainer.devices=2".
        **settings: of `GenerativeMetrics`, instead of the recipe's.

    Raises:
        ConfigurationError: no such file, a checkpoint that is more than weights, no average where one is wanted, or a
            `reference` where the recipe's `GenerativeMetrics` has one of its own.

    Example:
        >>> evaluate_checkpoint("examples/recipes/digits.yaml", "no.ckpt")
        Traceback (most recent call last):
        lightning_lead._errors.ConfigurationError: Cannot evaluate because there is no checkpoint no.ckpt; pass another
    """
    path = Path(checkpoint)
    content = read_checkpoint(path, purpose="evaluate")
    built = _build(config, [*overrides, "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"])
    trainer: Any = built.trainer  # whose callbacks Lightning does not declare
    model = built.model
    check_generates(model, "evaluate")
    scores = _Scores(_scorer(built, reference, settings))
    average = load_weights(model, content, _callback(trainer, GeneratorEMA), weights=weights)
    trainer.callbacks = [scores, *([average] if average is not None else [])]
    trainer.validate(model, datamodule=built.datamodule, verbose=False)
    assert scores.measured is not None
    if not trainer.is_global_zero:
        return ScoreRecord(None, None)
    protocol = scores.measured.protocol
    protocol["weights_dtype"] = stored_dtype(model, content, average, sampled=str(protocol["weights_dtype"]))
    game = saved_description(content)
    where = {"step": int(content["global_step"]), "stage": "evaluate", "game": game, "checkpoint": path.name}
    return _record(where, scores.measured)


def evaluate_images(
    images: str | Path,
    *,
    reference_images: str | Path | None = None,
    config: str | Path | None = None,
    reference: str | None = None,
    overrides: Sequence[str] = (),
    num_samples: int | None = None,
    device: str = "cpu",
    **settings: Any,
) -> ScoreRecord:
    """Score a folder of PNG files, from any source.

    Args:
        images: the folder of the samples.
        reference_images: a folder of real images; or else `config`.
        config: a recipe, whose data are the reals, and whose `GenerativeMetrics` has the settings.
        reference: "train" or "test" images of a data module that has both; default the recipe's.
        overrides: further arguments of `fit` for the recipe, "--data.folder=…".
        num_samples: the first so many; default all.
        device: of the feature network.
        **settings: of `GenerativeMetrics`.

    Raises:
        ConfigurationError: folders that cannot be read, too few images, or shapes that differ.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> class Pixels(torch.nn.Flatten):
        ...     num_features = 4
        ...     def forward(self, images):
        ...         return super().forward(images.float())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for i in range(6):
        ...         Image.new("L", (2, 2), 40 * i).save(Path(folder) / f"{i}.png")
        ...     found = evaluate_images(folder, reference_images=folder, extractor=Pixels(), metrics=["precision"])
        >>> found.record["values"]
        {'precision': 1.0}
    """
    samples = PNGFolder(images)
    count = len(samples) if num_samples is None else num_samples
    if count > len(samples):
        raise ConfigurationError(
            f"Cannot score {count} samples because {images} has {len(samples)} PNG files; lower it"
        )
    settings["num_samples"] = count
    if reference_images is not None:
        folder = PNGFolder(reference_images)
        scorer = Scorer(**settings)
        reals = ReferenceImages(folder, name=f"folder {folder.folder.name}")
    elif config is not None:
        built = _build(config, overrides)
        scorer = _scorer(built, reference, settings)
        reals = _recipe_reference(built, scorer)
    else:
        raise ConfigurationError("Cannot score images without real ones; pass reference_images= or config=")
    scorer.take_reference(reals, torch.device(device))
    source = ReferenceImages(torch.utils.data.Subset(samples, range(count)), name="samples")
    shape, expected = tuple(samples[0].shape), scorer.image_shape
    if shape != expected:
        raise ConfigurationError(
            f"Cannot compare samples with real images because their shapes differ; pass images of {expected} "
            f"(channels, height, width) (got {shape})"
        )
    protocol = {"generator_mode": "images from a folder", "ema": None}
    measured = scorer.measure_images(source.chunks(scorer.batch_size, value_range=scorer.value_range), protocol)
    scorer.free()
    return _record({"stage": "evaluate", "images": samples.folder.name}, measured)


def _record(where: dict[str, Any], measured: Measurement) -> ScoreRecord:
    return ScoreRecord({**where, "values": measured.values, "protocol": measured.protocol}, measured.picture)


def _build(config: str | Path, overrides: Sequence[str]) -> GameCLI:
    if not Path(config).is_file():
        raise ConfigurationError(f"Cannot find the recipe {config}; pass the path of a YAML file that `fit` takes")
    return build([f"--config={config}", *overrides, *QUIET])


def _callback(trainer: Any, kind: type[_Callback]) -> _Callback | None:
    return next((callback for callback in trainer.callbacks if isinstance(callback, kind)), None)


def _scorer(built: GameCLI, reference: str | None, settings: Mapping[str, Any]) -> Scorer:
    """Return the recipe's scorer with other settings, or one of these alone; the data get the split to compare with."""
    metrics = _callback(built.trainer, GenerativeMetrics)
    scorer = Scorer(**settings) if metrics is None else metrics.scorer.changed(**settings)
    _choose_reference(built.datamodule, reference, scorer)
    return scorer


def _choose_reference(data: Any, reference: str | None, scorer: Scorer) -> None:
    """Let the data module compare with that split."""
    if reference not in (None, "train", "test"):
        raise ConfigurationError(f"Cannot compare with reference={reference!r}; choose 'train' or 'test'")
    if reference is not None and scorer.reference is not None:
        raise ConfigurationError(
            f"Cannot compare with the {reference} images because the recipe's GenerativeMetrics has real images of its "
            f"own; leave out --reference, or that reference= (got {type(scorer.reference).__name__})"
        )
    has_splits = isinstance(getattr(data, "reference", None), str)
    if reference is not None and has_splits:
        data.reference = reference
    elif reference == "test":
        raise ConfigurationError(
            f"Cannot compare with test images because {type(data).__name__} has no attribute reference to choose them "
            "by; compare with the training images, or pass a folder of PNG files as --reference-images"
        )
    if "memorization" in scorer.names and has_splits and data.reference == "test":
        raise ConfigurationError(
            "Cannot look for copies of training images among the test images; leave out memorization, or compare with "
            "the training images by --reference train"
        )


def _recipe_reference(built: GameCLI, scorer: Scorer) -> ReferenceImages:
    built.datamodule.prepare_data()
    built.datamodule.setup("fit")
    # a Trainer knows its data in a run alone
    stand_in: Any = SimpleNamespace(datamodule=built.datamodule, train_dataloader=None)
    return find_reference(scorer.reference, stand_in, built.model)
