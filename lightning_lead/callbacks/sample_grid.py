"""SampleGrid: the same latents again and again, as one picture per visit, so that training can be watched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive, check_range
from lightning_lead._errors import ConfigurationError
from lightning_lead._images import image_grid, picture_bytes
from lightning_lead._lightning import Callback, TensorBoardLogger, Trainer
from lightning_lead.gan._sampling import check_generates, generate
from lightning_lead.gan.ema import find_ema

__all__ = ["SampleGrid"]


class SampleGrid(Callback):
    """Writes sample_00000500.png (500: the game step) and hands the picture to every logger that takes images.

    Samples come from the average where the Trainer has a `GeneratorEMA`, and always from the same latents. There is a
    picture every so many game steps (or at each validation), at the end of a fit, and under `trainer.validate`. Points
    (n, 2) are drawn as a scatter plot, which needs matplotlib. Values outside the range are clamped, values that are
    not finite are black: a diverged run still shows its pictures.

    Args:
        every_n_steps: game steps between pictures in a fit, ≥ 1, or None for each validation.
        num_samples: samples in a picture, ≥ 1.
        nrow: images in a row, ≥ 1.
        value_range: the values of images that become black and white.
        seed: of the latents.
        dirpath: folder of the pictures; default "samples" in the log folder.

    Raises:
        ConfigurationError: a setting out of its range; at fit start, samples that are neither images nor points.

    Example:
        >>> SampleGrid(every_n_steps=500, num_samples=16, nrow=4).num_samples
        16
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        num_samples: int = 64,
        nrow: int = 8,
        value_range: tuple[float, float] = (-1.0, 1.0),
        seed: int = 0,
        dirpath: str | Path | None = None,
    ) -> None:
        check_arguments(SampleGrid, locals())
        check_positive(every_n_steps=every_n_steps, num_samples=num_samples, nrow=nrow)
        self.every_n_steps, self.num_samples, self.nrow = every_n_steps, num_samples, nrow
        self.value_range, self.seed, self.dirpath = check_range(value_range), seed, dirpath
        self._folder: Path | None = None
        self._last_step: int | None = None

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Refuse a module that cannot be sampled."""
        check_generates(pl_module, "SampleGrid")
        folder = trainer.log_dir or trainer.default_root_dir  # log_dir is agreed on by all ranks
        self._folder = Path(self.dirpath) if self.dirpath is not None else Path(folder) / "samples"
        self._last_step = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """See whether the samples can be drawn at all."""
        (samples,) = generate(pl_module, 2, seed=self.seed, batch_size=2)
        _check_drawable(samples)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """A picture if a game step was made and it is one of every n."""
        if self.every_n_steps is not None and trainer.global_step and trainer.global_step % self.every_n_steps == 0:
            self._draw(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """A picture under `trainer.validate`, and in a fit without steps of its own."""
        if not trainer.sanity_checking and (trainer.state.fn == "validate" or self.every_n_steps is None):
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """The last picture."""
        self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: Any) -> None:
        step = trainer.global_step
        if step == self._last_step or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._last_step = step
        ema = find_ema(trainer)
        if ema is not None and trainer.state.fn == "fit":
            ema.update_if_due(trainer, pl_module)  # it may stand after this callback in the Trainer's list
        pl_module.sync_buffers()  # all ranks
        if not trainer.is_global_zero:
            return
        (samples,) = generate(pl_module, self.num_samples, seed=self.seed, batch_size=self.num_samples, ema=ema)
        if samples.dim() == 2:
            picture = _scatter_picture(samples)
        else:
            picture = image_grid(picture_bytes(samples, self.value_range), self.nrow)
        assert self._folder is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        image = to_pil_image(picture)
        image.save(self._folder / f"sample_{step:08d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("samples", picture, step)
            elif hasattr(logger, "log_image"):
                logger.log_image(key="samples", images=[image], step=step)


def _check_drawable(samples: Tensor) -> None:
    """Refuse samples that no picture can be made of, and points where there is no matplotlib."""
    if not (samples.dim() == 4 and samples.shape[1] in (1, 3)) and not (samples.dim() == 2 and samples.shape[1] == 2):
        raise ConfigurationError(
            "Cannot draw the samples because they are neither images (n, 1 or 3, H, W) nor points (n, 2); return one "
            f"of these, or leave out the callback (got {tuple(samples.shape)})"
        )
    if samples.dim() == 2:
        _figure_classes()


def _scatter_picture(points: Tensor) -> Tensor:
    """Return points (n, 2) as a scatter plot (3, 480, 480), uint8, without those that are not finite."""
    Figure, Canvas = _figure_classes()
    figure = Figure(figsize=(4.8, 4.8), dpi=100)
    canvas = Canvas(figure)  # without pyplot, which would keep the figure and pick a window system
    points = points.detach().cpu()
    points = points[points.isfinite().all(dim=1)]
    axes = figure.add_subplot()
    axes.scatter(points[:, 0].numpy(), points[:, 1].numpy(), s=6)
    axes.set_aspect("equal", adjustable="datalim")
    canvas.draw()
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    return pixels.view(480, 480, 4)[..., :3].permute(2, 0, 1).contiguous()


def _figure_classes() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError(
            "Cannot draw points because matplotlib is not installed; pip install 'lightning-lead[plots]'"
        ) from error
    return Figure, FigureCanvasAgg
