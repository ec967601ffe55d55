"""What the layers of Inception are called: by torchvision, and by the TorchScript network of the wheel.

Mixed_5b.branch5x5_1.conv.weight        net.layers.mixed.tower.conv.weight
Mixed_5b.branch5x5_1.bn.bias            net.layers.mixed.tower.conv.beta     (and mean, var; its scale is one)
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["PARTS", "CLASSES", "torchvision_names"]

# torchvision's branches, in the order in which the TorchScript network names its towers
_A = {"branch1x1": "conv", "branch5x5_1": "tower.conv", "branch5x5_2": "tower.conv_1"}
_A |= {"branch3x3dbl_1": "tower_1.conv", "branch3x3dbl_2": "tower_1.conv_1", "branch3x3dbl_3": "tower_1.conv_2"}
_A |= {"branch_pool": "tower_2.conv"}
_B = {"branch3x3": "conv", "branch3x3dbl_1": "tower.conv"}
_B |= {"branch3x3dbl_2": "tower.conv_1", "branch3x3dbl_3": "tower.conv_2"}
_C = {"branch1x1": "conv", "branch7x7_1": "tower.conv", "branch7x7_2": "tower.conv_1", "branch7x7_3": "tower.conv_2"}
_C |= {f"branch7x7dbl_{k + 1}": f"tower_1.conv{f'_{k}' if k else ''}" for k in range(5)}
_C |= {"branch_pool": "tower_2.conv"}
_D = {"branch3x3_1": "tower.conv", "branch3x3_2": "tower.conv_1"}
_D |= {f"branch7x7x3_{k + 1}": f"tower_1.conv{f'_{k}' if k else ''}" for k in range(4)}
_E = {"branch1x1": "conv", "branch3x3_1": "tower_conv"}
_E |= {"branch3x3_2a": "tower_mixed_conv", "branch3x3_2b": "tower_mixed_conv_1"}
_E |= {"branch3x3dbl_1": "tower_1_conv", "branch3x3dbl_2": "tower_1_conv_1"}
_E |= {"branch3x3dbl_3a": "tower_1_mixed_conv", "branch3x3dbl_3b": "tower_1_mixed_conv_1"}
_E |= {"branch_pool": "tower_2_conv"}
_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
_MIXED = {"5b": _A, "5c": _A, "5d": _A, "6a": _B, "6b": _C, "6c": _C, "6d": _C, "6e": _C, "7a": _D, "7b": _E, "7c": _E}
# torchvision's name -> the TorchScript's
PARTS = {"conv.weight": "weight", "bn.bias": "beta", "bn.running_mean": "mean", "bn.running_var": "var"}
CLASSES = 1008  # of the classifier, where there is one


def torchvision_names() -> Iterator[tuple[str, str]]:
    """The 94 convolutions: the name in torchvision's `Inception3`, and in the TorchScript network.

    Example:
        >>> names = dict(torchvision_names())
        >>> len(names), names["Mixed_5b.branch5x5_1"]
        (94, 'net.layers.mixed.tower.conv')
    """
    for k, name in enumerate(_STEM):
        yield name, f"net.layers.conv{f'_{k}' if k else ''}"
    for k, (block, branches) in enumerate(_MIXED.items()):
        for branch, tower in branches.items():
            yield f"Mixed_{block}.{branch}", f"net.layers.mixed{f'_{k}' if k else ''}.{tower}"
