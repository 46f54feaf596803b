"""The storage SOP classes (PS3.4 annex B) that hold images to analyse or documents, and the transfer syntaxes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pydicom.uid import (
    AllTransferSyntaxes,
    ComprehensiveSRStorage,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AllStoragePresentationContexts

from dicom_node.dicom.storage_groups import StorageGroup

RADIOGRAPHY: Final = frozenset(
    {
        str(ComputedRadiographyImageStorage),
        str(DigitalXRayImageStorageForPresentation),
        str(DigitalXRayImageStorageForProcessing),
        str(SecondaryCaptureImageStorage),
        *(f"1.2.840.10008.5.1.4.1.1.7.{number}" for number in range(1, 5)),  # multi-frame secondary captures
    }
)
REPORTS: Final = frozenset(
    {
        *(
            f"1.2.840.10008.5.1.4.1.1.88.{number}" for number in (11, 34, 35)
        ),  # Basic Text, Comprehensive 3D, Extensible
        str(EnhancedSRStorage),
        str(ComprehensiveSRStorage),
        str(KeyObjectSelectionDocumentStorage),
        str(EncapsulatedPDFStorage),
    }
)
REPORT_TEXTS: Final = frozenset(f"1.2.840.10008.5.1.4.1.1.88.{number}" for number in (11, 22, 33, 34, 35))
"""SR classes in which radiologists' reports come: Basic Text, Enhanced, Comprehensive (3D), Extensible."""
PRESENTATION: Final = frozenset(f"1.2.840.10008.5.1.4.1.1.11.{number}" for number in (1, 2, 3, 4, 8))
"""Grayscale, colour, pseudo-colour, blending and advanced blending softcopy presentation states."""
EVERY_STORAGE: Final = frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts)

NODE_MODEL: Final = "dicom-node"
"""Manufacturer's Model Name of everything that this program makes."""

_GROUPS: Final = {
    StorageGroup.RADIOGRAPHY: RADIOGRAPHY,
    StorageGroup.REPORTS: REPORTS,
    StorageGroup.PRESENTATION: PRESENTATION,
    StorageGroup.ALL: EVERY_STORAGE,
}

UNCOMPRESSED: Final = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian), str(ExplicitVRBigEndian))
_ELSEWHERE: Final = (
    "1.2.840.10008.1.2.4.94",
    "1.2.840.10008.1.2.4.95",
    "1.2.840.10008.1.2.4.204",
    "1.2.840.10008.1.2.4.205",
)
"""JPIP: the pixels stay on the sender's server. We could not say that we hold such an object."""
TRANSFER_SYNTAXES: Final = frozenset(
    str(uid) for uid in AllTransferSyntaxes if uid not in _ELSEWHERE and not uid.startswith("1.2.840.10008.1.2.7")
)
"""Every transfer syntax of PS3.5 annex A that stands in an object of its own (so not JPIP, nor SMPTE streams)."""


def storage_classes(names: Iterable[str]) -> frozenset[str]:
    """The SOP class UIDs behind group names and UIDs of the configuration."""
    chosen: set[str] = set()
    for name in names:
        chosen |= _GROUPS[StorageGroup(name)] if name in set(StorageGroup) else {name}
    return frozenset(chosen)


def is_image(sop_class_uid: str) -> bool:
    """Tell whether a study can be analysed for such an object: a late one re-opens its study, a document does not."""
    return sop_class_uid in EVERY_STORAGE and sop_class_uid not in REPORTS | PRESENTATION
