"""The node's own studies with radiologists' feedback, from an export file; what the model said itself is no truth.

The export is JSON Lines (docs/site-export.md): a header line, then one line for each analysed image. `training` does
not read the node's database: the node writes this file, pseudonymised, and a snapshot of it can be kept.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.ontology import ontology
from model.questions.answers import side_of_place
from model.questions.vocabulary import grade_of_level
from model.schema import Change, Presence
from training.records.drops import DataError, DropReport
from training.records.record import ImageRef, Record, Split
from training.records.truth import MANUFACTURER, FindingTruth, ImageTruth, PairTruth

FORMAT, VERSION = "dicom-node-site", 1


class SiteStatement(BaseModel):
    """The node's statement about one finding."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    finding: str
    presence: Presence
    probability: float = Field(ge=0, le=1)
    change: Change | None = None
    location: str | None = None
    level: str | None = None


class SiteWord(BaseModel):
    """One person's (or report's) opinion of one statement; the columns of the node's feedback table."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    finding: str = ""
    """Ontology key; "" with aspect "result"."""
    aspect: str = Field(pattern="^(presence|change|location|level|result)$")
    stated: str = ""
    verdict: str = Field(pattern="^(agree|wrong|correct)$")
    value: str = ""
    author: str = ""
    role: str = ""
    source: str = Field(pattern="^(web|report|csv)$")
    at: str
    """UTC, ISO 8601."""


class SiteImage(BaseModel):
    """One line of the export: one analysed image, its prior where it was compared, and the words on it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    patient: str = Field(min_length=1)
    """Pseudonym: a keyed hash, the same for all studies of one person."""
    study: str
    image: str = Field(min_length=1)
    when: str
    path: str
    """Relative to the folder of the export."""
    view: str | None = None
    manufacturer: str = ""
    prior_image: str = ""
    prior_path: str = ""
    prior_when: str = ""
    prior_view: str | None = None
    said: tuple[SiteStatement, ...] = ()
    words: tuple[SiteWord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settled:
    """The values that all opinions agree on: aspect → value ("present", "new", "left lower lobe", "moderate")."""

    values: Mapping[tuple[str, str], str]


def read_site(export: Path, report: DropReport, *, check_images: bool = True) -> Iterator[Record]:
    """Records of the node's own studies, all TRAIN (split them by `splits.keep_patients_apart`).

    Only what radiologists said becomes truth: "agree" confirms the statement, "correct" replaces it, "wrong" on a
    presence turns it over and on anything else leaves it unknown. Where two sources disagree, neither is used and the
    finding is counted. What is known of the prior image by its own words is known of the pair: absent on both is no
    change, there on one of them alone is new or resolved. Raises DataError for a missing, foreign, newer or cut-off
    export.
    """
    seen: set[str] = set()
    labelled = _read_labelled_images(export)
    for image in _read_lines(export, report):
        if image.image in seen:
            report.drop("duplicate image", image.image)
            continue
        seen.add(image.image)
        current, prior = export.parent / image.path, export.parent / image.prior_path
        if check_images and not (current.is_file() and (not image.prior_image or prior.is_file())):
            report.drop("image file missing", image.image)
            continue
        # Text of one form (date, then time of day), so that it compares as time does.
        if image.prior_image and image.prior_when >= image.when:
            report.drop("prior is not earlier than the image", image.image)
            continue
        record = _record(image, str(current), str(prior), labelled.get(image.prior_image, {}), report)
        if not record.truth.findings:
            report.drop("no feedback that settles a finding", image.image)
            continue
        report.keep()
        yield record


def _read_lines(export: Path, report: DropReport) -> Iterator[SiteImage]:
    if not export.is_file():
        raise DataError(f"{export} is missing")
    with export.open("r", encoding="utf-8") as file:
        _check_header(export, file.readline())
        for number, line in enumerate(file, start=2):
            # Every line ends with a line feed; one that does not was being written when the export stopped.
            if not line.endswith("\n"):
                raise DataError(f"{export.name} is cut off in line {number}")
            try:
                yield SiteImage.model_validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                location = ".".join(str(part) for part in first["loc"])
                report.drop(f"malformed line: {location or 'JSON'}: {first['msg']}", f"line {number}")


def _check_header(export: Path, line: str) -> None:
    try:
        header: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{export.name} does not begin with a header line: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DataError(f"{export.name} is no {FORMAT} export")
    if header.get("version") != VERSION:
        raise DataError(f"{export.name} has version {header.get('version')}; this reader knows version {VERSION}")


def _read_labelled_images(export: Path) -> dict[str, dict[str, bool]]:
    """Image → finding → present, of every image by its own words; what is wrong is counted in the reading proper."""
    presences: dict[str, dict[str, bool]] = {}
    unsaid = DropReport()
    for image in _read_lines(export, unsaid):
        if image.image not in presences and image.words:
            settled = _settle(image, unsaid)
            truths = {key: _finding(key, settled, has_prior=bool(image.prior_image)) for key in ontology().findings}
            presences[image.image] = {
                key: t.current.present for key, t in truths.items() if t is not None and t.current
            }
    return presences


def _record(image: SiteImage, current: str, prior: str, earlier: Mapping[str, bool], report: DropReport) -> Record:
    has_prior = bool(image.prior_image)
    settled = _settle(image, report)
    findings = {}
    for key in ontology().findings:
        truth = _finding(key, settled, has_prior=has_prior)
        if truth is not None:
            findings[key] = _with_earlier(truth, earlier[key], image, report) if key in earlier else truth
    return Record(
        truth=PairTruth(
            pair_id=f"site/{image.image}",
            patient_id=f"site/{image.patient}",
            findings=findings,
            has_prior=has_prior,
            view=image.view,
            prior_view=image.prior_view if has_prior else None,
            facts={MANUFACTURER: image.manufacturer} if image.manufacturer else {},
        ),
        current=ImageRef(key=current, image_id=image.image, study_id=image.study, view=image.view, when=image.when),
        prior=ImageRef(key=prior, image_id=image.prior_image, view=image.prior_view, when=image.prior_when)
        if has_prior
        else None,
        split=Split.TRAIN,
    )


def _settle(image: SiteImage, report: DropReport) -> _Settled:
    """One value for each (finding, aspect) that the newest words of all authors and sources agree on."""
    newest: dict[tuple[str, str, str, str], SiteWord] = {}
    for word in sorted(image.words, key=lambda word: word.at):
        if word.finding and word.finding not in ontology().findings:
            report.drop("feedback on a finding that is not in the ontology", f"{image.image}: {word.finding}")
            continue
        newest[word.finding, word.aspect, word.author, word.source] = word
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for word in newest.values():
        if word.aspect != "result":
            value = _value(word)
            if value is not None:
                values[word.finding, word.aspect].add(value)
    if any(word.aspect == "result" and word.verdict == "agree" for word in newest.values()):
        for aspect_key, value in _all_statements(image.said):
            values.setdefault(aspect_key, {value})  # a word on the single finding weighs more than one on the whole
    for (finding, aspect), stated in values.items():
        if len(stated) > 1:
            report.drop("feedback disagrees with itself", f"{image.image}: {finding} {aspect}")
    return _Settled(values={key: stated.pop() for key, stated in values.items() if len(stated) == 1})


def _value(word: SiteWord) -> str | None:
    if word.verdict == "agree":
        return word.stated or None
    if word.verdict == "correct":
        return word.value or None
    # "Wrong" says the opposite only of yes and no; of a change or a place it says just that it is another one.
    turned = {Presence.PRESENT.value: Presence.ABSENT.value, Presence.ABSENT.value: Presence.PRESENT.value}
    return turned.get(word.stated) if word.aspect == "presence" else None


def _all_statements(said: Sequence[SiteStatement]) -> Iterator[tuple[tuple[str, str], str]]:
    for statement in said:
        if statement.presence is not Presence.ABSTAINED and statement.finding in ontology().findings:
            yield (statement.finding, "presence"), statement.presence.value
            for aspect, value in (
                ("change", statement.change.value if statement.change else None),
                ("location", statement.location),
                ("level", statement.level),
            ):
                if value is not None:
                    yield (statement.finding, aspect), value


def _with_earlier(truth: FindingTruth, there: bool, image: SiteImage, report: DropReport) -> FindingTruth:
    """The truth of the pair with what the prior image's own words say of it."""
    if truth.prior is not None:  # a word on the change of this very pair weighs more
        if truth.prior.present != there:
            report.note("the prior's own label contradicts the stated change; the word on the change counts")
        return truth
    change = None
    if truth.current is not None and truth.current.present != there:
        change = Change.RESOLVED if there else Change.NEW
    return replace(truth, prior=ImageTruth(present=there), change=change)


def _finding(key: str, settled: _Settled, *, has_prior: bool) -> FindingTruth | None:
    """The truth of one finding; a settled change also settles presence on both images."""
    presence = settled.values.get((key, "presence"))
    word = settled.values.get((key, "change")) if has_prior else None
    change = Change(word) if word in set(Change) and word != Change.NOT_COMPARABLE else None
    there = None if presence not in ("present", "absent") else presence == "present"
    if change is not None:
        by_change = change is not Change.RESOLVED
        if there is not None and there != by_change:
            return None  # "absent" and "worsening" cannot both be right; neither is taken
        there = by_change
    if there is None:
        return None
    prior = None if change is None else ImageTruth(present=change is not Change.NEW)
    side = side_of_place(settled.values.get((key, "location"), ""))
    grade = grade_of_level(settled.values.get((key, "level"), ""))
    current = ImageTruth(present=there, side=side if there else None, grade=grade if there else None)
    return FindingTruth(key=key, current=current, prior=prior, change=change)
