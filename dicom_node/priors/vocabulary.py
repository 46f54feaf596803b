"""Words and codes for chest, another body part, frontal, lateral and other views, in headers' languages."""

from __future__ import annotations

import re
from enum import StrEnum

from dicom_node.priors.types import View


class Body(StrEnum):
    """The part of the body that a text names."""

    CHEST = "chest"
    OTHER = "another body part"
    BOTH = "more than the chest"


CHEST_CODES = frozenset({"51185008", "816094009", "T-D3000", "39607008", "T-28000", "CHEST"})
"""Chest and lung: SCT and the retired SRT (PS3.16 CID 4031, annex L)."""
VIEW_CODES = {
    "272479007": View.PA,
    "R-10214": View.PA,
    "399348003": View.AP,
    "R-10206": View.AP,
    "399033003": View.FRONTAL,
    "R-102CD": View.FRONTAL,
    "399067008": View.LATERAL,
    "R-10236": View.LATERAL,
    "399173006": View.LATERAL,
    "R-10232": View.LATERAL,
    "399198007": View.LATERAL,
    "R-10228": View.LATERAL,
    "30730003": View.LATERAL,
}
"""PS3.16 CID 4010, SCT and retired SRT. Every other view code means a view that is not a plain frontal one."""
_POSITIONS = {
    "PA": View.PA,
    "AP": View.AP,
    "LL": View.LATERAL,
    "RL": View.LATERAL,
    "LAT": View.LATERAL,
    "LATERAL": View.LATERAL,
    "RLD": View.OTHER,
    "LLD": View.OTHER,
    "RLO": View.OTHER,
    "LLO": View.OTHER,
    "LAO": View.OTHER,
    "RAO": View.OTHER,
    "LPO": View.OTHER,
    "RPO": View.OTHER,
}
"""ViewPosition, PS3.3 C.8.7.1.1.1 (CR) and C.8.11.5.1.1 (DX), with what else is seen there."""
_CHEST = re.compile(
    r"\b(chest|thora\w*|lung\w*|cxr|torax|tórax|torace|toraks|poumons?|pulmon\w*|polmon\w*|klatk\w*|borstkas|bröst\w*)\b"
    r"|胸|흉부|가슴|грудн|легк|лёгк|θώρακ|θωρακ",
    re.IGNORECASE,
)
_OTHER_PART = re.compile(
    r"\b(abdom\w*|pelvi\w*|becken|bauch|skull|schädel|head|kopf|neck|hals|spine|wirbels\w*|[clt]spine|[bhl]ws|lumbar|cervical"
    r"|shoulder|schulter|clavic\w*|scapula|humerus|elbow|ellenbogen|forearm|unterarm|wrist|hand\w*|finger\w*|thumb|hip|hüfte"
    r"|femur|knee|knie\w*|patella|tibia|fibula|ankle|sprunggelenk|foot|fuß|fuss|toe|heel|calcaneus|extremit\w*|leg|arm|ribs?"
    r"|rippen|sternum|sinus\w*|mandib\w*|jaw|teeth|dental|breast|mamma\w*|whole\s?body|babygram|kub|abdomin\w*)\b"
    r"|chestabd\w*|腹|骨盤|頭部|頸椎|腰椎|膝|肩|手|足|복부|무릎",
    re.IGNORECASE,
)
_LATERAL = re.compile(
    r"(?<![a-z])(lateral\w*|lat|latl|ll|seitlich\w*|seitl|seite|profil|perfil|laterale|boczn\w*|bok)(?![a-z])|側面|侧位|側位|측면"
    r"|боков",
    re.IGNORECASE,
)
_PA = re.compile(
    r"(?<![a-z])(p\.?\s?a\.?|postero-?\s?anterior\w*|dorso-?\s?ventral\w*)(?![a-z])|後前|后前", re.IGNORECASE
)
_AP = re.compile(
    r"(?<![a-z])(a\.?\s?p\.?|antero-?\s?posterior\w*|ventro-?\s?dorsal\w*|supine|portable|bedside|bed\s?side|mobile|liegend\w*"
    r"|bett\w*|icu|au lit)(?![a-z])|ポータブル|臥位|床旁|床边|前後|이동",
    re.IGNORECASE,
)
_FRONTAL = re.compile(r"(?<![a-z])(frontal\w*|de face|face|frente)(?![a-z])|正面|正位|정면", re.IGNORECASE)
_OTHER_VIEW = re.compile(
    r"(?<![a-z])(oblique\w*|schräg\w*|apical\w*|lordotic|decubitus|axial|scout|topogram|localizer|stitch\w*|tomo\w*)(?![a-z])",
    re.IGNORECASE,
)


def body_in(text: str) -> Body | None:
    """The body part that a text names; None where it names none that we know."""
    text = text.replace("_", " ")  # CS values have few other signs, and to \b an underscore is a letter
    chest, other = _CHEST.search(text) is not None, _OTHER_PART.search(text) is not None
    if chest and other:
        return Body.BOTH
    return Body.CHEST if chest else Body.OTHER if other else None


def view_in(text: str) -> View | None:
    """The view that a text names; None where it names none, or a frontal and a lateral one ("Chest PA and lateral")."""
    text = text.replace("_", " ")
    if _OTHER_VIEW.search(text):
        return View.OTHER
    pa, ap = _PA.search(text) is not None, _AP.search(text) is not None
    frontal = pa or ap or _FRONTAL.search(text) is not None
    # A description often names the whole examination: "Chest PA and lateral" stands in the headers of both its images.
    if _LATERAL.search(text):
        return None if frontal else View.LATERAL
    # Both named ("AP/PA") says frontal and no more.
    if pa != ap:
        return View.PA if pa else View.AP
    return View.FRONTAL if frontal else None


def view_of_position(position: str) -> View | None:
    """The view that ViewPosition states; None where it is empty or no word that we know."""
    if position in _POSITIONS:
        return _POSITIONS[position]
    return view_in(position) if position else None


def view_of_orientation(orientation: tuple[str, ...]) -> View | None:
    """The plane that PatientOrientation states: rows along L/R and columns along H/F are frontal, along A/P lateral."""
    if len(orientation) != 2:
        return None
    axes = tuple(_AXIS.get(value[:1].upper()) for value in orientation)
    if set(axes) == {"left-right", "head-foot"}:
        return View.FRONTAL
    if set(axes) == {"front-back", "head-foot"}:
        return View.LATERAL
    return View.OTHER if None not in axes else None


def is_mirrored_or_turned(orientation: tuple[str, ...]) -> bool:
    """Tell whether PatientOrientation (PS3.3 section C.7.6.1.1.1) states a frontal plane that is not shown as films
    are: patient's left at the right edge, feet below. Silence and other planes are no statement."""
    return view_of_orientation(orientation) is View.FRONTAL and [v[:1].upper() for v in orientation] != ["L", "F"]


_AXIS = {"L": "left-right", "R": "left-right", "A": "front-back", "P": "front-back", "H": "head-foot", "F": "head-foot"}
