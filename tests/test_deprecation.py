"""Old names lead to the new ones, and warn in the line of the user's that has them."""

import importlib
import sys
import types

import pytest

from lightning_lead import ConfigurationError
from lightning_lead._deprecation import renamed_argument
from lightning_lead._lazy import renamed_attribute
from lightning_lead.rules import LEAD
from lightning_lead.rules._coupling import renamed_alpha

VERSIONS = {"since": "0.2", "until": "0.3"}


def read(old_value: object, new_value: object) -> object:
    return renamed_argument("old", "new", old_value, new_value, default=1, **VERSIONS)


def test_the_new_name_warns_of_nothing() -> None:
    assert read(None, 5) == 5  # a warning would be an error here


@pytest.mark.parametrize("value", [0, 5, ""])
def test_a_value_under_the_old_name_is_the_one_taken_falsy_or_not(value: object) -> None:
    with pytest.warns(FutureWarning) as caught:
        assert read(value, 1) == value
    assert [str(warning.message) for warning in caught] == ["old is called new since 0.2; old goes away in 0.3"]
    assert caught[0].filename == __file__


def test_the_reason_is_given() -> None:
    with pytest.warns(FutureWarning, match="since 0.2, because it was wrong; old goes"):
        renamed_argument("old", "new", 5, 1, default=1, why="it was wrong", **VERSIONS)


def test_both_names_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"old and new together .* pass new alone \(got old=3 and new=5\)"):
        read(3, 5)


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_the_warning_is_in_the_first_line_outside_of_the_package(depth: int) -> None:
    inside = {"__name__": "lightning_lead.somewhere", "renamed_alpha": renamed_alpha}
    exec("def call(n):\n    return call(n - 1) if n else renamed_alpha(0.5, 'auto')", inside)
    with pytest.warns(FutureWarning) as caught:
        inside["call"](depth)
    assert caught[0].filename == __file__
    outside = {"__name__": "lightning_lead_of_mine", "call": inside["call"]}  # the control: it only begins alike
    exec(compile("def mine():\n    return call(2)", "mine.py", "exec"), outside)
    with pytest.warns(FutureWarning) as caught:
        outside["mine"]()
    assert (caught[0].filename, caught[0].lineno) == ("mine.py", 2)


@pytest.fixture(params=["lightning_lead.legacy", "lightning_lead.legacy_package"])
def legacy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module with an old name of LEAD; as a package, Python itself asks for what is imported from it."""
    module = types.ModuleType(request.param)
    if request.param.endswith("package"):
        module.__path__ = []
    names = {"Old": "lightning_lead.rules:LEAD", "Lost": "lightning_lead.rules:Lost"}
    module.__getattr__ = renamed_attribute(request.param, names, **VERSIONS)
    monkeypatch.setitem(sys.modules, request.param, module)
    return module


def test_an_old_attribute_is_the_new_one(legacy: types.ModuleType) -> None:
    with pytest.warns(FutureWarning) as caught:
        assert legacy.Old is LEAD
    text = (
        f"{legacy.__name__}.Old is called lightning_lead.rules.LEAD since 0.2; {legacy.__name__}.Old goes away in 0.3"
    )
    assert [str(warning.message) for warning in caught] == [text]
    assert caught[0].filename == __file__


def test_an_old_attribute_is_imported_by_from(legacy: types.ModuleType) -> None:
    names: dict[str, object] = {"__name__": "mine"}
    with pytest.warns(FutureWarning) as caught:
        exec(compile(f"\n\nfrom {legacy.__name__} import Old", "mine.py", "exec"), names)
    assert names["Old"] is LEAD
    assert {(warning.filename, warning.lineno) for warning in caught} == {("mine.py", 3)}


def test_other_attributes_are_missing_as_in_any_module(legacy: types.ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"module '{legacy.__name__}' has no attribute 'older'"):
        legacy.older  # noqa: B018
    assert not hasattr(legacy, "__wrapped__")


def test_an_alias_of_nothing_is_an_attribute_error(legacy: types.ModuleType) -> None:
    with pytest.raises(AttributeError, match=r"'lightning_lead.rules' has no attribute 'Lost'"):
        legacy.Lost  # noqa: B018


def test_new_names_are_imported_when_an_old_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = importlib.import_module
    monkeypatch.setattr("lightning_lead._lazy.import_module", lambda name: asked.append(name) or real(name))
    old = renamed_attribute("mine", {"Old": "lightning_lead.rules:LEAD"}, **VERSIONS)
    assert asked == []
    with pytest.warns(FutureWarning):
        old("Old")
    assert asked == ["lightning_lead.rules"]
