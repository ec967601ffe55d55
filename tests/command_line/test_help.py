"""Help and the choice of a subcommand, which cost no import of torch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from interpreters import run_after

from lightning_lead import ConfigurationError
from lightning_lead.cli import main

HEAVY = ["torch", "torchvision", "pytorch_lightning", "torchmetrics", "jsonargparse", "numpy"]
SCRIPT = f"""
import contextlib, io, sys
from lightning_lead import ConfigurationError
from lightning_lead.cli import main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:
    main(sys.argv[1:])
print(out.getvalue().split()[:2], [name for name in {HEAVY!r} if name in sys.modules])
"""


def loaded(*arguments: str, after: Sequence[str] = ()) -> str:
    """What help begins with, and the heavy modules of a process that has imported some, by default none."""
    done = run_after(after, SCRIPT, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("subcommand", [[], ["compare"], ["evaluate"], ["fetch"]])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_does_not_import_torch(subcommand, flag):
    assert loaded(*subcommand, flag) == "['usage:', 'lightning-lead'] []"


@pytest.mark.parametrize("arguments", [["compare"], ["evaluate"], ["evaluate", "--images", "a"], ["fetch"]])
def test_arguments_that_the_parser_refuses_do_not_either(arguments):
    assert loaded(*arguments) == "[] []"


@pytest.mark.slow
def test_the_probe_sees_heavy_modules_where_they_are_imported():
    """The control: help of fit explains every class that a recipe may name."""
    said = loaded("fit", "--help", after=["torch"])
    assert said.startswith("['usage:'")
    assert "'torch'" in said
    assert "'jsonargparse'" in said


@pytest.mark.parametrize("name", ["fit", "validate", "test", "predict", "compare", "evaluate", "fetch"])
def test_help_names_every_subcommand(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert f"\n    {name} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "near"), [("fti", "did you mean fit"), ("evalute", "did you mean evaluate"), ("x", "fetch")]
)
def test_a_word_that_is_no_subcommand_is_refused(word, near):
    with pytest.raises(ConfigurationError, match=f"Cannot run {word} .*{near}"):
        main([word])
