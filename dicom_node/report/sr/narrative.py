"""The reading report's content: TID 2000, one container for each heading and one for each sentence."""

from __future__ import annotations

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    DeviceObserverIdentifyingAttributes,
    LanguageOfContentItemAndDescendants,
    ObservationContext,
    ObserverContext,
    RelationshipTypeValues,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes as dicom_codes

from dicom_node.report import codes
from dicom_node.report.request import ReportRequest
from dicom_node.report.sr.copies import set_content, text_item
from dicom_node.report.wording.catalogue import Catalogue, catalogue
from dicom_node.report.wording.sections import ReportSection, SectionKey, sections

_CONTAINS = RelationshipTypeValues.CONTAINS
_ITEM_NAMES = {SectionKey.IMPRESSIONS: "name.impression", SectionKey.FINDINGS: "name.finding"}


def reading_content(request: ReportRequest) -> Dataset:
    """The root container (18748-4, LN, "Diagnostic Imaging Report")."""
    return report_content(request, sections(request))


def report_content(request: ReportRequest, said: tuple[ReportSection, ...]) -> Dataset:
    """The same with given sections; the last rung of the ladder says only one sentence."""
    words = catalogue(request.language)
    root: Dataset = ContainerContentItem(
        name=codes.concept("title.reading"), template_id="2000", is_content_continuous=False
    )
    items: list[Dataset] = [*LanguageOfContentItemAndDescendants(_language(words))]
    items += [*_observer(request)]
    items.append(
        CodeContentItem(
            name=dicom_codes.DCM.ProcedureReported,
            value=codes.concept("value.procedure"),
            relationship_type=RelationshipTypeValues.HAS_CONCEPT_MOD,
        )
    )
    items += [_section(section, words) for section in said]
    set_content(root, items)
    return root


def _language(words: Catalogue) -> CodedConcept:
    """CID 5000: the tag of RFC 5646."""
    return CodedConcept(value=words.language, scheme_designator="RFC5646", meaning=words.text("language_name"))


def _observer(request: ReportRequest) -> ObservationContext:
    """TID 1002 and 1004 with what they require, type and UID: the text below names the model, and viewers show this
    first, before the impression."""
    device = DeviceObserverIdentifyingAttributes(uid=request.model.device_uid)
    context = ObserverContext(observer_type=dicom_codes.DCM.Device, observer_identifying_attributes=device)
    return ObservationContext(observer_device_context=context)


def _section(section: ReportSection, words: Catalogue) -> ContainerContentItem:
    """A heading in the report's language; viewers join neighbouring texts, so a sentence ends its line."""
    heading = codes.concept(f"heading.{section.key.value}", words.text(f"heading.{section.key.value}"))
    container = ContainerContentItem(name=heading, relationship_type=_CONTAINS)
    name = codes.concept(_ITEM_NAMES.get(section.key, "name.comment"))
    lines = [f"{sentence}\n" for sentence in section.sentences[:-1]] + list(section.sentences[-1:])
    set_content(container, [text_item(name, line) for line in lines])
    return container
