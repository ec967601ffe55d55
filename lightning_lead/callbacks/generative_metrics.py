"""GenerativeMetrics: FID, KID and a classifier's view of the samples during training, each with its protocol.

One pass of every image through one feature network serves all scores. The reals are passed once, before the first game
step, so that whatever cannot work is found there. Every rank takes part in everything; the samples are the same for any
number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.transforms.functional import to_pil_image

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive
from lightning_lead._files import write_json
from lightning_lead._lightning import Callback, Trainer, WeightAveraging, rank_zero_info, rank_zero_warn
from lightning_lead.callbacks._generator_scores import pass_reals, score_samples, try_samples
from lightning_lead.callbacks._monitors import check_monitors
from lightning_lead.checkpoints._game import saved_description
from lightning_lead.gan._sampling import check_generates
from lightning_lead.gan.ema import find_ema
from lightning_lead.metrics import Score, kid, prdc
from lightning_lead.metrics._protocol import describe, read_records
from lightning_lead.metrics.scorer import Scorer

__all__ = ["GenerativeMetrics"]


class GenerativeMetrics(Callback):
    """Scores samples every so many game steps, or at each validation, and under `trainer.validate` and `trainer.test`.

    Logged: the metrics by their names, and with a classifier `classifier_score` (the Inception Score of that
    classifier), `class_coverage` (the smallest class's share of the samples) and `confidence` (mean top probability),
    or, of an extractor with an attribute `score_name`, the score alone under that name: `inception_score`. With
    "memorization" also `memorization_pixels`, `authenticity`, and a picture of samples above their nearest reals,
    nearest_00000500.png (500: the game step). They are seen
    by `ModelCheckpoint(monitor="fid")` and `EarlyStopping(monitor="fid")` and reach every logger at their own step. The
    protocol goes with each: into the log, into `history`, and into generative_metrics.json in the log folder.

    Samples come from the average where the Trainer has a `GeneratorEMA`. Samples outside the value range are an error
    at the start of a fit; later they are clamped, and the record says which share was. Samples that are not finite make
    the scores nan, with a warning: `ModelCheckpoint` never takes such a model for the best, and `EarlyStopping` stops.

    Nothing happens in the sanity check. With `fast_dev_run` the reals and one chunk of samples go through every check,
    and no score is computed.

    Args:
        extractor: a name that `features.feature_network` knows, None for "inception", or a module:
            bytes (n, C, H, W) -> features (n, num_features) of floats, with an attribute `num_features`. With a method
            `classify(features) -> logits (n, K)` the classifier's scores are logged, too. An attribute `fingerprint`
            (text) names it in the protocol; the default is a hash of its weights. It is frozen, stays out of the
            LightningModule, and so out of checkpoints.
        every_n_steps: game steps between scores in a fit, ≥ 1, or None for each validation.
        num_samples: fakes, > num_features for FID.
        batch_size: images per forward, ≥ 1; part of the protocol, as another one draws other samples.
        metrics: which of "fid", "kid", "precision", "recall", "density", "coverage" ("prdc" is the last four) and
            "memorization", or scores with settings of their own, as `metrics.KID(subsets=50)`; all but FID keep all
            features in memory.
        value_range: the values of images that become black and white.
        reference: the reals, a tensor (N, C, H, W), a dataset or a DataLoader (its dataset is read in order); default
            the data module's `reference_images()`, else the training data.
        seed: of the samples and of KID's subsets.
        kid_subsets: `subsets` of `metrics.KID`, where it is named by "kid"; so are the next three.
        kid_subset_size: its `subset_size`.
        precision_k: that of `metrics.PRDC`.
        density_k: that of `metrics.PRDC`.
        is_splits: `splits` of `metrics.ClassifierScore`, where there is a classifier.
        cache: folder of reference statistics; True is "statistics" in $LIGHTNING_LEAD_HOME or ~/.cache/lightning-lead,
            used where there is enough to compute; False computes them anew each time.
        name_prefix: before the names that are logged, for a second instance.

    Raises:
        ConfigurationError: a setting out of its range; at fit start, an extractor or images that cannot work.

    Example:
        >>> class Pixels(nn.Flatten):
        ...     num_features = 64
        ...     def forward(self, images):
        ...         return super().forward(images.float())
        >>> GenerativeMetrics(Pixels(), num_samples=1_000, metrics=["fid", kid.KID(subsets=50)]).names
        ['fid', 'kid']
    """

    def __init__(
        self,
        extractor: nn.Module | str | None = None,
        *,
        every_n_steps: int | None = None,
        num_samples: int = 10_000,
        batch_size: int = 250,
        metrics: Sequence[str | Score] = ("fid", "kid"),
        value_range: tuple[float, float] = (-1.0, 1.0),
        reference: Any = None,
        seed: int = 0,
        kid_subsets: int = kid.SUBSETS,
        kid_subset_size: int = kid.SUBSET_SIZE,
        precision_k: int = prdc.PRECISION_K,
        density_k: int = prdc.DENSITY_K,
        is_splits: int | None = None,
        cache: bool | str | Path = True,
        name_prefix: str = "",
    ) -> None:
        check_arguments(GenerativeMetrics, locals())
        check_positive(every_n_steps=every_n_steps, kid_subsets=kid_subsets, kid_subset_size=kid_subset_size)
        check_positive(precision_k=precision_k, density_k=density_k, is_splits=is_splits)
        self.scorer = Scorer(
            extractor,
            num_samples=num_samples,
            batch_size=batch_size,
            metrics=metrics,
            value_range=value_range,
            reference=reference,
            seed=seed,
            kid_subsets=kid_subsets,
            kid_subset_size=kid_subset_size,
            precision_k=precision_k,
            density_k=density_k,
            is_splits=is_splits,
            cache=cache,
        )
        self.every_n_steps, self.name_prefix = every_n_steps, name_prefix
        self.history: list[dict[str, Any]] = []
        self._path = Path()
        self._last_step = 0
        self._loaded_step: int | None = None
        self._loaded_game: str | None = None
        self._loaded_average = False

    @property
    def names(self) -> list[str]:
        """The names that are logged."""
        return [self.name_prefix + name for name in self.scorer.names]

    @property
    def state_key(self) -> str:
        """Tells several instances in one Trainer apart."""
        return self._generate_state_key(name_prefix=self.name_prefix)

    @property
    def _stem(self) -> str:
        return self.name_prefix.replace("/", "_")

    # ---- when -------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Refuse a module that cannot be sampled."""
        check_generates(pl_module, "GenerativeMetrics")
        self._loaded_step, self._loaded_game, self._loaded_average = None, None, False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Read from which step of which game the weights are: outside of a fit the Trainer does not know."""
        self._loaded_step, self._loaded_game = int(checkpoint["global_step"]), saved_description(checkpoint)
        self._loaded_average = "averaging_state" in checkpoint and trainer.state.fn != "fit"

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Pass the reals, try everything once, and take up the records of the run that is resumed."""
        start = self._last_step = trainer.global_step
        self.history = [record for record in self.history if record["step"] <= start]
        if self.history:  # callbacks that monitor a score must not find it missing until the next one is due
            known = {self.name_prefix + name: torch.tensor(v) for name, v in self.history[-1]["values"].items()}
            trainer.callback_metrics.update({name: value for name, value in known.items() if name in self.names})
        check_monitors(trainer, self.names, self.every_n_steps)
        self._prepare(trainer, pl_module)
        try_samples(self.scorer, pl_module, find_ema(trainer), strict=start == 0)
        records = read_records(self._path) if trainer.is_global_zero else []
        if records and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            write_json(self._path, [record for record in records if record["step"] <= start])

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Score if a game step was made and it is one of every n."""
        step = trainer.global_step
        if self.every_n_steps is not None and step != self._last_step and step % self.every_n_steps == 0:
            self._last_step = step
            self._score(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Pass the reals, under `trainer.validate`."""
        if trainer.state.fn == "validate":
            self._prepare(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Score under `trainer.validate`, and in a fit without steps of its own."""
        if not trainer.sanity_checking and (trainer.state.fn == "validate" or self.every_n_steps is None):
            self._score(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Pass the reals."""
        self._prepare(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Score under `trainer.test`."""
        self._score(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Free the reals' features and the device."""
        self.scorer.free()

    def state_dict(self) -> dict[str, Any]:
        """The history, in plain types; loads with `weights_only=True`."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the history over."""
        self.history = list(state_dict["history"])

    # ---- what -------------------------------------------------------------------------------------------------------

    def _prepare(self, trainer: Trainer, pl_module: Any) -> None:
        folder = trainer.log_dir or trainer.default_root_dir  # log_dir is agreed on by all ranks
        self._path = Path(folder) / f"{self._stem}generative_metrics.json"
        pass_reals(self.scorer, trainer, pl_module)

    def _score(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        fitting = trainer.state.fn == "fit"
        ema = find_ema(trainer)
        if ema is not None and fitting:
            ema.update_if_due(trainer, pl_module)  # it may stand after this callback in the Trainer's list
        pl_module.sync_buffers()
        step = trainer.global_step if fitting or self._loaded_step is None else self._loaded_step
        values, protocol, broken, picture = score_samples(
            self.scorer, trainer, pl_module, ema, averaged=self._averaged(trainer)
        )
        if broken:
            rank_zero_warn(
                f"{broken} values of the samples at step {step} are not finite: the generator has diverged, and the "
                "scores are nan."
            )
        stage = trainer.state.fn.value if trainer.state.fn is not None else "none"
        own = getattr(getattr(pl_module, "game", None), "description", None)
        game = own if fitting or self._loaded_step is None else self._loaded_game
        record = {"step": step, "stage": stage, "game": game, "values": values, "protocol": protocol}
        self.history.append(record)
        self._publish(trainer, pl_module, {name: values[name] for name in self.scorer.names})
        if trainer.is_global_zero:
            write_json(self._path, [*read_records(self._path), record])
            if picture is not None:
                to_pil_image(picture).save(self._path.with_name(f"{self._stem}nearest_{step:08d}.png"))
        rank_zero_info(describe(record))

    def _averaged(self, trainer: Trainer) -> dict[str, Any] | None:
        """Describe Lightning's weight averaging if the weights in the module are its averages, buffers and all.

        In a fit it puts them in for a validation epoch, and takes them out again as its turn among the callbacks comes.
        """
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        for position, callback in enumerate(callbacks):
            if isinstance(callback, WeightAveraging) and callback._average_model is not None:
                in_place = trainer.state.fn != "fit" or (trainer.validating and position > callbacks.index(self))
                return {"callback": f"{type(callback).__name__} of Lightning"} if in_place else None
        return {"callback": "WeightAveraging of Lightning"} if self._loaded_average else None

    def _publish(self, trainer: Trainer, pl_module: Any, values: dict[str, float]) -> None:
        values = {self.name_prefix + name: value for name, value in values.items()}
        if trainer.training:
            settings: dict[str, Any] = {"logger": False, "on_step": True, "on_epoch": False}
        else:
            # outside of a fit Lightning returns and prints what its own loggers get; every rank has the same value,
            # which a maximum over ranks keeps and a mean would round
            settings = {"logger": False if trainer.state.fn == "fit" else None, "on_epoch": True, "batch_size": 1}
            settings |= {"reduce_fx": "max", "sync_dist": trainer.world_size > 1}
        for name, value in values.items():
            # in a fit on the host, because Lightning reads what is in the bar after every step; the bar is narrow
            shown = torch.tensor(value) if trainer.training else value
            pl_module.log(name, shown, prog_bar=name == self.names[0], **settings)
        if trainer.state.fn == "fit":  # at its own step, whatever log_every_n_steps is
            for target in trainer.loggers:
                target.log_metrics(values, step=trainer.global_step)
                target.save()
