"""What the README and the docs print is true: their Python runs, their commands and links exist.

A block that cannot run here (a cluster, a GPU, ten minutes) is fenced ```python no-run and is only compiled. The blocks
of one page run one after another in one process, so a page may define a model first and use it below.
"""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import processes
import pytest
import yaml

ROOT = Path(__file__).parent.parent
PAGES = {  # by name, for readable test ids
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md")
    for path in sorted(ROOT.glob(pattern))
}

FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^ *```[ ]*$", re.MULTILINE | re.DOTALL)
MAKE = re.compile(r"(?:^|[`$;&(])\s*make ([a-z][a-z-]*)", re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"lightning-lead ([a-z][a-z-]*)")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


class Block(NamedTuple):
    info: str
    source: str
    line: int


def blocks(text: str) -> list[Block]:
    """Fenced blocks of a page, with the line on which their first line of code stands."""
    return [
        Block(
            info=match["info"].strip(),
            source=re.sub(f"^{match['indent']}", "", match["body"], flags=re.MULTILINE),
            line=text.count("\n", 0, match.start("body")) + 1,
        )
        for match in FENCE.finditer(text)
    ]


def python_blocks(text: str) -> list[Block]:
    return [block for block in blocks(text) if block.info.split() and block.info.split()[0] in ("python", "py")]


def run(text: str, *, page: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a page's Python in one fresh process, in a folder of its own; traceback lines are those of the page."""
    runnable = [block for block in python_blocks(text) if "no-run" not in block.info.split()]
    padded = ["\n" * (block.line - 1) + block.source for block in runnable]
    script = folder / "page.py"
    script.write_text(
        f"blocks = {padded!r}\n"
        "if __name__ == '__main__':\n"
        "    names = {'__name__': '__main__'}\n"
        "    for block in blocks:\n"
        f"        exec(compile(block, {page!r}, 'exec'), names)\n",
        encoding="utf-8",
    )
    return processes.run([script.name], cwd=folder)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("name", PAGES)
def test_python_on_the_page_compiles(name: str) -> None:
    for block in python_blocks(PAGES[name]):
        compile("\n" * (block.line - 1) + block.source, name, "exec")


@pytest.mark.parametrize("name", [name for name, text in PAGES.items() if python_blocks(text)])
def test_python_on_the_page_runs(name: str, tmp_path: Path) -> None:
    result = run(PAGES[name], page=name, folder=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize("name", PAGES)
def test_make_targets_on_the_page_exist(name: str) -> None:
    assert set(MAKE.findall(PAGES[name])) <= targets()


def test_commands_on_the_pages_exist() -> None:
    code = [part for text in PAGES.values() for part in (*(b.source for b in blocks(text)), *INLINE.findall(text))]
    named = {command for part in code for command in COMMAND.findall(part)}
    if not named:
        return
    shown = processes.run(["-c", "from lightning_lead.cli import main; main()", "--help"])
    assert shown.returncode == 0, shown.stderr[-3000:]
    assert [command for command in sorted(named) if not re.search(rf"\b{command}\b", shown.stdout)] == []


@pytest.mark.parametrize("name", PAGES)
def test_links_inside_the_repository_lead_somewhere(name: str) -> None:
    assert [link for link in LINK.findall(PAGES[name]) if not ((ROOT / name).parent / link).exists()] == []


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    described = set(re.findall(r"^([a-z][a-z-]*):[^#\n]*## \S", makefile, re.MULTILINE))
    assert described == targets() >= {"help", "demo", "test", "check", "wheel-test"}


def test_a_wrong_page_is_caught(tmp_path: Path) -> None:
    """The negative control: these tests would see a page that lies."""
    page = "# x\n\n```python\na = 1\n```\n\ntext\n\n```python\nassert a == 2\n```\n"
    page += "\nRun `make tset`, `lightning-lead fti`, [y](no/such.md#part).\n"
    result = run(page, page="page.md", folder=tmp_path)
    assert result.returncode == 1
    assert 'File "page.md", line 10' in result.stderr
    true, marked = page.replace("== 2", "== 1"), page.replace("python\nassert", "python no-run\nassert")
    assert [run(text, page="page.md", folder=tmp_path).returncode for text in (true, marked)] == [0, 0]
    assert MAKE.findall(page) == ["tset"]
    assert COMMAND.findall(page) == ["fti"]
    assert LINK.findall(page) == ["no/such.md"]


def test_the_site_s_contents_have_every_page() -> None:
    """What `make docs` refuses as well, but nobody has to install the site's builder to hear of it."""
    contents = yaml.safe_load((ROOT / ".mkdocs" / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = re.findall(r"[\w.]+\.md", str(contents))
    elsewhere = {"index.md", "changelog.md", "contributing.md"}  # README and its neighbours, see .mkdocs/hooks.py
    assert sorted(set(listed) - elsewhere) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    assert len(listed) == len(set(listed))


def test_the_readme_counts_the_lines_of_each_example():
    examples = [python_blocks(PAGES[page])[0].source for page in ("README.md", "docs/robust.md", "docs/domains.md")]
    counts = [sum(bool(line.strip()) for line in source.splitlines()) for source in examples]
    assert f"| lines of the example | {counts[0]}, above | {counts[1]} | {counts[2]} |" in PAGES["README.md"]
