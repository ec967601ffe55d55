"""Game optimizers by name, as on the command line: "ExtraAdam", "LEAD(coupling=3, cross='difference')".

A name is that of a rule in `lightning_lead.rules`, of a preset below, or the dotted path of a rule of your own.
Settings are the rule's, and `play`, `skip_limit` and `offload` those of `GameStrategy`.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, MutableMapping
from importlib import import_module
from typing import Any

from lightning_lead import rules
from lightning_lead._checks import is_class
from lightning_lead._errors import ConfigurationError
from lightning_lead.engine.strategy import GameStrategy
from lightning_lead.rules import AbstractGameRule, GradientPlay, PolyakMomentum

__all__ = ["as_game", "find_game", "game_names", "name_game", "name_games"]


def _gradient_descent(**settings: Any) -> GameStrategy:
    return GameStrategy(GradientPlay(), **settings)


def _simultaneous(**settings: Any) -> GameStrategy:
    return GameStrategy(GradientPlay(), play="simultaneous", **settings)


def _alternating(**settings: Any) -> GameStrategy:
    return GameStrategy(GradientPlay(), play="alternating", **settings)


def _negative_momentum(beta: float = -0.5, **settings: Any) -> GameStrategy:
    return GameStrategy(PolyakMomentum(beta), **settings)


_PRESETS: dict[str, Callable[..., GameStrategy]] = {
    "GradientDescent": _gradient_descent,
    "SimultaneousGDA": _simultaneous,
    "AlternatingGDA": _alternating,
    "NegativeMomentum": _negative_momentum,
}


def _rules() -> dict[str, type[AbstractGameRule]]:
    exported = {name: getattr(rules, name) for name in rules.__all__}
    return {
        name: rule
        for name, rule in exported.items()
        if is_class(rule) and issubclass(rule, AbstractGameRule) and not inspect.isabstract(rule)
    }


def game_names() -> list[str]:
    """Return the names that `find_game` knows.

    Example:
        >>> {"LEAD", "ExtraAdam", "AlternatingGDA"} <= set(game_names())
        True
    """
    return sorted(_PRESETS | _rules())


def find_game(text: str) -> GameStrategy:
    """Return the strategy that a name stands for.

    Args:
        text: NAME or NAME(setting=value, ...); values are Python literals.

    Raises:
        ConfigurationError: an unknown name, or settings that it does not take.

    Example:
        >>> find_game("LEAD(coupling=3, play='simultaneous')")
        GameStrategy(LEAD, play='simultaneous')
        >>> find_game("ExtraAdam")
        GameStrategy(ExtraAdam, play='simultaneous')
    """
    name, settings = _parsed(text)
    strategic = {key: settings.pop(key) for key in ("play", "skip_limit", "offload") if key in settings}
    try:
        if name in _PRESETS:
            return _PRESETS[name](**settings, **strategic)
        return GameStrategy(_rule(name)(**settings), **strategic)
    except TypeError as error:
        raise ConfigurationError(
            f"Cannot build the game {text!r} because {error}; see help for its settings"
        ) from error


def as_game(game: GameStrategy | AbstractGameRule | str) -> GameStrategy:
    """Return a strategy for what a user passes as `game=`.

    Args:
        game: a strategy, a rule, or a name.

    Raises:
        ConfigurationError: none of these.

    Example:
        >>> as_game("LevelK(level=3)")
        GameStrategy(LevelK, play='simultaneous')
    """
    if isinstance(game, GameStrategy):
        return game
    if isinstance(game, AbstractGameRule):
        return GameStrategy(game)
    if isinstance(game, str):
        return find_game(game)
    raise ConfigurationError(
        f"Cannot use game={game!r}; pass a GameStrategy such as LEADStrategy(), a rule, or a name such as "
        f"'ExtraAdam' (got {type(game).__name__})"
    )


def name_game(game: GameStrategy | AbstractGameRule) -> str:
    """Return the text for which `find_game` builds the same game, without its state.

    Example:
        >>> name_game(find_game("ExtraAdam"))
        "ExtraAdam(play='simultaneous', skip_limit=10)"
    """
    game = as_game(game)
    rule = type(game.rule)
    name = rule.__name__
    if _rules().get(name) is not rule:  # one of the user's own
        name = f"{rule.__module__}.{rule.__qualname__}"
    own = repr(game.rule).removeprefix(game.rule.name)[1:-1]  # a wrapper's name names the rule inside as well
    offload = ", offload=True" if game.offload else ""
    return f"{name}({own + ', ' if own else ''}play={game.play!r}, skip_limit={game.skip_limit!r}{offload})"


def name_games(settings: MutableMapping[str, Any]) -> None:
    """Replace games among settings by their texts, in place: `weights_only=True` loads text, and no objects."""
    for name, value in settings.items():
        if isinstance(value, (GameStrategy, AbstractGameRule)):
            settings[name] = name_game(value)


def _rule(name: str) -> Callable[..., AbstractGameRule]:
    known = _rules()
    if name in known:
        return known[name]
    module, _, attribute = name.rpartition(".")
    found = None
    if module:
        try:
            found = getattr(import_module(module), attribute, None)
        except ImportError as error:
            raise ConfigurationError(f"Cannot find the game {name!r} because {error}; check the path") from error
    if not (is_class(found) and issubclass(found, AbstractGameRule)):
        raise ConfigurationError(
            f"Cannot find the game {name!r}; choose one of {', '.join(game_names())}, or give the dotted path of a rule"
        )
    rule: type[AbstractGameRule] = found
    return rule


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    try:
        return _read(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError) as error:
        raise ConfigurationError(
            f"Cannot read the game {text!r} because {error}; write NAME or NAME(setting=value, ...)"
        ) from error


def _read(node: ast.expr) -> tuple[str, dict[str, Any]]:
    if isinstance(node, ast.Call):
        if node.args or any(keyword.arg is None for keyword in node.keywords):
            raise ValueError("settings are given by name")
        return ast.unparse(node.func), {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, (ast.Name, ast.Attribute)):
        return ast.unparse(node), {}
    raise ValueError("it is not a name")


def _value(node: ast.expr) -> Any:
    """Return a literal, or a rule inside of a rule."""
    if isinstance(node, (ast.Call, ast.Name, ast.Attribute)):
        name, settings = _read(node)
        return _rule(name)(**settings)
    return ast.literal_eval(node)
