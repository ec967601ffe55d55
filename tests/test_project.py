"""The files around the package agree with setup.cfg and with each other."""

import configparser
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

import lightning_lead

ROOT = Path(__file__).parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
lowest = runpy.run_path(str(ROOT / ".ci" / "lowest.py"))["constraints"]
uv_arguments = runpy.run_path(str(ROOT / ".ci" / "install.py"))["uv_arguments"]


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_citation_is_of_this_version_and_names_the_paper() -> None:
    citation = read("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format requires
    assert citation["version"] == lightning_lead.__version__
    assert citation["title"] == SETUP["metadata"]["name"]
    assert citation["license"] == SETUP["metadata"]["license"]
    assert [author["name"] for author in citation["authors"]] == [SETUP["metadata"]["author"]]
    (paper,) = citation["references"]
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f'"{paper["title"]}", TMLR {paper["year"]}' in text
    names = [f"{author['given-names'][0]}. {author['family-names']}" for author in paper["authors"]]
    assert ", ".join(names) in text


def test_lowest_versions_are_those_of_every_requirement() -> None:
    pins = list(lowest((ROOT / "setup.cfg").read_text(encoding="utf-8")))
    lines = SETUP["options"]["install_requires"].splitlines()
    required = [line.partition(",!=")[0] for line in lines if line]  # without the releases that are excluded
    assert [pin.replace("==", ">=") for pin in pins[: len(required)]] == required
    assert sum(pin.startswith(("jsonargparse==", "CGDs==")) for pin in pins) == 2
    assert not any(pin.startswith("lightning-lead") for pin in pins)


@pytest.mark.parametrize(
    ("requirement", "pin"),
    [("torch>=2.6", "torch==2.6"), ("a-b[c,d] >= 4.39, <5", "a-b==4.39"), ("x==0.4.5.post1", "x==0.4.5.post1")],
)
def test_a_lowest_version_is_read_from_a_requirement(requirement: str, pin: str) -> None:
    assert list(lowest(_setup(requirement))) == [pin]


@pytest.mark.parametrize("requirement", ["torch", "torch<3", "torch!=2.6"])
def test_a_requirement_without_a_lowest_version_is_refused(requirement: str) -> None:
    with pytest.raises(SystemExit, match=f"lowest version of '{requirement}'"):
        list(lowest(_setup(requirement)))


BEST = ["--index-strategy", "unsafe-best-match"]


@pytest.mark.parametrize(
    ("configuration", "arguments"),
    [
        ("", []),
        ("global.index-url='https://one/simple'", ["--index-url", "https://one/simple"]),
        (
            "global.constraint='/etc/limits.txt'\n:env:.timeout='60'\ninstall.extra-index-url='https://a=1/b c'",
            ["--constraint", "/etc/limits.txt", "--extra-index-url", "https://a=1/b", "--extra-index-url", "c"],
        ),
        ("global.no-index='true'\nglobal.find-links='/wheels'", ["--no-index", "--find-links", "/wheels"]),
        ("global.no-index='false'\nglobal.pre='1'", ["--prerelease", "allow"]),
        (":env:.index-url='b'\nglobal.index-url='a'\ndownload.index-url='c'", ["--index-url", "b"]),
        (":env:.no-index=''\nglobal.find-links='a'\ninstall.find-links='b'", ["--find-links", "b"]),
    ],
)
def test_uv_installs_from_where_pip_would(configuration: str, arguments: list[str]) -> None:
    assert uv_arguments(configuration) == [*BEST, *arguments]


def test_what_uv_cannot_follow_is_left_to_pip() -> None:
    assert uv_arguments("global.index-url='https://one'\nglobal.proxy='https://two'") is None
    assert uv_arguments("install.no-binary=':all:'") is None


def _setup(requirement: str) -> str:
    return (
        f"[metadata]\nname = mine\n[options]\ninstall_requires =\n    # why\n    {requirement}\n"
        "[options.extras_require]\nall =\n    mine[more]\n"
    )


def test_every_python_that_setup_cfg_names_has_a_job() -> None:
    named = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
    jobs = read(".github/workflows/test.yml")["jobs"]
    assert jobs["newest"]["strategy"]["matrix"]["python"] == named
    assert SETUP["options"]["python_requires"] == f">={named[0]}"
    steps = jobs["lowest"]["steps"]
    assert [step["with"]["python-version"] for step in steps if "with" in step] == [named[0]]
    for step in (step for job in jobs.values() for step in job["steps"] if "run" in step):
        assert step["run"] == ".ci/run" or step["run"].removeprefix("make ") in _targets()


def test_ci_runs_a_target_that_exists() -> None:
    (target,) = re.findall(r"exec make (\S+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert target in _targets()


def _targets() -> list[str]:
    return re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", [path.name for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))])
def test_an_issue_template_is_a_form(name: str) -> None:
    form = read(f".github/ISSUE_TEMPLATE/{name}")
    assert form["name"]
    assert form["description"]
    fields = [field["id"] for field in form["body"]]
    assert len(fields) == len(set(fields)) > 0
    assert all(field["attributes"]["label"] for field in form["body"])
    assert any(field["validations"]["required"] for field in form["body"])


def test_hooks_are_tools_of_the_dev_environment() -> None:
    tools = {line.partition(">")[0] for line in SETUP["options.extras_require"]["dev"].splitlines()}
    (local,) = read(".pre-commit-config.yaml")["repos"]
    used = {hook["entry"].split()[0] for hook in local["hooks"]}
    assert used == {".venv/bin/ruff", ".venv/bin/mypy"}
    assert {Path(tool).name for tool in used} | {"pre-commit"} <= tools
