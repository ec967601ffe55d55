"""Scores of outputs beside their targets, in validation and test: L1, PSNR and SSIM of torchmetrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torchmetrics import Metric

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_range
from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import Callback, Trainer
from lightning_lead.calculus._float32 import plain_computation
from lightning_lead.calculus._rng import mix_seed, private_rng
from lightning_lead.gan._sampling import averaged_weights
from lightning_lead.gan.ema import find_ema

__all__ = ["PairedMetrics"]


def _psnr(low: float, high: float) -> Metric:
    from torchmetrics.image import PeakSignalNoiseRatio

    # per image, and then the mean: a sum over all pixels would let one bad image hide the others
    return PeakSignalNoiseRatio(data_range=(low, high), reduction="elementwise_mean", dim=(1, 2, 3))


def _ssim(low: float, high: float) -> Metric:
    from torchmetrics.image import StructuralSimilarityIndexMeasure

    return StructuralSimilarityIndexMeasure(data_range=(low, high))


def _l1(low: float, high: float) -> Metric:
    from torchmetrics import MeanAbsoluteError

    return MeanAbsoluteError()


_METRICS: dict[str, Callable[[float, float], Metric]] = {"l1": _l1, "psnr": _psnr, "ssim": _ssim}


class PairedMetrics(Callback):
    """Compares a module's outputs with their targets over the validation or test data, and logs the means.

    For modules with a method `translate(batch) -> (outputs, targets)`, as `AdversarialModule`. Outputs are of the
    averaged weights where the Trainer has a `GeneratorEMA`, in eval mode and in full precision. Ranks share the data,
    and several loaders count as one. Random numbers of `translate` are the same for a batch in every validation.

    Args:
        metrics: some of "l1" (mean absolute error), "psnr" (dB, the mean over images; inf if one is exact) and "ssim";
            the last two for images (n, C, H, W), SSIM for such of at least 11 × 11 pixels.
        value_range: of outputs and targets; what lies outside is cut off for PSNR and SSIM.
        name_prefix: before the logged names, as "reconstruction/".

    Raises:
        ConfigurationError: an unknown metric; at setup, a module without `translate`.

    Example:
        >>> PairedMetrics(["l1", "psnr"]).names
        ['l1', 'psnr']
    """

    def __init__(
        self,
        metrics: Sequence[str] = ("l1", "psnr", "ssim"),
        *,
        value_range: tuple[float, float] = (-1.0, 1.0),
        name_prefix: str = "",
    ) -> None:
        check_arguments(PairedMetrics, locals())
        unknown = [metrics] if isinstance(metrics, str) else [name for name in metrics if name not in _METRICS]
        if unknown or not metrics:
            raise ConfigurationError(
                f"Cannot compare outputs with targets by these metrics; pass a list of some of {', '.join(_METRICS)} "
                f"(got {metrics!r})"
            )
        self.metrics, self.name_prefix = tuple(metrics), name_prefix
        self.value_range = check_range(value_range)
        self._running: dict[str, Metric] = {}

    @property
    def names(self) -> list[str]:
        """The names that are logged."""
        return [self.name_prefix + name for name in self.metrics]

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Refuse a module that does not say what belongs together."""
        if not hasattr(pl_module, "translate"):
            raise ConfigurationError(
                f"Cannot run PairedMetrics because {type(pl_module).__name__} has no translate; subclass "
                "AdversarialModule, or give a LeadMixin a method translate(batch) -> (outputs, targets)"
            )

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin anew, with the latest average."""
        ema = find_ema(trainer)
        if ema is not None and trainer.state.fn == "fit":
            ema.update_if_due(trainer, pl_module)
        self._running = {name: _METRICS[name](*self.value_range).to(pl_module.device) for name in self.metrics}

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin anew."""
        self.on_validation_start(trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add a batch, under random numbers of its own."""
        ema = find_ema(trainer)
        averaged = None if ema is None else ema.average(pl_module)
        device, seed = pl_module.device, mix_seed(trainer.global_rank, dataloader_idx, batch_idx)
        with plain_computation(device), private_rng(seed, device), averaged_weights(pl_module, averaged):
            found, targets = pl_module.translate(batch)
        _check(found, targets)
        for metric in self._running.values():
            metric.update(found.float(), targets.float())

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add a batch."""
        self.on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log the means; torchmetrics shares its sums over ranks."""
        values = {name: metric.compute() for name, metric in self._running.items()}
        if not trainer.sanity_checking:
            for name, value in values.items():
                pl_module.log(self.name_prefix + name, value, on_epoch=True, batch_size=1)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log the means."""
        self.on_validation_epoch_end(trainer, pl_module)


def _check(outputs: Any, targets: Any) -> None:
    """Refuse what cannot be compared."""
    both = (outputs, targets)
    if not all(isinstance(each, Tensor) for each in both) or outputs.shape != targets.shape:
        got = [tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__ for each in both]
        raise ConfigurationError(
            "Cannot compare outputs with targets because they are no tensors of one shape; make translate(batch) "
            f"return (outputs, targets) (got {got[0]} and {got[1]})"
        )
