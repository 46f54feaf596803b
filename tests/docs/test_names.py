"""Every file, module, test, configuration key and metric that a page names exists."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel

from dicom_node.config import Settings
from tests.docs.commands import PAGES
from tests.support.common import REPOSITORY
from training.data.datasets import parse_spec
from training.records.drops import DataError

CODE = re.compile(r"`([^`\n]+)`")
PLACE = re.compile(r"(?:dicom_node|model|training|tests|scripts|benchmarks|migrations|deploy|docs)/[\w./-]+")
MODULE = re.compile(r"(?:dicom_node|training|model\.\w+)(?:\.\w+)+")
TEST = re.compile(r"\btest_[a-z0-9_]+\b")
METRIC = re.compile(r"\bdicom_node_[a-z_]+\b")
KEY = re.compile(r"([a-z]+)\.([a-z_]+)")
INVENTED = re.compile(r"NAME|NNNN|xx\.|test_name\b|/name\.py")
"""Stands for what whoever reads the how-to page is going to write."""
OTHERS = {"model.save_pretrained", "model.safetensors", "chart.json"}
"""Read like a key or a module, and are a method of an object and names of files."""


@cache
def tree() -> frozenset[str]:
    """Every file of the repository, and every folder."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    files = listed.splitlines()
    return frozenset([*files, *(str(folder) for file in files for folder in Path(file).parents)])


@cache
def source(suffix: str, *folders: str) -> str:
    """All text of one kind below some folders."""
    paths = sorted(path for folder in folders for path in (REPOSITORY / folder).rglob(f"*{suffix}"))
    return "\n".join(path.read_text("utf-8") for path in paths)


def module_exists(dotted: str) -> bool:
    """Tell whether the module is there, and what is named in it."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        place, rest = "/".join(parts[:count]), parts[count:]
        file = f"{place}.py" if f"{place}.py" in tree() else f"{place}/__init__.py"
        if file in tree():
            return not rest or re.search(rf"\b{rest[0]}\b", (REPOSITORY / file).read_text("utf-8")) is not None
        if place in tree():
            return not rest
    return False


def keys_of(section: str) -> frozenset[str]:
    """The keys of a section of the configuration; empty where there is no such section."""
    field = Settings.model_fields.get(section)
    kind = field.annotation if field is not None else None
    return frozenset(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else frozenset()


def faults_of(text: str) -> Iterator[str]:
    """Names in a page's text that do not exist."""
    for match in CODE.finditer(text):
        code = match[1].strip()
        if INVENTED.search(code) or code in OTHERS or "*" in code:
            continue
        place = code.partition("::")[0].split(" ")[0].rstrip("/")
        if PLACE.fullmatch(place) and place not in tree():
            yield f"no file {place}"
        if MODULE.fullmatch(code) and not module_exists(code):
            yield f"no module {code}"
        for name in TEST.findall(code):
            if f"def {name}" not in source(".py", "tests") and f"/{name}.py" not in " ".join(tree()):
                yield f"no test {name}"
        for name in METRIC.findall(code):
            if name.removesuffix("_total") not in source(".py", "dicom_node/web"):
                yield f"no metric {name}"
        key = KEY.fullmatch(code)
        if key is not None and keys_of(key[1]) and key[2] not in keys_of(key[1]) and not module_exists(code):
            yield f"no configuration key {code}"


def test_every_name_of_every_page_is_there() -> None:
    faults = [f"{page.name}: {fault}" for page in PAGES for fault in faults_of(page.read_text("utf-8"))]
    assert not faults, "\n".join(faults)


def test_every_data_set_that_a_command_takes_is_on_the_page_of_data_sets() -> None:
    page = (REPOSITORY / "docs" / "training-data.md").read_text("utf-8")
    with pytest.raises(DataError) as refused:
        parse_spec("nothing")
    kinds = re.findall(r"([a-z-]+):[A-Z]", str(refused.value))
    assert len(kinds) > 10
    assert not [kind for kind in kinds if f"| `{kind}:" not in page]


def test_a_name_that_is_not_there_is_found() -> None:
    wrong = ["dicom_node/nowhere.py", "training.metrics.nothing", "tests/docs/test_names.py::test_nothing_at_all"]
    wrong += ["dicom_node_nothing_total", "priors.max_nothing"]
    right = ["tests/docs/test_names.py", "training.metrics.pairs.score_pairs", "priors.max_priors"]
    assert [len(list(faults_of(f"`{name}`"))) for name in wrong] == [1] * len(wrong)
    assert not [fault for name in right for fault in faults_of(f"`{name}`")]
