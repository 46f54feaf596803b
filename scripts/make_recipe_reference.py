"""Write docs/reference/recipe.md from the settings classes of a training recipe.

    python scripts/make_recipe_reference.py [--check]

`--check` writes nothing and ends with status 1 where the file is not current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dicom_node.config.reference import limits_of, values_in_words
from dicom_node.config.template import section_class, summary, toml_value
from training.recipe.data import SetSection
from training.recipe.recipe import Recipe

TARGET = Path(__file__).resolve().parents[1] / "docs" / "reference" / "recipe.md"
HEAD = """# Training recipes

A recipe is one TOML file with everything that a training run is: `dicom-node train run RECIPE --out OUT`. The recipes
of this repository lie in `training/recipes/`; a key that is left out has the default below. An unknown or wrong key is
refused by name. How a run is made from one: [training.md](../training.md).

This page is written by `scripts/make_recipe_reference.py` from the settings classes in `training/recipe/`.
"""


def reference() -> str:
    """The whole page: one table for each table of a recipe."""
    parts = [HEAD]
    for name, field in Recipe.model_fields.items():
        section = section_class(field.annotation)
        assert section is not None, f"{name} is not a table"
        required = " (required)" if field.is_required() else ""
        parts.append(_table(f"[{name}]", required, section))
        if name == "data":
            parts.append(_table("[[data.sets]]", "", SetSection))
    return "\n".join(parts)


def _table(heading: str, required: str, section: type[BaseModel]) -> str:
    lines = [f"## `{heading}`{required}", "", summary(section), ""]
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    lines += [_row(key, field) for key, field in section.model_fields.items()]
    return "\n".join(lines) + "\n"


def _row(key: str, field: FieldInfo) -> str:
    value = ", ".join([_value(field.annotation), *limits_of(field)])
    meaning = (field.description or "").replace("|", "\\|")
    return f"| `{key}` | {value} | {_default(field)} | {meaning} |"


def _value(annotation: Any) -> str:
    """The kind of value in words; a table's keys and values where it has any."""
    for each in _alternatives(annotation):
        if get_origin(each) is dict:
            key, value = get_args(each)
            return f"table: {values_in_words(key)} = {' or '.join(map(values_in_words, _alternatives(value)))}"
    if section_class(annotation) is not None:
        return "list of tables, or of names"
    return values_in_words(annotation)


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The members of a union, or the one type; None left out."""
    if type(annotation).__name__ in ("UnionType", "_UnionGenericAlias"):
        yield from (each for each in get_args(annotation) if each is not type(None))
    else:
        yield annotation


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "" if value in (None, "", (), {}) else f"`{toml_value(value)}`"


def main() -> int:
    """Write or check the page; returns the exit status."""
    text = reference()
    if "--check" not in sys.argv:
        TARGET.write_text(text, "utf-8")
    elif not TARGET.exists() or TARGET.read_text("utf-8") != text:
        sys.stderr.write(f"{TARGET.name} is not current: python scripts/make_recipe_reference.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
