"""Generator weights of public SNGAN implementations, as an `SNGANGenerator`, so that they can be evaluated here.

    layout                     stem     block b = 0, 1, 2                                norm, head       upsampling
    pytorch-gan-collections    linear   blocks.b.residual.{0, 3, 4, 6}, .shortcut.1      output.{0, 2}    nearest
      the same, older                                                                    blocks.{3, 5}
    sngan.pytorch              l1       block{b+2}.{b1, c1, b2, c2, c_sc}                b5, c5           nearest
    mimicry                    l1       the same                                         b5, c5           bilinear
      the same, conditional             b1 and b2 are {bn, embed}

All three convolve behind the upsampling, on the shortcut too, where a 1×1 convolution may as well stand before it.
sngan.pytorch and mimicry name their weights alike and compute different functions of them, so which one it is must be
said, unless the checkpoint file says so. All were trained on normal latents and images in [−1, 1].

The layouts are those of w86763777/pytorch-gan-collections, GongXinyuu/sngan.pytorch and kwotsin/mimicry on GitHub.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead.networks.sngan import SNGANGenerator

__all__ = ["port_generator"]

# what a file of each project holds -> where the generator is; an averaged one first
_FILES = {
    "net_G": "pytorch-gan-collections",
    "avg_gen_state_dict": "sngan.pytorch",
    "gen_state_dict": "sngan.pytorch",
    "model_state_dict": "mimicry",
}
_UPSAMPLING = {"pytorch-gan-collections": "nearest", "sngan.pytorch": "nearest", "mimicry": "bilinear"}


def port_generator(state: Mapping[str, Any], *, layout: str | None = None) -> SNGANGenerator:
    """The same generator, in eval mode, on the CPU.

    Args:
        state: a generator's state dict, or the checkpoint of one of the projects that holds one: of sngan.pytorch the
            averaged generator is taken, of which its own scores are; for the other one pass its state dict.
        layout: "pytorch-gan-collections", "sngan.pytorch" or "mimicry"; default what the names say.

    Returns:
        A generator of 32×32 or 48×48 images, conditional if the weights are.

    Raises:
        ConfigurationError: the names are of no known layout, or of two; or the weights are of another architecture.

    Example:
        Weights under mimicry's names, of a generator of ours:

        >>> names = {f"blocks.{b}": f"block{b + 2}" for b in range(3)} | {"stem": "l1", "head": "c5", "conv": "c"}
        >>> names |= {"shortcut": "c_sc", "norm1": "b1", "norm2": "b2", "norm": "b5"}
        >>> theirs = {}
        >>> for name, tensor in SNGANGenerator(width=8).state_dict().items():
        ...     for our_part, their_part in names.items():
        ...         name = name.replace(our_part, their_part)
        ...     theirs[name] = tensor
        >>> sorted(theirs)[-2:]
        ['l1.bias', 'l1.weight']
        >>> port_generator(theirs, layout="mimicry").latent_dim
        128
    """
    tensors, told = _generator_of(state)
    layout = _layout(tensors, layout or told)
    names = _names(layout, tensors)
    ported: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if module.endswith(".embed") and module in names:  # scales, then shifts, of each class
            ported |= dict(
                zip([f"{names[module]}.scale.{leaf}", f"{names[module]}.shift.{leaf}"], tensor.chunk(2, 1), strict=True)
            )
        elif module in names:
            ported[f"{names[module]}.{leaf}"] = tensor
        else:
            raise ConfigurationError(
                f"Cannot port the weights because {layout} has no {name!r} in its generators; pass those of a residual "
                f"SNGAN generator alone (got shape {tuple(tensor.shape)})"
            )
    generator = _built(layout, {ours: theirs for theirs, ours in names.items()}, ported)
    for name, tensor in generator.state_dict().items():
        # a count of batches is not in every file, and nothing reads it
        if name not in ported and name.endswith("num_batches_tracked"):
            ported[name] = tensor
        if name not in ported or ported[name].shape != tensor.shape:
            found = tuple(ported[name].shape) if name in ported else "nothing"
            raise ConfigurationError(
                f"Cannot port the weights because they are of another architecture: {name} of SNGANGenerator has shape "
                f"{tuple(tensor.shape)}; pass a generator of the published sizes, or of another width (got {found})"
            )
    if strange := sorted(set(ported) - set(generator.state_dict())):
        raise ConfigurationError(
            f"Cannot port the weights because SNGANGenerator has no place for {', '.join(strange[:3])}; pass a "
            f"generator of the published architecture (got {len(strange)} tensors too many)"
        )
    generator.load_state_dict(ported)
    return generator.eval()


def _generator_of(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], str | None]:
    """The generator's tensors in a checkpoint, and whose file it is."""
    told = None
    for key, project in _FILES.items():
        if isinstance(state.get(key), Mapping):
            state, told = state[key], project
            break
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ConfigurationError(
            "Cannot port the weights because there are no tensors in them; pass a state dict, or a checkpoint with one "
            f"of {', '.join(_FILES)} (got {', '.join(map(str, list(state)[:8])) or 'nothing'})"
        )
    if all(name.startswith("module.") for name in tensors):  # saved out of DataParallel
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors, told


def _layout(tensors: Mapping[str, Tensor], layout: str | None) -> str:
    if layout is not None and layout not in _UPSAMPLING:
        raise ConfigurationError(
            f"Cannot port the layout {layout!r}; pass one of {', '.join(_UPSAMPLING)} (got {layout!r})"
        )
    collections, others = "blocks.0.residual.0.weight" in tensors, "l1.weight" in tensors
    if collections == others or (layout is not None and collections != (layout == "pytorch-gan-collections")):
        some = ", ".join(list(tensors)[:6])
        raise ConfigurationError(
            f"Cannot port the weights because their names are not those of {layout or 'any known layout'}; residual "
            f"SNGAN generators of {', '.join(_UPSAMPLING)} are known (got {len(tensors)} tensors: {some} …)"
        )
    if layout is None and others and any(".embed." in name for name in tensors):
        return "mimicry"
    if layout is None and others:
        raise ConfigurationError(
            "Cannot tell whose weights these are because sngan.pytorch and mimicry use the same names, the first with "
            "nearest and the second with bilinear upsampling; pass layout='sngan.pytorch' or layout='mimicry' (got "
            "None)"
        )
    return layout or "pytorch-gan-collections"


def _names(layout: str, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Their modules -> ours."""
    names: dict[str, str] = {}
    for block in range(3):
        ours = {part: f"blocks.{block}.{part}" for part in ("norm1", "conv1", "norm2", "conv2", "shortcut")}
        if layout == "pytorch-gan-collections":
            theirs = [f"blocks.{block}.residual.{index}" for index in (0, 3, 4, 6)] + [f"blocks.{block}.shortcut.1"]
        else:
            theirs = [f"block{block + 2}.{part}" for part in ("b1", "c1", "b2", "c2", "c_sc")]
        names |= dict(zip(theirs, ours.values(), strict=True))
        if layout == "mimicry":
            for norm, own in ((theirs[0], ours["norm1"]), (theirs[2], ours["norm2"])):
                names |= {f"{norm}.bn": f"{own}.norm", f"{norm}.embed": own}
    if layout != "pytorch-gan-collections":
        return names | {"l1": "stem", "b5": "norm", "c5": "head"}
    older = "blocks.5.weight" in tensors
    return (
        names
        | {"linear": "stem", "blocks.3" if older else "output.0": "norm"}
        | {"blocks.5" if older else "output.2": "head"}
    )


def _built(layout: str, theirs: Mapping[str, str], ported: Mapping[str, Tensor]) -> SNGANGenerator:
    """A generator of the weights' sizes."""
    convolutions = [f"blocks.{block}.conv1" for block in range(3)]
    for module, axes in ({"stem": 2, "head": 4} | dict.fromkeys(convolutions, 4)).items():
        weight = ported.get(f"{module}.weight")
        if weight is None or weight.dim() != axes:
            raise ConfigurationError(
                f"Cannot port the weights because '{theirs[module]}.weight', which the layout of {layout} has, is "
                f"missing or of another kind; pass a whole generator (got {None if weight is None else weight.shape})"
            )
    widths = [ported[f"{convolutions[0]}.weight"].shape[1], *(ported[f"{c}.weight"].shape[0] for c in convolutions)]
    rows, latent_dim = ported["stem.weight"].shape
    sizes = {32: (4, [widths[0]] * 4), 48: (6, [widths[0] // 2**halvings for halvings in range(4)])}
    for image_size, (side, wanted) in sizes.items():
        if rows == widths[0] * side**2 and widths == wanted:
            scales = ported.get("blocks.0.norm1.scale.weight")
            return SNGANGenerator(
                latent_dim=latent_dim,
                channels=ported["head.weight"].shape[0],
                width=widths[0],
                image_size=image_size,
                num_classes=None if scales is None else len(scales),
                upsampling=_UPSAMPLING[layout],
            )
    raise ConfigurationError(
        "Cannot port the weights because they are of another architecture; pass a generator that keeps its channels "
        f"from 4×4 on or halves them three times from 6×6 on (got channels {' → '.join(map(str, widths))}, and {rows} "
        "outputs of the first layer)"
    )
