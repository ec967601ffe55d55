"""Names that moved to `lightning_lead.features`: still found, with a warning that says where they are now."""

from __future__ import annotations

import pytest

from lightning_lead import features, networks


@pytest.mark.parametrize("name", sorted({*features.__all__} - {"StackedDigitsClassifier"}))  # which is newer
def test_a_moved_name_is_found_with_a_warning(name: str) -> None:
    with pytest.warns(FutureWarning, match=rf"networks\.{name} is called lightning_lead\.features\.{name} since 0\.2"):
        assert getattr(networks, name) is getattr(features, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'lightning_lead.networks' has no attribute 'Inception2016'"):
        networks.Inception2016  # noqa: B018
