"""Objections of a radiologist to the node's reports, counted over whole patients: `scripts/reading_room.py`.

Each patient's studies are analysed in their order in time by the node's own story, with what the earlier results said.
Every count is made from the finished statements, words and outlines, by rules of its own, and must be 0.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from dicom_node.analysis.earlier_results import EarlierReadings
from dicom_node.analysis.prepared import AnalysisInputs
from dicom_node.analysis.stored_images import StoredImage, read_stored
from dicom_node.analysis.study import analyse_study
from dicom_node.config import Settings
from dicom_node.priors import policy_of
from dicom_node.report.label_positions import LabelBox, label_boxes
from dicom_node.report.region_rules import RegionFilm, half_of, region_side
from dicom_node.report.request import ReportRequest
from dicom_node.report.rules import EarlierStatement, Rank, Seen, Statement, side_of
from dicom_node.report.sr.groups import sources
from dicom_node.report.sr.regions import stored_size
from dicom_node.report.sr.uids import header_uid
from dicom_node.report.statements import drawn_statements, statements
from dicom_node.report.wording.catalogue import Catalogue, catalogue, languages
from dicom_node.report.wording.phrases import region_label
from dicom_node.report.wording.sections import ReportSection, SectionKey, sections
from dicom_node.serving.predictor import PairPredictor, load
from model.checks.lung_fields import find_lungs
from model.errors import PixelError
from model.images.display import load_display_image
from model.schema import ON_PRIOR, Change, DisplayImage, ImageRole

COUNTS = (
    "regions on the wrong side",
    "headlines below 50 %",
    "contradictions with the prior's report",
    "words against numbers",
    "numbers in the impression",
    "openings to be taken back",
    "labels cut or overlapping",
)
"""The objections, in the order in which they are printed."""
_DENIALS = ("none", "no_other", "no_change")
"""Messages of the impression that a reader takes for the whole answer."""
_PERCENT = re.compile(r"\((?:[^()]*\s)?(\d+)\s?%[^()]*\)")


@dataclass(slots=True, kw_only=True)
class RoomReading:
    """Everything that was counted: results by outcome, objections by kind, and one line for each."""

    results: Counter[str] = field(default_factory=Counter)
    regions: int = 0
    changes: int = 0
    objections: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)
    requests: list[ReportRequest] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    """SOP Instance UID → the file that was read."""

    def object_to(self, kind: str, request: ReportRequest, what: str) -> None:
        """Count an objection."""
        self.objections[kind] += 1
        self.lines.append(f"{kind}: {what} (image {header_uid(request.current, 'SOPInstanceUID')})")


def read_patients(folders: Sequence[Path], settings: Settings, say: Callable[[str], None] = print) -> RoomReading:
    """Analyse every study below the folders, patient by patient in order of time, and count.

    Raises CheckpointError where the model cannot be loaded.
    """
    reading, predictor = RoomReading(), load(settings.model)
    objects = [stored for folder in folders for stored in _read_images(folder)]
    reading.files = {stored.facts.sop_instance_uid: stored.path for stored in objects}
    by_patient: dict[str, list[StoredImage]] = {}
    for stored in objects:
        by_patient.setdefault(str(stored.header.get("PatientID", "")), []).append(stored)
    for number, (_, images) in enumerate(sorted(by_patient.items()), start=1):
        _read_patient(images, predictor, settings, reading)
        say(f"patient {number} of {len(by_patient)}: {sum(reading.results.values())} results")
    return reading


def count(reading: RoomReading, requests: Iterable[ReportRequest], said: Mapping[str, Sequence[Statement]]) -> None:
    """Count what there is to object to in results. said: the statements on earlier images, by SOP Instance UID."""
    for request in requests:
        reading.requests.append(request)
        reading.results[_outcome(request)] += 1
        stated = statements(request)
        reading.changes += sum(statement.change is not None for statement in stated)
        _count_beliefs(reading, request, stated)
        _count_contradictions(reading, request, stated, said)
        _count_sides(reading, request)
        _count_labels(reading, request)
        _count_words(reading, request)
        _count_openings(reading, request, stated)


def _outcome(request: ReportRequest) -> str:
    """The outcome of the analysis, with the reason where it gave no answer."""
    abstained = request.prediction.abstained if request.prediction is not None else None
    return request.outcome.value if abstained is None else f"{request.outcome.value} ({abstained.value})"


def _read_images(folder: Path) -> Iterator[StoredImage]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            stored = read_stored(path)
        except PixelError:
            continue  # a README, or a file that the node would not have taken
        if stored.facts.sop_instance_uid:
            yield stored


def _read_patient(
    images: Sequence[StoredImage], predictor: PairPredictor, settings: Settings, reading: RoomReading
) -> None:
    studies: dict[str, list[StoredImage]] = {}
    for image in images:
        studies.setdefault(image.facts.study_instance_uid, []).append(image)
    reported: dict[str, tuple[Statement, ...]] = {}

    def readings(uids: Sequence[str], _device_uid: str) -> EarlierReadings:
        return EarlierReadings(statements={uid: _as_stored(reported[uid]) for uid in uids if reported.get(uid)})

    setting = AnalysisInputs(
        predictor=predictor,
        decode=cache(load_display_image),
        policy=policy_of(settings),
        produced_at=dt.datetime.now(dt.UTC),
        readings=readings,
        reads_unfamiliar=settings.model.unfamiliar == "warn",
    )
    late = dt.datetime.max  # noqa: DTZ901 - DICOM local time
    for study in sorted(studies.values(), key=lambda objects: min(stored.facts.taken_at or late for stored in objects)):
        uid = study[0].facts.study_instance_uid
        others = [image for image in images if image.facts.study_instance_uid != uid]
        requests = analyse_study(study, others, setting)
        count(reading, requests, reported)
        reported |= {header_uid(request.current, "SOPInstanceUID"): statements(request) for request in requests}


def _as_stored(stated: Sequence[Statement]) -> dict[str, EarlierStatement]:
    return {
        statement.finding.key: EarlierStatement(seen=statement.seen, location=statement.finding.location)
        for statement in stated
    }


def _count_beliefs(reading: RoomReading, request: ReportRequest, stated: Sequence[Statement]) -> None:
    for statement in stated:
        finding = statement.finding
        if statement.rank is Rank.NONE or not statement.is_calibrated:
            continue
        believed = finding.probability if statement.seen is Seen.SEEN else 1.0 - finding.probability
        if believed < 0.5 or (statement.change is not None and (finding.change_probability or 0.0) < 0.5):
            reading.object_to("headlines below 50 %", request, f"{finding.key} at {believed:.2f}")


def _count_contradictions(
    reading: RoomReading, request: ReportRequest, stated: Sequence[Statement], said: Mapping[str, Sequence[Statement]]
) -> None:
    uid = header_uid(request.prior, "SOPInstanceUID") if request.prior is not None else ""
    before = {statement.finding.key: statement for statement in said.get(uid, ())}
    for statement in stated:
        earlier = before.get(statement.finding.key)
        if earlier is None or statement.change is None:
            continue
        sides = {side_of(statement.finding.location), side_of(earlier.finding.location)} - {None, "bilateral"}
        has_moved_side = len(sides) == 2 and statement.change in (Change.STABLE, Change.WORSENING, Change.IMPROVING)
        denies = statement.change in ON_PRIOR and earlier.seen is Seen.NOT_SEEN
        doubles = statement.change is Change.NEW and earlier.seen is Seen.SEEN
        if denies or doubles or has_moved_side:
            what = f"{statement.finding.key} {statement.change.value}, the prior's report says {earlier.seen.value}"
            reading.object_to("contradictions with the prior's report", request, what)


def _count_sides(reading: RoomReading, request: ReportRequest) -> None:
    images = {ImageRole.CURRENT: request.current, ImageRole.PRIOR: request.prior}
    films = {role: _film(source.image) for role, source in images.items() if source is not None and source.image}
    for statement in drawn_statements(request):
        side = region_side(statement.finding)
        for region in statement.finding.regions:
            reading.regions += 1
            film = films.get(region.role)
            if side not in ("left", "right") or film is None or film.lungs is None:
                continue
            left = half_of(film.lungs, film.image, region.points)
            if (left if side == "left" else 1.0 - left) < 0.5:
                what = f"{statement.finding.key} {side} on the {region.role.value} image, {left:.2f} of it left"
                reading.object_to("regions on the wrong side", request, what)


@cache
def _film(image: DisplayImage) -> RegionFilm:
    return RegionFilm(image=image, lungs=find_lungs(image))


def _count_labels(reading: RoomReading, request: ReportRequest) -> None:
    """Labels as `report.label_positions` sets them for a viewer; what OHIF draws is counted in the browser."""
    for role, source in sources(request):
        columns, rows = stored_size(source)
        drawn = [
            (statement, [r for r in statement.finding.regions if r.role is role])
            for statement in drawn_statements(request)
        ]
        labels = [
            (region_label(statement, role, catalogue("en")).line, regions[0].points)
            for statement, regions in drawn
            if regions
        ]
        boxes = label_boxes(labels, columns, rows) if columns and rows else []
        for number, box in enumerate(boxes):
            if _is_cut(box, columns, rows) or any(box.overlaps(other) for other in boxes[:number]):
                reading.object_to(
                    "labels cut or overlapping", request, f"{labels[number][0]} on the {role.value} image"
                )


def _is_cut(box: LabelBox, columns: int, rows: int) -> bool:
    slack = 1e-6 * max(columns, rows)
    inside = box.left >= -slack and box.top >= -slack
    return not (inside and box.left + box.width <= columns + slack and box.top + box.height <= rows + slack)


def _count_words(reading: RoomReading, request: ReportRequest) -> None:
    """Each percentage of the Findings against the word of its line, in every language; none in the impression."""
    for language in languages():
        words = catalogue(language)
        of_key = {section.key: section.sentences for section in sections_in(request, language)}
        for sentence in of_key.get(SectionKey.IMPRESSIONS, ()):
            if "%" in sentence or "percent" in sentence:
                reading.object_to("numbers in the impression", request, sentence)
        for sentence in of_key.get(SectionKey.FINDINGS, ()):
            is_negative = _denies(sentence, words)
            for number in map(int, _PERCENT.findall(sentence)):
                if (number >= 50) is is_negative and number != 50:
                    reading.object_to("words against numbers", request, sentence)


def _count_openings(reading: RoomReading, request: ReportRequest, stated: Sequence[Statement]) -> None:
    """Impressions that call all the rest not seen or unchanged while something is possible, open or not judged."""
    if all(statement.seen in (Seen.SEEN, Seen.NOT_SEEN) for statement in stated):
        return
    for language in languages():
        opening = " ".join(sections_in(request, language)[0].sentences)
        if denies_the_rest(opening, language):
            reading.object_to("openings to be taken back", request, opening)


def denies_the_rest(opening: str, language: str) -> bool:
    """Tell whether the impression says that nothing (else) is seen, or that nothing changed."""
    words = catalogue(language)
    denials = [words.text(f"impression.{key}", count="", date="").split("  ")[0] for key in _DENIALS]
    return any(denial.rstrip(" .") in opening for denial in denials)


def _denies(sentence: str, words: Catalogue) -> bool:
    """Tell whether the line says that its findings are not seen, no longer seen or only possible."""
    opening = [words.text(f"finding_line.{key}", findings="") for key in ("not_seen", "possible")]
    after = [f": {opening[0].rstrip(': .').lower()}", f": {words.text('mark.resolved')}"]
    return sentence.startswith(tuple(text.rstrip(". ") for text in opening)) or any(text in sentence for text in after)


def sections_in(request: ReportRequest, language: str) -> tuple[ReportSection, ...]:
    """The sections of the report in another language."""
    return sections(replace(request, language=language))
