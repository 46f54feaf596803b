"""Content items that many reports have alike: made once by highdicom, and copied for each place where they stand.

A small item is copied whole (`copied`). Of a measurement group, which has some fifty data sets in it, only the items
that are filled in are copied (`Form`); the others are the same objects in all reports, are encoded once, and must never
be written to.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, TypeVar, cast

from highdicom.sr import CodedConcept, ContentSequence, RelationshipTypeValues, TextContentItem
from pydicom import DataElement, Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag, Tag

from dicom_node.dicom.write import KEPT_ENCODING, keep_encoding

F = TypeVar("F", bound=Callable[..., Any])

_CONTENT = Tag("ContentSequence")
_KEPT = 1024
"""Items of a kind, of some 3 kB each."""


def copied(make: F) -> F:
    """Let a function of hashable arguments make each item once, and return a copy of its own at each call.

    A copy, because highdicom writes to items that it is given: one item in two reports would carry the first one's
    marks into the second. From its pickled bytes, which takes a fifth of the time of making it (`copy.deepcopy` takes
    four times as long as making it).
    """

    @lru_cache(maxsize=_KEPT)
    def pickle_item(*args: Any, **named: Any) -> bytes:
        return pickle.dumps(make(*args, **named), protocol=pickle.HIGHEST_PROTOCOL)

    @wraps(make)
    def copy(*args: Any, **named: Any) -> Any:
        return pickle.loads(pickle_item(*args, **named))

    return cast(F, copy)


class Form:
    """A measurement group with values that are to be filled in.

    Parameters
    ----------
    group
        One container with its items, as highdicom made it. Not to be changed any more.
    """

    def __init__(self, group: ContentSequence) -> None:
        self._template: Any = type(group)
        self._container: Dataset = group[0]
        self._items: list[Dataset] = list(self._container.ContentSequence)
        self._places: dict[str, list[int]] = {}
        for position, item in enumerate(self._items):
            keep_encoding(item)
            self._places.setdefault(item.ValueType, []).append(position)

    def places(self, value_type: str) -> Sequence[int]:
        """Where its items of a value type (PS3.3 section C.17.3.2.1) stand, in order."""
        return self._places.get(value_type, ())

    def copy(self, fill: Callable[[list[Dataset]], None]) -> ContentSequence:
        """Make a group of its own. fill: puts copies with values in the place of items; it changes none of them."""
        items = list(self._items)
        fill(items)
        group: ContentSequence = self._template.__new__(self._template)
        ContentSequence.__init__(group, [with_values(self._container, ContentSequence=items)])
        return group


def with_values(item: Dataset, **values: Any) -> Dataset:
    """Copy a data set with other values of elements that it has. What else is in it, it shares with the copy."""
    twin: Dataset = item.__class__.__new__(item.__class__)
    twin.__dict__.update(item.__dict__)
    twin.__dict__.pop(KEPT_ENCODING, None)
    # pydicom's own ways of copying a data set look at each element again, which takes ten times as long.
    elements = twin.__dict__["_dict"] = dict(item._dict)
    for keyword, value in values.items():
        tag = _tag(keyword)
        # Not by attribute: that would write into the element, which the two share.
        elements[tag] = DataElement(tag, item[tag].VR, value)
    return twin


@lru_cache(maxsize=64)
def _tag(keyword: str) -> BaseTag:
    return Tag(keyword)


def set_content(container: Dataset, items: Sequence[Dataset]) -> None:
    """Hang items under a container.

    By attribute highdicom would look through the items once more, which takes longer than to make them.
    """
    container[_CONTENT] = DataElement(_CONTENT, "SQ", DicomSequence(items))


def text_item(name: CodedConcept, value: str) -> Dataset:
    """A TEXT item that its container CONTAINS."""
    return with_values(_text_form(name.value, name.scheme_designator, name.meaning), TextValue=value)


@lru_cache(maxsize=256)
def _text_form(code: str, scheme: str, meaning: str) -> Dataset:
    name = CodedConcept(value=code, scheme_designator=scheme, meaning=meaning)
    item: Dataset = TextContentItem(name=name, value="-", relationship_type=RelationshipTypeValues.CONTAINS)
    return item
