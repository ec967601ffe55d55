"""The table of settings in docs/refusals.md is what becomes of each cell when it is tried."""

from __future__ import annotations

import itertools

import pytest
import settings_matrix as matrix
from pairs import some

PRECISIONS = ("`bf16-mixed`", "`16-mixed`", "`bf16-true`", "`16-true`")
WRITTEN = matrix.PAGE.read_text(encoding="utf-8").split(matrix.BEGIN)[1].split(matrix.END)[0]


def written() -> dict[str, list[str]]:
    """Label -> the outcomes on the page."""
    rows = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in WRITTEN.splitlines()[2:]]
    return {label: cells for labels, *cells in rows for label in labels.split("; ")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("label", matrix.GAMES)
def test_each_cell_of_the_table_is_tried(label: str) -> None:
    assert matrix.rows([label]) == {label: written()[label]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("label", matrix.GAMES)
def test_two_settings_together_are_refused_where_one_of_them_is(label: str) -> None:
    cells = dict(zip(matrix.SETTINGS, written()[label], strict=True))
    for precision, kind in some(itertools.product(PRECISIONS, ("compiled", "checkpointed", "reentrant")), 2):
        expected = "yes" if cells[precision] == cells[kind] == "yes" else "no"
        assert matrix.outcome(matrix.GAMES[label], precision, kind) == expected, (precision, kind)


def test_the_table_has_every_rule_and_every_setting() -> None:
    assert written().keys() == matrix.GAMES.keys()
    assert [cell.strip() for cell in WRITTEN.splitlines()[0].strip("| ").split("|")] == list(matrix.SETTINGS)
