"""Parts of an audit message that need no event: codes, details, and text that XML can hold (PS3.15 section A.5)."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from ipaddress import ip_address

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""XML 1.0 section 2.2, production 2, turned round."""


def writable(xml: str) -> str:
    """Without the characters that XML 1.0 has no place for: names and AE titles come from strangers."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", xml)


def add_code(parent: ET.Element, tag: str, code: tuple[str, str]) -> None:
    """Add an element that holds a DCM code: (value, meaning)."""
    ET.SubElement(
        parent, tag, {"csd-code": code[0], "codeSystemName": "DCM", "originalText": code[1], "displayName": code[1]}
    )


def access_point_type(address: str) -> str:
    """NetworkAccessPointTypeCode: 1 a machine's name, 2 an IP address, 5 a URI."""
    if "://" in address:
        return "5"
    try:
        ip_address(address)
    except ValueError:
        return "1"
    return "2"


def add_detail(element: ET.Element, kind: str, text: str) -> None:
    """Add a ParticipantObjectDetail; its value is Base64."""
    value = base64.b64encode(text.encode()).decode()
    ET.SubElement(element, "ParticipantObjectDetail", type=kind, value=value)
