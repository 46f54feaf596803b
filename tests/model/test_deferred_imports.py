"""Imports that wait: nothing is imported before its first use, and everything is there at it."""

from __future__ import annotations

import importlib
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model.deferred_imports import DeferredName, deferred_imports

HEAVY = """
LOADED = []
VALUES = {"a": 1}
class Shape:
    sides = 4
def area(side):
    return side * side
def mark(function):
    function.is_marked = True
    return function
"""
USER = """
from heavylib.parts.shapes import VALUES, Shape, area, mark
import heavylib.parts.shapes as shapes
from heavylib import parts

@mark
def drawn(): ...

def is_shape(value: int | Shape) -> bool:
    return isinstance(value, Shape)
"""


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A library with a heavy part, and a module that imports it at its top."""
    parts = tmp_path / "heavylib/parts"
    parts.mkdir(parents=True)
    (tmp_path / "heavylib/__init__.py").write_text("")
    (parts / "__init__.py").write_text("")
    (parts / "shapes.py").write_text(textwrap.dedent(HEAVY))
    (tmp_path / "lightlib.py").write_text(textwrap.dedent(USER))
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("heavylib", "lightlib")]:
        del sys.modules[name]


def user(*, marks: tuple[str, ...] = ()) -> Any:
    """The module that imports the heavy part, imported while that is deferred."""
    with deferred_imports(("heavylib.parts",), marks=marks):
        return importlib.import_module("lightlib")


def is_imported() -> bool:
    return "heavylib.parts.shapes" in sys.modules


MARK = ("heavylib.parts.shapes.mark",)


def test_nothing_is_imported_before_its_first_use(libraries: None) -> None:
    module = user(marks=MARK)
    assert not is_imported()
    assert not module.is_shape("a word")  # a test for a class that nobody has made anything of imports nothing
    assert not is_imported()
    assert "heavylib" in sys.modules, "the package above it is no part of what waits"


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (lambda module: module.area(3), 9),
        (lambda module: module.VALUES["a"], 1),
        (lambda module: "a" in module.VALUES, True),
        (lambda module: list(module.VALUES), ["a"]),
        (lambda module: len(module.VALUES), 1),
        (lambda module: bool(module.VALUES), True),
        (lambda module: module.Shape.sides, 4),
        (lambda module: module.shapes.Shape.sides, 4),
        (lambda module: module.parts.shapes.Shape.sides, 4),
        (lambda module: vars(types.new_class("Square", (module.Shape,)).__base__)["sides"], 4),
        (lambda module: module.is_shape(module.Shape()), True),
        (lambda module: issubclass(type(module.Shape()), module.Shape), True),
    ],
)
def test_a_deferred_name_has_the_effect_of_the_real_one(libraries: None, use: Any, expected: object) -> None:
    assert use(user(marks=MARK)) == expected
    assert is_imported()


def test_a_mark_leaves_the_function_as_it_is_and_other_decorators_import(libraries: None) -> None:
    assert not hasattr(user(marks=MARK).drawn, "is_marked")
    assert not is_imported()
    del sys.modules["lightlib"]
    assert user().drawn.is_marked
    assert is_imported()


def test_imports_after_the_block_are_the_real_ones_and_agree_with_what_was_handed_out(libraries: None) -> None:
    module = user(marks=MARK)
    shapes = importlib.import_module("heavylib.parts.shapes")
    assert shapes.Shape.__module__ == "heavylib.parts.shapes"
    assert module.is_shape(shapes.Shape())
    assert sys.modules["heavylib"].parts is sys.modules["heavylib.parts"]


def test_a_package_whose_part_waits_gives_it_when_it_is_read(libraries: None) -> None:
    user(marks=MARK)
    waiting = vars(sys.modules["heavylib"])["parts"]
    assert isinstance(waiting, DeferredName)
    assert waiting.__name__ == "heavylib.parts"
    assert importlib.import_module("heavylib.parts.shapes").area(2) == 4
    assert sys.modules["heavylib"].parts.shapes.area(2) == 4


def test_a_module_that_is_imported_already_stays(libraries: None) -> None:
    shapes = importlib.import_module("heavylib.parts.shapes")
    module = user(marks=MARK)
    assert module.Shape is shapes.Shape
    assert module.drawn.is_marked


def test_a_name_that_does_not_exist_is_an_error_at_its_first_use(libraries: None) -> None:
    with deferred_imports(("heavylib.parts",)):
        shapes = importlib.import_module("heavylib.parts.shapes")
        missing = shapes.circle
    with pytest.raises(AttributeError, match="circle"):
        missing()
    with deferred_imports(("heavylib.nothing",)):
        absent = importlib.import_module("heavylib.nothing").at_all
    with pytest.raises(ModuleNotFoundError, match=r"heavylib\.nothing"):
        absent()


def test_an_error_in_the_block_ends_the_deferral(libraries: None) -> None:
    with pytest.raises(RuntimeError), deferred_imports(("heavylib.parts",)):
        raise RuntimeError
    assert importlib.import_module("heavylib.parts.shapes").area(2) == 4
