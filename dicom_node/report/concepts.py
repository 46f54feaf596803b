"""Findings as the vocabulary has them, without the libraries that make DICOM content of them."""

from __future__ import annotations

from model.ontology import Code, FindingConcept, FindingKind, ontology

PRIVATE_SCHEME = "99LUMEN"
_VALUE_LIMIT = 16  # Code Value is SH


def finding_concept(key: str) -> FindingConcept:
    """The vocabulary's entry, or a private one made of the key: a checkpoint may know more than the vocabulary."""
    known = ontology().findings.get(key)
    if known is not None:
        return known
    name = key.replace("_", " ")
    value = key.upper()[:_VALUE_LIMIT]
    code = Code(scheme=PRIVATE_SCHEME, value=value, meaning=name.capitalize(), basis="private: key of the checkpoint")
    return FindingConcept(key=key, name=name, kind=FindingKind.FINDING, code=code)
