"""A small file with the generator alone, for samples and scores: a few MiB beside the full checkpoint.

SNGAN-ResNet32: 17.1 MB in float32, 8.6 MB in float16; the full checkpoint with an average has 102 MB
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch

from lightning_lead._configured import configurations
from lightning_lead._errors import ConfigurationError
from lightning_lead._files import replacing
from lightning_lead._lightning import lightning_version
from lightning_lead._sharding import refuse_sharded
from lightning_lead.checkpoints._game import KEY
from lightning_lead.gan.ema import PREFIX, GeneratorEMA

__all__ = ["check_dtype", "save_generator"]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def check_dtype(name: str | None) -> torch.dtype | None:
    """Return the dtype of this name, None for that of the weights; raise a ConfigurationError for another name."""
    if name is not None and name not in DTYPES:
        raise ConfigurationError(f"Cannot store weights as {name!r}; choose one of {', '.join(DTYPES)}, or None")
    return None if name is None else DTYPES[name]


def save_generator(
    path: str | os.PathLike[str],
    pl_module: Any,
    *,
    ema: GeneratorEMA | None = None,
    dtype: str | None = None,
    global_step: int = 0,
) -> Path:
    """Write the generator's weights and buffers, and nothing else; the file is there whole or not at all.

    `load_generator(path)` makes a network of it. It loads with `weights_only=True`, and into a module by
    `load_from_checkpoint(path, generator=G, discriminator=D, strict=False)`; parameters are then cast back.

    Args:
        path: the file.
        pl_module: the module with the generator.
        ema: write its averaged weights instead of the live ones.
        dtype: of the parameters: "float32", "float16", "bfloat16", or None for their own. float16 keeps 11 bits.
            Buffers stay as they are: a running variance may be beyond 65504, or so small that float16 makes it 0.
        global_step: game steps that the weights have behind them.

    Returns:
        The path.

    Raises:
        ConfigurationError: an unknown dtype, or an average that is empty.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> from lightning_lead import LeadGANModule
        >>> gan = LeadGANModule(nn.Linear(3, 2), nn.Linear(2, 1), latent_dim=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = save_generator(Path(folder) / "generator.pt", gan, dtype="float16")
        ...     sorted(torch.load(file, weights_only=True)["state_dict"])
        ['generator.bias', 'generator.weight']
    """
    to = check_dtype(dtype)
    refuse_sharded(pl_module, "write the generator's file")
    means = ema.average(pl_module) if ema is not None else {}
    first_names = {id(p): name for name, p in pl_module.named_parameters()}  # a shared weight has others
    known_as = {name: first_names[id(p)] for name, p in pl_module.named_parameters(remove_duplicate=False)}
    weights = {
        name: means.get(known_as.get(name, name), tensor).detach().cpu()
        for name, tensor in pl_module.state_dict().items()
        if name.startswith(PREFIX)
    }
    if to is not None:
        narrowed = {name for name, _ in pl_module.named_parameters(remove_duplicate=False)}
        weights = {n: t.to(to) if n in narrowed and t.is_floating_point() else t for n, t in weights.items()}
    described = {"description": pl_module.game.description} if hasattr(pl_module, "game") else {}
    content = {
        "pytorch-lightning_version": lightning_version,
        "state_dict": weights,
        "global_step": global_step,
        "averaged": ema is not None,
        KEY: {"networks": configurations(pl_module)} | described,
    }
    path, buffer = Path(path), io.BytesIO()
    torch.save(content, buffer)
    with replacing(path) as draft:
        draft.write_bytes(buffer.getbuffer())
    return path
