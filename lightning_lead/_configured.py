"""How a network was built, in the words of a recipe, so that a file of its weights can say how to build it again.

{"class_path": "lightning_lead.networks.DCGANGenerator", "init_args": {"latent_dim": 32, "width": 24}}
"""

from __future__ import annotations

import inspect
import numbers
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ["ConfiguredModule", "configuration_of", "configurations", "set_configuration"]

_NAME = "_configuration"


class ConfiguredModule(nn.Module):
    """A module that remembers its arguments, defaults too; derive a network from it in place of `nn.Module`.

    A checkpoint then says how to build the network again, and `load_generator(path)` needs nothing else. Arguments are
    remembered if they are plain: numbers, texts, None, other modules of this kind, and lists, tuples and dictionaries
    of these.

    Example:
        >>> class Wide(ConfiguredModule):
        ...     def __init__(self, width: int, *, depth: int = 2) -> None:
        ...         super().__init__()
        ...         self.layer = nn.Linear(depth, width)
        >>> Wide(8).configuration["init_args"]
        {'width': 8, 'depth': 2}
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> ConfiguredModule:
        """Make the module, and note the arguments that its `__init__` is called with."""
        made = super().__new__(cls)
        try:
            given = inspect.signature(cls.__init__).bind(made, *args, **kwargs)
        except TypeError:  # `__init__` will say what is wrong; or it is a copy, whose note is copied
            return made
        set_configuration(made, _describe_call(cls, given))
        return made

    @property
    def configuration(self) -> dict[str, Any]:
        """The class and the arguments, as plain data: "class_path" and "init_args".

        Where an argument is not plain, there is no "init_args", and "not_plain" names it.
        """
        found = configuration_of(self)
        assert found is not None
        return found


def configuration_of(module: nn.Module) -> dict[str, Any] | None:
    """Return how a module was built; None if nothing has noted it."""
    module = getattr(module, "_orig_mod", module)  # inside of what torch.compile returns
    found: dict[str, Any] | None = vars(module).get(_NAME)
    return found


def set_configuration(module: nn.Module, configuration: Mapping[str, Any]) -> None:
    """Note how a module was built, as "class_path" and "init_args"."""
    vars(module)[_NAME] = dict(configuration)


def configurations(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Return name of a part -> how it was built, of the parts of a module for which that is known."""
    found = {name: configuration_of(child) for name, child in module.named_children()}
    return {name: configuration for name, configuration in found.items() if configuration is not None}


def _describe_call(cls: type, given: inspect.BoundArguments) -> dict[str, Any]:
    """Return class and arguments; defaults too, which a later version may change."""
    path, parameters = _public_path(cls), given.signature.parameters
    given.apply_defaults()
    arguments = dict(list(given.arguments.items())[1:])  # without the module itself
    plain: dict[str, Any] = {}
    for name, value in arguments.items():
        parameter = parameters[name]
        try:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                plain |= {key: _as_plain(each) for key, each in value.items()}
            elif parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
                if value not in ((), parameter.default):
                    raise TypeError(f"{name} has no keyword")
            else:
                plain[name] = _as_plain(value)
        except TypeError:
            if value is not parameter.default:
                return {"class_path": path, "not_plain": name}
    return {"class_path": path, "init_args": plain}


def _as_plain(value: Any) -> Any:
    """Return a value as a file of plain data holds it; raise a TypeError where it cannot."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, (list, tuple)):
        return [_as_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _as_plain(each) for key, each in value.items()}
    if isinstance(value, nn.Module) and (inner := configuration_of(value)) is not None and "init_args" in inner:
        return inner
    raise TypeError(type(value).__name__)


def _public_path(cls: type) -> str:
    """Return the shortest dotted name by which the class can be had from a package that is imported."""
    parts = cls.__module__.split(".")
    packages = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    imported = [name for name in packages if name in sys.modules]
    public = (name for name in imported if vars(sys.modules[name]).get(cls.__qualname__) is cls)
    return f"{next(public, cls.__module__)}.{cls.__qualname__}"
