"""The rows of a prediction: one for each analysed image and finding, one for each image or file without an answer."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from dicom_node.errors import UsageError
from dicom_node.report.concepts import finding_concept
from dicom_node.report.exposure import moment
from dicom_node.report.request import ReportRequest, SourceImage
from dicom_node.report.rules import side_of
from dicom_node.report.sr.uids import header_uid
from dicom_node.report.statements import statements
from dicom_node.report.wording.sections import impressions

FORMAT: Final = "1"
"""Of the rows; a change of a column's meaning is another format."""
UNREADABLE: Final = "input error"
"""The outcome of a file that no study could be made of."""
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column. type: "text", "texts" (a list), "number" (double), "count", "time" (local, without zone)."""

    name: str
    type: str
    meaning: str


def _columns(*rows: tuple[str, str, str]) -> tuple[Column, ...]:
    return tuple(Column(name=name, type=type, meaning=meaning) for name, type, meaning in rows)


COLUMNS: Final = _columns(
    ("study_uid", "text", "StudyInstanceUID"),
    ("sop_instance_uid", "text", "SOPInstanceUID of the analysed image, or of the object that the refusal speaks of"),
    ("patient_id", "text", "PatientID of the header or, where it has none, of the table"),
    ("acquired", "time", "when the image was exposed, by the modality's clock"),
    ("location", "text", "file or object"),
    ("image_number", "count", "of the study's frontal images, counted by time"),
    ("frontal_images", "count", "frontal images of the study; each has rows of its own"),
    ("outcome", "text", "compared, findings only, not analysed, input error"),
    ("reason", "text", "why it was not compared, not analysed or not read"),
    ("abstained", "text", "kind of refusal where the outcome is not analysed"),
    ("prior_study_uid", "text", "study that it was compared with"),
    ("prior_sop_instance_uid", "text", "image that it was compared with"),
    ("prior_acquired", "time", "when that was exposed"),
    ("prior_location", "text", "its file or object"),
    ("prior_reasons", "texts", "why this prior was chosen, or none"),
    ("cautions", "texts", "doubts to be read first, such as one about the patient's identity"),
    ("impressions", "texts", "sentences of the report's impression"),
    ("finding", "text", "key of the finding; null in rows without an answer"),
    ("code", "text", "its code"),
    ("scheme", "text", "coding scheme of the code"),
    ("presence", "text", "what the report states: present, absent, abstained"),
    ("seen", "text", "seen, possible, not seen, no statement"),
    ("probability", "number", "calibrated belief that it is present, 0 to 1"),
    ("threshold", "number", "from which the checkpoint calls it present"),
    ("prior_probability", "number", "the same belief for the prior image"),
    ("change", "text", "stated change; null where none is stated"),
    ("possible_change", "text", "change that is believed too little to be stated"),
    ("change_probability", "number", "belief in the model's change, 0 to 1"),
    ("doubt", "text", "why no change is stated"),
    ("side", "text", "left, right, bilateral"),
    ("location_words", "text", "place as the model names it"),
    ("level", "text", "degree"),
    ("rank", "text", "group of the impression; none where in no one"),
    ("answer_presence", "text", "what the model answered, before the rules"),
    ("answer_change", "text", "what the model answered, before the rules"),
    ("unfamiliarity", "number", "distance from the training images; above 1 it is like none of them"),
    ("model_name", "text", "checkpoint"),
    ("model_version", "text", "its version"),
    ("model_device_uid", "text", "its Device UID; a retrained model has another one"),
    ("demonstration", "text", "yes: not for clinical use"),
    ("node_version", "text", "version of dicom-node, with its rules"),
)
_NAMES: Final = tuple(column.name for column in COLUMNS)


def rows_of(request: ReportRequest, where: Mapping[str, str], node_version: str) -> list[Row]:
    """The rows of one result. where: SOP Instance UID → location."""
    shared = _request_values(request, where, node_version)
    stated = statements(request)
    if not stated:
        return [shared]
    rows = []
    for statement in stated:
        finding = statement.finding
        concept, change = finding_concept(finding.key), statement.coded_change
        rows.append(
            shared
            | {
                "finding": finding.key,
                "code": concept.code.value,
                "scheme": concept.code.scheme,
                "presence": statement.presence.value,
                "seen": statement.seen.value,
                "probability": finding.probability,
                "threshold": finding.threshold,
                "prior_probability": finding.prior_probability,
                "change": change.value if change is not None else None,
                "possible_change": statement.possible_change.value if statement.possible_change is not None else None,
                "change_probability": finding.change_probability,
                "doubt": statement.doubt.value if statement.doubt is not None else None,
                "side": side_of(finding.location) or None,
                "location_words": finding.location,
                "level": finding.level,
                "rank": statement.rank.name.lower(),
                "answer_presence": finding.presence.value,
                "answer_change": finding.change.value if finding.change is not None else None,
            }
        )
    return rows


def error_row(location: str, why: str, *, node_version: str, study_uid: str = "") -> Row:
    """The row of a file that no study could be made of, or of a study at which the run failed."""
    values = {"study_uid": study_uid or None, "location": location, "outcome": UNREADABLE, "reason": why}
    return dict.fromkeys(_NAMES) | values | {"node_version": node_version}


def _request_values(request: ReportRequest, where: Mapping[str, str], node_version: str) -> Row:
    prediction, model = request.prediction, request.model
    uid = header_uid(request.current, "SOPInstanceUID")
    values: Row = {
        "study_uid": header_uid(request.current, "StudyInstanceUID"),
        "sop_instance_uid": uid,
        "patient_id": str(request.current.header.get("PatientID", "") or "") or None,
        "acquired": moment(request.current),
        "location": where.get(uid),
        "image_number": request.frontal_number,
        "frontal_images": request.frontal_images,
        "outcome": request.outcome.value,
        "reason": request.reason or None,
        "prior_reasons": list(request.prior_reasons),
        "cautions": list(request.cautions),
        "impressions": list(impressions(request)),
        "model_name": model.name,
        "model_version": model.version,
        "model_device_uid": model.device_uid,
        "demonstration": "yes" if model.demonstration else "no",
        "node_version": node_version,
    }
    if prediction is not None:
        values["abstained"] = prediction.abstained.value if prediction.abstained is not None else None
        values["unfamiliarity"] = prediction.unfamiliarity
    return dict.fromkeys(_NAMES) | values | (_prior(request.prior, where) if request.prior is not None else {})


def _prior(prior: SourceImage, where: Mapping[str, str]) -> Row:
    uid = header_uid(prior, "SOPInstanceUID")
    return {
        "prior_study_uid": header_uid(prior, "StudyInstanceUID"),
        "prior_sop_instance_uid": uid,
        "prior_acquired": moment(prior),
        "prior_location": where.get(uid),
    }


def encode_rows(rows: Sequence[Row]) -> bytes:
    """The rows as one Parquet file; the same rows give the same bytes."""
    arrow = pyarrow_of()
    stream = io.BytesIO()
    table = arrow.Table.from_pylist(list(rows), schema=_schema())
    arrow.parquet.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def pyarrow_of() -> Any:
    """The module `pyarrow` with `pyarrow.parquet`; raises UsageError where the extra is missing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise UsageError('Parquet needs the extra: pip install "dicom-node[parquet]"') from error
    return pyarrow


@cache
def _schema() -> Any:
    arrow = pyarrow_of()
    types = {
        "text": arrow.string(),
        "texts": arrow.list_(arrow.string()),
        "number": arrow.float64(),
        "count": arrow.int32(),
        "time": arrow.timestamp("us"),
    }
    fields = [arrow.field(column.name, types[column.type], metadata={"meaning": column.meaning}) for column in COLUMNS]
    return arrow.schema(fields, metadata={"format": FORMAT, "writer": "dicom-node predict"})
