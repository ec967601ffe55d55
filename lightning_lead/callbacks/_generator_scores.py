"""Scores of a generator: its samples go to a `metrics.Scorer`, and the protocol says which weights they are from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from lightning_lead._errors import ConfigurationError
from lightning_lead._hashing import tensors_hash
from lightning_lead._images import to_uint8
from lightning_lead._lightning import Trainer
from lightning_lead.calculus._float32 import plain_computation
from lightning_lead.gan._sampling import generate, sampled_networks
from lightning_lead.gan.ema import GeneratorEMA
from lightning_lead.metrics._protocol import describe_dtype
from lightning_lead.metrics.reference import ReferenceImages
from lightning_lead.metrics.scorer import Measurement, Scorer

__all__ = ["find_reference", "pass_reals", "score_samples", "try_samples"]


def find_reference(given: Any, trainer: Trainer, pl_module: Any) -> ReferenceImages:
    """Return the reference that the user gave, else the data module's, else the training data.

    `unpack_batch` of the module finds the images in a batch. Raises a ConfigurationError if there is no reference.
    """
    unpack = getattr(pl_module, "unpack_batch", None)
    if given is not None:
        read = given if hasattr(given, "__getitem__") else getattr(given, "dataset", given)
        what = "tensor" if isinstance(given, Tensor) else type(read).__name__
        return ReferenceImages(given, name=f"{what} given as reference", unpack=unpack)
    datamodule: Any = getattr(trainer, "datamodule", None)
    if hasattr(datamodule, "reference_images"):
        split = f", {datamodule.reference_split()} split" if hasattr(datamodule, "reference_split") else ""
        name = f"{type(datamodule).__name__}.reference_images(){split}"
        return ReferenceImages(datamodule.reference_images(), name=name, unpack=unpack)
    loader = trainer.train_dataloader
    if loader is None and datamodule is not None:
        loader = datamodule.train_dataloader()
    if loader is None:
        raise ConfigurationError(
            "Cannot find real images because there is no data module with reference_images() and no training data "
            "here; pass GenerativeMetrics(reference=...), a tensor (N, C, H, W) or a dataset"
        )
    dataset = getattr(loader, "dataset", loader)
    return ReferenceImages(loader, name=f"training data ({type(dataset).__name__})", unpack=unpack)


def pass_reals(scorer: Scorer, trainer: Trainer, pl_module: Any) -> None:
    """Find the reals and pass them; all ranks must call it."""
    scorer.take_reference(find_reference(scorer.reference, trainer, pl_module), pl_module.device)


def try_samples(scorer: Scorer, pl_module: Any, ema: GeneratorEMA | None, *, strict: bool) -> None:
    """Look at one chunk of samples before training.

    Raises a ConfigurationError for another shape than the reals' or, if strict, for values outside the range.
    """
    count = min(scorer.batch_size, 64)
    (samples,) = generate(pl_module, count, seed=scorer.seed, batch_size=count, ema=ema)
    if tuple(samples.shape[1:]) != scorer.image_shape:
        raise ConfigurationError(
            "Cannot compare samples with real images because their shapes differ; make the generator return "
            f"(n, {', '.join(map(str, scorer.image_shape))}) (got {tuple(samples.shape)})"
        )
    if strict:
        to_uint8(samples, scorer.value_range, strict=True)


def score_samples(
    scorer: Scorer,
    trainer: Trainer,
    pl_module: Any,
    ema: GeneratorEMA | None,
    *,
    averaged: dict[str, Any] | None = None,
) -> Measurement:
    """Draw samples, from the average if there is one, and score them; all ranks must call it, and get the same.

    `averaged` describes the average that the module's own weights are, if they are one.
    """
    share = {"rank": trainer.global_rank, "world_size": trainer.world_size}
    chunks = generate(pl_module, scorer.num_samples, seed=scorer.seed, batch_size=scorer.batch_size, ema=ema, **share)
    networks = {name: pl_module.get_submodule(name) for name in sampled_networks(pl_module, ema)}
    parameters = {f"{n}.{name}": p for n, network in networks.items() for name, p in network.named_parameters()}
    buffers = {f"{n}.{name}": b for n, network in networks.items() for name, b in network.named_buffers()}
    with plain_computation(pl_module.device):
        sampled: dict[str, Tensor] = parameters | buffers if ema is None else ema.average(pl_module)
        protocol = {
            "generator_mode": "eval",
            "batch_norm": _describe_norms(networks.values()),
            "ema": averaged if ema is None else ema.description,
            "weights_dtype": describe_dtype(sampled[name] for name in parameters),
            "trainer_precision": str(trainer.precision),
            "generator_sha256": tensors_hash(sampled),
        }
    return scorer.measure_images(chunks, protocol)


def _describe_norms(networks: Iterable[nn.Module]) -> str | None:
    """Return what batch normalisation in eval mode normalises by; None if there is none."""
    layers = [layer for network in networks for layer in network.modules()]
    norms = [layer for layer in layers if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return None
    return "running statistics" if all(norm.running_mean is not None for norm in norms) else "statistics of the batch"
