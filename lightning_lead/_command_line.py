"""Errors of arguments and recipes in one line: jsonargparse prints the usage, and all types that it has tried."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator
from typing import NoReturn

from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import LightningArgumentParser

__all__ = ["ArgumentParser", "explain"]

_OF_JSONARGPARSE = re.compile(  # lines that tell of its attempts, and not of what was given
    r"(Does not validate|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|Not a valid subclass|"
    r"Subclass types expect|a class path|a dict without|a dict with|Expected a path but)"
)
_LENGTH = 400


class ArgumentParser(LightningArgumentParser):
    """Lightning's, with errors of this package in place of the usage and an exit."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what this package has found, if anything, and else say what jsonargparse has."""
        if not self.exit_on_error:  # an attempt, of which jsonargparse may make others
            super().error(message, ex)
        for cause in _chain(ex):
            if isinstance(cause, ConfigurationError):
                raise cause
        parser = getattr(ex, "subcommand_parser", None) or self
        options = [
            option for action in parser._actions for option in action.option_strings if not option.endswith(".help")
        ]
        raise ConfigurationError(explain(message, options)) from ex


def explain(message: str, options: Iterable[str]) -> str:
    """Return an error of jsonargparse in one line, with the nearest name where one is misspelt.

    Args:
        message: the error.
        options: that the parser has, "--trainer.max_steps".

    Example:
        >>> explain("unrecognized arguments: --trainer.max_stepz=3", ["--trainer.max_steps"])
        'Cannot take --trainer.max_stepz=3 because there is no such argument; did you mean --trainer.max_steps?'
    """
    if message.startswith("unrecognized arguments: "):
        word = message.partition(": ")[2].split()[0]
        near = _nearest_option(word.partition("=")[0], list(options)) if word.startswith("--") else ""
        return f"Cannot take {word} because there is no such argument; {near or 'see --help for those that there are'}"
    key, *_ = re.findall(r'Parser key "([^"]+)"', message) or [""]
    lines = [re.sub(r"Type .*? expects a function or a callable class: ", "", line) for line in message.splitlines()]
    lines = [re.sub(r'Parser key "([^"]+)":', r"\1:", line).strip().removeprefix("- ") for line in lines]
    said = [line for line in lines if line and line != f"{key}:" and not _OF_JSONARGPARSE.match(line)]
    reason = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", " ".join(said) or " ".join(lines))
    reason = re.sub(r"Problem with given class_path '([^']+)'", r"of \1", reason.removeprefix(f"{key}: "))
    reason = reason if len(reason) <= _LENGTH else f"{reason[:_LENGTH]} ..."
    what = f"use {key}" if key else "take the arguments"
    given = re.search(r"Given value: (.+)", message)
    nested = re.search(r"NestedArg\(key='([^']*)', val='([^']*)'\)", given[1]) if given else None
    got = f"{nested[1]}={nested[2]}" if nested else given[1][:_LENGTH] if given else ""
    end = f" (got {got})" if got else ""
    return f"Cannot {what} because {reason}; {_nearest_name(message) or 'correct it'}{end}"


def _nearest_option(name: str, options: list[str]) -> str:
    """As many of the leading parts of the name as there is an option for, or nearly."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        as_deep = [option for option in options if option.count(".") == count - 1]
        if near := difflib.get_close_matches(".".join(parts[:count]), as_deep, n=1, cutoff=0.8):
            return f"did you mean {'.'.join([near[0], *parts[count:]])}?"
    return ""


def _nearest_name(message: str) -> str:
    """Of an argument of a class, or of what a module has."""
    known: list[str] = []
    if option := re.search(r"given class_path '([^']+)':\s+(?:-\s+)?Option '([^']+)' is not accepted", message):
        found = pkgutil.resolve_name(option[1])
        name, known = option[2], [*inspect.signature(found).parameters]
    elif attribute := re.search(r"module '([^']+)' has no attribute '([^']+)'", message):
        name, known = attribute[2], dir(pkgutil.resolve_name(attribute[1]))
    near = difflib.get_close_matches(name, known, n=1) if known else []
    return f"did you mean {near[0]}?" if near else ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
