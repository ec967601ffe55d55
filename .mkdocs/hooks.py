"""Pages of the site that have their place elsewhere: README, CHANGELOG, CONTRIBUTING, and a reference by packages."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from mkdocs.structure.files import File, Files

import lightning_lead

ROOT = Path(__file__).parents[1]
MOVED = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def _on_the_site(text: str, place: str) -> str:
    """A page's links as they are on the site; one to a file that the site does not have becomes its text.

    Args:
        text: of the page.
        place: the page's folder in the repository, "" or "docs/".
    """

    def link(match: re.Match[str]) -> str:
        words, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        if not (ROOT / place / path).exists():
            return match[0]  # no link, but a call of what stands in a list
        file = (ROOT / place / path).resolve().relative_to(ROOT).as_posix()
        to = MOVED.get(file, file.removeprefix("docs/") if file.startswith("docs/") else None)
        return words if to is None else f"[{words}]({to}{'#' + anchor if anchor else ''})"

    return LINK.sub(link, text)


def _reference(package: str) -> str:
    """The public names of a package, each by its docstring, or by a link where it belongs to another page."""
    module = import_module(f"lightning_lead.{package}") if package else lightning_lead
    lines = [f"# {module.__name__}", "", (module.__doc__ or "").strip(), ""]
    for name in module.__all__:
        value = getattr(module, name)
        if name.startswith("__") or isinstance(value, ModuleType):
            continue
        home = str(getattr(value, "__module__", ""))
        home = home if home.startswith("lightning_lead") else module.__name__  # an alias of a type has another home
        elsewhere = not package and home.split(".")[1] in lightning_lead._SUBPACKAGES
        lines += [f"* [`{name}`][{home}.{name}]" if elsewhere else f"::: {home}.{name}", ""]
    return "\n".join(lines)


def on_config(config: Any) -> Any:
    """The reference in the contents."""
    packages = ["", *lightning_lead._SUBPACKAGES]
    config.nav.append({"Reference": [f"reference/{package or 'lightning_lead'}.md" for package in packages]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for source, target in MOVED.items():
        text = _on_the_site((ROOT / source).read_text(encoding="utf-8"), "")
        files.append(File.generated(config, target, content=text))
    for package in ["", *lightning_lead._SUBPACKAGES]:
        files.append(File.generated(config, f"reference/{package or 'lightning_lead'}.md", content=_reference(package)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of the pages of docs/."""
    return markdown if page.file.generated_by else _on_the_site(markdown, "docs/")
