"""ImageWriter: what `trainer.predict` returns, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_range
from lightning_lead._errors import ConfigurationError, StorageError
from lightning_lead._files import check_writable
from lightning_lead._images import image_grid, picture_bytes
from lightning_lead._lightning import BasePredictionWriter, Trainer

__all__ = ["ImageWriter"]


class ImageWriter(BasePredictionWriter):
    """Writes image_00000007.png (7: the index of the sample in the predict data) for each predicted image.

    Every rank writes its own samples, whose indices no other rank has.

    Args:
        dirpath: folder of the pictures; with several predict loaders, a folder "dataloader_1" … in it for each but the
            first.
        value_range: the values that become black and white; others are clamped.
        grid: also write grid_00000000.png for each batch, named by its first index.

    Raises:
        ConfigurationError: a setting out of its range; a prediction that is no batch of images.
        StorageError: the folder cannot be written to.

    Example:
        >>> ImageWriter("pictures", value_range=(0, 1)).value_range
        (0.0, 1.0)
    """

    def __init__(self, dirpath: str | Path, value_range: tuple[float, float] = (-1.0, 1.0), grid: bool = True) -> None:
        check_arguments(ImageWriter, locals())
        super().__init__(write_interval="batch")
        self.dirpath, self.value_range, self.grid = Path(dirpath), check_range(value_range), grid

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Refuse a folder that cannot be written to, before anything is predicted."""
        if stage == "predict":
            check_writable(self.dirpath / "image.png")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """One file per image, and one for the batch."""
        if not isinstance(prediction, Tensor) or prediction.dim() != 4 or prediction.shape[1] not in (1, 3):
            got = tuple(prediction.shape) if isinstance(prediction, Tensor) else type(prediction).__name__
            raise ConfigurationError(
                "Cannot write the prediction because it is no batch of images; let predict_step return "
                f"(n, 1 or 3, H, W) (got {got})"
            )
        images = picture_bytes(prediction.detach().float(), self.value_range)
        if batch_indices and len(batch_indices) == len(images):
            names = [f"{index:08d}" for index in batch_indices]
        else:  # data without indices, such as an iterable dataset's
            names = [f"rank{trainer.global_rank}_batch{batch_idx:06d}_{i:04d}" for i in range(len(images))]
        folder = self.dirpath / f"dataloader_{dataloader_idx}" if dataloader_idx else self.dirpath
        pictures = {f"image_{name}.png": image for name, image in zip(names, images, strict=True)}
        if self.grid:
            pictures[f"grid_{names[0]}.png"] = image_grid(images, nrow=8)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, image in pictures.items():
                to_pil_image(image).save(folder / name)
        except OSError as error:
            raise StorageError(
                f"Cannot write pictures to {folder}; make room, or pass another dirpath (got {error})"
            ) from error
