"""Every public name is exported where a user looks for it, documented, and shown at work."""

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import lightning_lead
from lightning_lead._checks import is_class

ROOT = Path(lightning_lead.__file__).parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
MODULES = sorted(path for path in ROOT.rglob("*.py"))


def exported() -> list[tuple[str, str]]:
    """(module, name) of everything in an `__all__`."""
    modules = ["lightning_lead", *(f"lightning_lead.{package}" for package in PACKAGES)]
    return [(module, name) for module in modules for name in import_module(module).__all__]


def is_code(module: str, name: str) -> bool:
    """True of classes and functions; packages, the version and type aliases have no Example to run."""
    try:
        value = getattr(import_module(module), name)
    except (AttributeError, ImportError):
        return False  # test_exported_name_exists fails on it
    return is_class(value) or inspect.isfunction(value)


CODE = sorted(item for item in exported() if is_code(*item))


def public_members(cls: type) -> dict[str, object]:
    """Methods and properties that a class defines itself."""
    return {
        name: member
        for name, member in vars(cls).items()
        if not name.startswith("_")
        and (inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod))
    }


@pytest.mark.parametrize(("module", "name"), exported(), ids=map(".".join, exported()))
def test_exported_name_exists(module: str, name: str) -> None:
    assert hasattr(import_module(module), name)


@pytest.mark.parametrize(("module", "name"), CODE, ids=map(".".join, CODE))
def test_exported_name_is_documented_with_an_example(module: str, name: str) -> None:
    value = getattr(import_module(module), name)
    text = value.__doc__ or ""  # the class's own text; inspect.getdoc would fall back on a parent's
    assert len(text.splitlines()[0].strip()) > 10, "the docstring begins with a line that says what this is"
    if is_class(value) and issubclass(value, BaseException):
        return  # an Example of an error is the test that raises it
    assert "Example" in text
    assert ">>>" in text


@pytest.mark.parametrize(("module", "name"), CODE, ids=map(".".join, CODE))
def test_public_methods_are_documented(module: str, name: str) -> None:
    value = getattr(import_module(module), name)
    if not is_class(value):
        return
    # A hook of torch or Lightning (training_step, state_dict ...) is documented there, and getdoc finds that text.
    silent = [member for member in public_members(value) if not inspect.getdoc(getattr(value, member))]
    assert silent == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_head_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def listed(tree: ast.Module) -> set[str]:
    """Names in the module's own `__all__`, read without importing it."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_definitions_are_private_or_listed_and_documented(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [
        node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    ]
    assert [node.name for node in public if node.name not in listed(tree)] == [], "add to __all__, or start with _"
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_lazy_names_are_those_that_type_checkers_see() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {
        (f"lightning_lead.{alias.name}" if node.module == "lightning_lead" else node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazy = {(module, name) for name, module in lightning_lead._EXPORTS.items()}
    lazy |= {(f"lightning_lead.{name}", name) for name in lightning_lead._SUBPACKAGES}
    assert seen == lazy
    assert set(lightning_lead._EXPORTS) | set(lightning_lead._SUBPACKAGES) <= set(lightning_lead.__all__)


def test_every_package_is_reachable_from_the_top() -> None:
    assert sorted(lightning_lead._SUBPACKAGES) == PACKAGES


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'LeadStrategy'"):
        lightning_lead.LeadStrategy  # noqa: B018
    assert set(lightning_lead.__all__) <= set(dir(lightning_lead))
