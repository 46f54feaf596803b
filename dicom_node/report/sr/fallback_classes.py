"""The same SR in the SOP classes that an archive may accept, richest first (PS3.3 A.35.1 to A.35.13).

88.34 Comprehensive 3D → 88.33 Comprehensive → 88.22 Enhanced → 88.11 Basic Text. What a lower class cannot
hold is said in words that it can: a number becomes its text, a region becomes the image that it lies on.
"""

from __future__ import annotations

from copy import deepcopy

from pydicom import Dataset
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
)

from dicom_node.dicom.uids import derive_uid

STEPS = (Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage, BasicTextSRStorage)
"""Richest first."""

_BASIC_TYPES = frozenset(
    {"TEXT", "CODE", "DATETIME", "DATE", "TIME", "UIDREF", "PNAME", "COMPOSITE", "IMAGE", "WAVEFORM", "CONTAINER"}
)
"""PS3.3 table A.35.1-2."""
_ITEM_ELEMENTS = ("RelationshipType", "ConceptNameCodeSequence")


def variants(dataset: Dataset) -> list[Dataset]:
    """The document itself and its conversions to every poorer SR class, richest first; a non-SR only itself.

    Each conversion is an object of its own: its SOP Instance UID is derived from the document's and the class, so that
    a second delivery gives the same. A predecessor is named as the same step made it, since one archive takes one step.
    """
    own = str(dataset.SOPClassUID)
    if own not in STEPS:
        return [dataset]
    return [dataset, *(convert_document(dataset, str(step)) for step in STEPS[STEPS.index(dataset.SOPClassUID) + 1 :])]


def variant_uid(sop_instance_uid: str, sop_class_uid: str) -> str:
    """The SOP Instance UID of a document in another class."""
    return derive_uid("dicom-node", "variant", sop_instance_uid, sop_class_uid)


def convert_document(dataset: Dataset, sop_class_uid: str) -> Dataset:
    """A deep copy in the given, poorer SR class."""
    copy = _plain(dataset)
    if getattr(dataset, "file_meta", None) is not None:
        copy.file_meta = deepcopy(dataset.file_meta)
    copy.SOPClassUID = UID(sop_class_uid)
    own = variant_uid(str(dataset.SOPInstanceUID), sop_class_uid)
    copy.SOPInstanceUID = UID(own)
    if getattr(copy, "file_meta", None) is not None:
        copy.file_meta.MediaStorageSOPClassUID = copy.SOPClassUID
        copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID
    for study in copy.get("PredecessorDocumentsSequence", []):
        for series in study.ReferencedSeriesSequence:
            for reference in series.ReferencedSOPSequence:
                # What is replaced went out in the same poorer class: there it bears the UID of that variant.
                if str(reference.ReferencedSOPClassUID) == str(dataset.SOPClassUID):
                    earlier = str(reference.ReferencedSOPInstanceUID)
                    reference.ReferencedSOPInstanceUID = variant_uid(earlier, sop_class_uid)
                    reference.ReferencedSOPClassUID = sop_class_uid
    if sop_class_uid == BasicTextSRStorage:
        _make_basic(copy)
    return copy


def _plain(item: Dataset) -> Dataset:
    """A deep copy in pydicom's own classes: highdicom's content items refuse the changes that follow."""
    copy = Dataset()
    for element in item:
        if element.VR == "SQ":
            copy.add_new(element.tag, "SQ", [_plain(child) for child in element.value])
        else:
            copy.add_new(element.tag, element.VR, element.value)
    return copy


def _make_basic(item: Dataset) -> None:
    """Rewrite the tree below an item into the value types and relationships of Basic Text SR."""
    if "ContentTemplateSequence" in item and item.ContentTemplateSequence[0].TemplateIdentifier == "1500":
        del item.ContentTemplateSequence  # TID 1500 needs numbers; what is left is no measurement report any more
    kept = []
    for child in item.get("ContentSequence", []):
        kept += _basic(child)
    if kept:
        item.ContentSequence = kept
    elif "ContentSequence" in item:
        del item.ContentSequence


def _basic(item: Dataset) -> list[Dataset]:
    """One item as Basic Text SR may hold it: one item, or what stood below it where it has no place itself."""
    if item.ValueType == "NUM":
        return [_number_as_text(item), *_images_below(item)]
    # Basic Text SR has no coordinates; the image that they lie on is still named.
    if item.ValueType == "SCOORD":
        return _images_below(item)
    if item.ValueType not in _BASIC_TYPES:
        raise ValueError(f"no conversion of value type {item.ValueType} to Basic Text SR")
    if item.ValueType == "CONTAINER":
        _make_basic(item)
        return [item] if "ContentSequence" in item else []
    below = [child for child in item.get("ContentSequence", []) if child.RelationshipType == "HAS CONCEPT MOD"]
    if below:
        item.ContentSequence = below
    elif "ContentSequence" in item:
        del item.ContentSequence
    return [item]


def _number_as_text(item: Dataset) -> Dataset:
    text = Dataset()
    for keyword in _ITEM_ELEMENTS:
        setattr(text, keyword, getattr(item, keyword))
    text.ValueType = "TEXT"
    measured = item.get("MeasuredValueSequence") or []
    value = f"{measured[0].NumericValue} {measured[0].MeasurementUnitsCodeSequence[0].CodeValue}" if measured else "-"
    text.TextValue = value
    return text


def _images_below(item: Dataset) -> list[Dataset]:
    """The images that regions below an item were drawn on, as items of the container that held it."""
    images = []
    for child in item.get("ContentSequence", []):
        if child.ValueType == "IMAGE":
            image = Dataset()
            image.RelationshipType, image.ValueType = "CONTAINS", "IMAGE"
            if "ConceptNameCodeSequence" in item and item.ValueType == "SCOORD":
                image.ConceptNameCodeSequence = item.ConceptNameCodeSequence
            image.ReferencedSOPSequence = child.ReferencedSOPSequence
            images.append(image)
        else:
            images += _images_below(child)
    return images
