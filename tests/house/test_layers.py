"""Imports go downward only, by the floor plan in layers.txt."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import pytest

from tests.support.common import REPOSITORY

PLAN = REPOSITORY / "tests/house/layers.txt"
TOPS = ("model", "training", "dicom_node", "migrations")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The rooms in order, lowest first, and what each may import."""

    order: tuple[str, ...]
    ground: Mapping[str, str]
    """Rooms that need no permission, and what the importer's name must begin with."""
    allowed: Mapping[str, frozenset[str]]

    def permits(self, source: str, target: str) -> bool:
        """Tell whether one room may import another that lies below it."""
        return target in self.allowed[source] or source.startswith(self.ground.get(target, "-"))

    def room_of(self, module: str) -> str | None:
        """The longest name of the plan that the module begins with; None for one that stands nowhere."""
        while module not in self.allowed:
            module, dot, _ = module.rpartition(".")
            if not dot:
                return None
        return module


def read_plan(text: str) -> Plan:
    """Parse the file. Raises ValueError for a name that is not on an earlier line, which would be an upward arrow."""
    joined = text.replace("\n    ", " ")
    allowed: dict[str, frozenset[str]] = {}
    ground: dict[str, str] = {}
    for line in joined.splitlines():
        if not line or line.startswith("#"):
            continue
        head, _, names = line.partition(":")
        room, _, star = head.partition(" ")
        top = room.partition(".")[0]
        if star:
            ground[room] = f"{top}." if star == "*" else ""
        targets = {name if name.partition(".")[0] in TOPS else f"{top}.{name}" for name in names.split()}
        if unknown := targets - set(allowed):
            raise ValueError(f"{room} may not import {', '.join(sorted(unknown))}: not on an earlier line of the plan")
        allowed[room] = frozenset(targets)
    return Plan(order=tuple(allowed), ground=ground, allowed=allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """One import of one room by another."""

    place: str
    source: str
    target: str


def module_name(path: Path, root: Path) -> str:
    """The dotted name of a file below the root."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def is_text(node: ast.expr) -> TypeGuard[ast.Constant]:
    """Tell whether the expression is a string literal."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every import in the file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the whole name of what is imported"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from ((node.lineno, str(word.value)) for word in node.args[:1] if is_text(word))


def arrows(root: Path, plan: Plan) -> Iterator[Arrow]:
    """Every import from one room into another. Fails for a module that has no room."""
    for path in sorted(path for top in TOPS for path in (root / top).rglob("*.py")):
        name = module_name(path, root)
        source = plan.room_of(name)
        if source is None:
            assert name in TOPS, f"{path.relative_to(root)} has no room: give its package a line in {PLAN.name}"
            continue
        for line, target_name in imported(path):
            target = plan.room_of(target_name) if target_name.partition(".")[0] in TOPS else None
            if target is not None and target != source:
                yield Arrow(place=f"{path.relative_to(root)}:{line}", source=source, target=target)


def faults(root: Path, plan: Plan) -> list[str]:
    """The imports that break the plan, each with its remedy."""
    position = {room: number for number, room in enumerate(plan.order)}
    used: set[tuple[str, str]] = set()
    lines = []
    for arrow in arrows(root, plan):
        used.add((arrow.source, arrow.target))
        if position[arrow.target] > position[arrow.source]:
            lines.append(
                f"{arrow.place}: {arrow.source} lies below {arrow.target} and may not import it. Move what both"
                " need to a room below both, or pass it in as an argument"
            )
        elif not plan.permits(arrow.source, arrow.target):
            lines.append(
                f"{arrow.place}: {arrow.source} imports {arrow.target} for the first time. If that is meant, add it to"
                f" the line of {arrow.source} in tests/house/layers.txt"
            )
    lines += [
        f"tests/house/layers.txt: {source} no longer imports {target}: delete the permission"
        for source in plan.order
        for target in sorted(plan.allowed[source])
        if (source, target) not in used
    ]
    return lines


def test_imports_follow_the_floor_plan() -> None:
    plan = read_plan(PLAN.read_text("utf-8"))
    wrong = faults(REPOSITORY, plan)
    assert not wrong, "\n" + "\n".join(wrong)


def test_rooms_of_the_plan_exist() -> None:
    plan = read_plan(PLAN.read_text("utf-8"))
    places = [REPOSITORY / room.replace(".", "/") for room in plan.order]
    gone = [
        str(place)
        for place in places
        if not (place / "__init__.py").is_file() and not place.with_suffix(".py").is_file()
    ]
    assert not gone, "delete their lines in tests/house/layers.txt"


def test_packages_without_rooms_inside_are_of_a_size_that_a_reader_can_hold() -> None:
    crowded = {
        str(package.relative_to(REPOSITORY)): count
        for top in TOPS[:3]
        for package in [REPOSITORY / top, *(init.parent for init in (REPOSITORY / top).rglob("__init__.py"))]
        if (count := sum(1 for path in package.glob("*.py") if path.name != "__init__.py")) > 18
    }
    assert not crowded, "make a room of those that belong together"


@pytest.fixture
def small_house(tmp_path: Path) -> Path:
    """Two rooms and a ground floor that keep the plan below."""
    for name, text in {
        "model/__init__.py": "",
        "model/ground.py": "",
        "model/low/__init__.py": "",
        "model/low/pipe.py": "from model import ground",
        "model/high/__init__.py": "",
        "model/high/roof.py": "def build():\n    from model.low import pipe\n    from model.ground import x",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


SMALL_PLAN = read_plan("model.ground *:\nmodel.low:\nmodel.high:\n    low\n")


def test_a_house_that_keeps_its_plan_has_no_fault(small_house: Path) -> None:
    assert faults(small_house, SMALL_PLAN) == []


@pytest.mark.parametrize(
    "text",
    [
        "\nfrom model.high.roof import build",
        "\nfrom model import high",
        "\nimport model.high.roof",
        "def f():\n    from model.high.roof import build",
        "if TYPE_CHECKING:\n    from model.high.roof import build",
        "def f():\n    return importlib.import_module('model.high.roof')",
    ],
)
def test_an_upward_arrow_is_a_fault_however_it_is_written(small_house: Path, text: str) -> None:
    (small_house / "model/low/pipe.py").write_text(text)
    (fault,) = faults(small_house, SMALL_PLAN)
    assert fault.startswith("model/low/pipe.py:2: model.low lies below model.high")


def test_an_arrow_that_the_plan_does_not_list_is_a_fault(small_house: Path) -> None:
    (small_house / "model/ground.py").write_text("")
    plan = read_plan("model.ground *:\nmodel.low:\nmodel.high:\n")
    (fault,) = faults(small_house, plan)
    assert "model.high imports model.low for the first time" in fault


def test_a_permission_without_use_is_a_fault(small_house: Path) -> None:
    (small_house / "model/high/roof.py").write_text("")
    (fault,) = faults(small_house, SMALL_PLAN)
    assert "model.high no longer imports model.low" in fault


def test_a_ground_floor_is_open_to_its_own_top_package_alone_or_to_all() -> None:
    plan = read_plan("model.errors **:\nmodel.parts *:\nmodel.high:\ntraining.low:\n")
    assert plan.permits("model.high", "model.errors")
    assert plan.permits("training.low", "model.errors")
    assert plan.permits("model.high", "model.parts")
    assert not plan.permits("training.low", "model.parts")


def test_a_module_without_a_room_is_a_fault(small_house: Path) -> None:
    (small_house / "model/shed.py").write_text("")
    with pytest.raises(AssertionError, match=r"model/shed\.py has no room"):
        faults(small_house, SMALL_PLAN)


def test_a_plan_with_an_upward_arrow_is_refused() -> None:
    with pytest.raises(ValueError, match="not on an earlier line"):
        read_plan("model.low: high\nmodel.high:\n")
