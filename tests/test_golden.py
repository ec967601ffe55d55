"""The record that two checkouts are compared by sees one bit, a failure, and a resume that goes astray."""

import torch
from golden import fingerprint, report


def test_one_bit_changes_the_fingerprint() -> None:
    weights = {"a": torch.tensor([1.0, 2.0]), "b": [torch.tensor(3), 4.0]}
    before = fingerprint(weights)
    assert fingerprint({"b": [torch.tensor(3), 4.0], "a": torch.tensor([1.0, 2.0])}) == before
    weights["a"][1] = torch.nextafter(weights["a"][1], torch.tensor(3.0))
    assert fingerprint(weights) != before


def test_differences_failures_and_bad_resumes_are_reported(capsys) -> None:
    same = {"game: x": "weights 1", "resumed: x": "weights 1"}
    assert report(same, same) == 0
    assert report(same, same | {"game: x": "weights 2"}) == 1
    assert "before weights 1" in capsys.readouterr().out
    assert report(same, {"game: x": "weights 1"}) == 1
    astray = {"game: x": "weights 1", "resumed: x": "weights 2"}
    assert report(astray, astray) == 1
    broken = {"scores: x": "failed: no score"}
    assert report(broken, broken) == 1
    assert report({}, {}) == 1
