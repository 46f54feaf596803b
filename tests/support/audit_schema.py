"""Validation of audit messages by the schema of PS3.15 section A.5.1 and the rules of sections A.5.2 and A.5.3.

The schema is RELAX NG; what it says is written here as tables: for each element its attributes (what a value must look
like; a name with "?" may be missing) and its children in order (*: any number, +: at least one, ?: at most one).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

_CODE = {"csd-code": ".+", "codeSystemName": ".+", "originalText": ".+", "displayName?": ".*"}
_UID = r"[0-9.]{1,64}"
_BASE64 = r"[A-Za-z0-9+/]*={0,2}"
ATTRIBUTES: dict[str, dict[str, str]] = {
    "AuditMessage": {},
    "EventIdentification": {
        "EventActionCode?": "[CRUDE]",
        "EventDateTime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",  # A.5.2.5: with its zone
        "EventOutcomeIndicator": "0|4|8|12",
    },
    "EventID": _CODE,
    "EventTypeCode": _CODE,
    "ActiveParticipant": {
        "UserID": ".+",
        "AlternativeUserID?": r"AETITLES=[ -~]+",  # A.5.2.2; our people have one name only
        "UserName?": ".+",
        "UserIsRequestor": "true|false",
        "NetworkAccessPointID?": ".+",
        "NetworkAccessPointTypeCode?": "[1-5]",
    },
    "RoleIDCode": _CODE,
    "AuditSourceIdentification": {"AuditEnterpriseSiteID?": ".+", "AuditSourceID": ".+"},
    "AuditSourceTypeCode": {"csd-code": "[1-9]"},
    "ParticipantObjectIdentification": {
        "ParticipantObjectID": ".+",
        "ParticipantObjectTypeCode?": "[1-4]",
        "ParticipantObjectTypeCodeRole?": r"[1-9]|1\d|2[0-6]",
    },
    "ParticipantObjectIDTypeCode": _CODE,
    "ParticipantObjectName": {},
    "ParticipantObjectQuery": {},
    "ParticipantObjectDetail": {"type": ".+", "value": _BASE64},
    "ParticipantObjectDescription": {},
    "Accession": {"Number": ".+"},
    "SOPClass": {"UID?": _UID, "NumberOfInstances": r"\d+"},
}
CHILDREN = {
    "AuditMessage": (
        "EventIdentification ActiveParticipant+ AuditSourceIdentification ParticipantObjectIdentification*"
    ),
    "EventIdentification": "EventID EventTypeCode* EventOutcomeDescription?",
    "ActiveParticipant": "RoleIDCode*",
    "AuditSourceIdentification": "AuditSourceTypeCode*",
    "ParticipantObjectIdentification": (
        "ParticipantObjectIDTypeCode (ParticipantObjectName|ParticipantObjectQuery)"
        " ParticipantObjectDetail* ParticipantObjectDescription*"
    ),
    "ParticipantObjectDescription": "Accession* SOPClass*",
}


def faults(message: str) -> list[str]:
    """The faults of a message; empty where it has none."""
    root = ET.fromstring(message)
    if root.tag != "AuditMessage":
        return [f"the root is {root.tag}"]
    return [fault for element in root.iter() for fault in [*_attributes(element), *_children(element)]]


def _attributes(element: ET.Element) -> list[str]:
    wanted = ATTRIBUTES.get(element.tag)
    if wanted is None:
        return [f"{element.tag} is no element of the schema"]
    known = {name.rstrip("?"): pattern for name, pattern in wanted.items()}
    found = [f"{element.tag}: no {name}" for name in wanted if not name.endswith("?") and name not in element.attrib]
    found += [
        f"{element.tag}: {name}={value!r}"
        for name, value in element.attrib.items()
        if not re.fullmatch(known.get(name, "(?!)"), value)
    ]
    if element.tag == "ParticipantObjectQuery" and not re.fullmatch(_BASE64, element.text or ""):
        found.append("ParticipantObjectQuery is no base64")
    return found


def _children(element: ET.Element) -> list[str]:
    """The children's names as one text, against the model turned into a regular expression."""
    names = "".join(f"<{child.tag}>" for child in element)
    model = re.sub(r"\w+", lambda word: f"(?:<{word[0]}>)", CHILDREN.get(element.tag, "")).replace(" ", "")
    return [] if re.fullmatch(model, names) else [f"{element.tag} holds {names}"]
