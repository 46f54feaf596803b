"""An archive's listing of a span of dates: its radiographs, and whether these are all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dicom_node.backfill.spans import Span
from dicom_node.dicom.uids import is_uid
from dicom_node.errors import RetrieveError
from dicom_node.priors.retrieval.archive import Archive, RemoteStudy
from dicom_node.priors.suitability import MODALITIES


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanListing:
    """An archive's answer on one span.

    radiographs: studies that hold one, or may: of an archive that does not tell modalities, all.
    others: the number of studies of other modalities.
    cut: why there may be more, "" where these are all.
    is_deaf: it listed studies outside the span, so it ignores the date or the time, and halving would not help.
    """

    radiographs: tuple[RemoteStudy, ...]
    others: int = 0
    cut: str = ""
    is_deaf: bool = False


def ask(archive: Archive, span: Span, *, most: int) -> SpanListing:
    """Ask for the studies of a span. Raises RetrieveError.

    The modality is no key of the query: archives that do not support ModalitiesInStudy (PS3.4 table C.6-5 makes it
    optional) would match nothing. It is judged by what they return, and by the series when a study is fetched.

    most: so many answers are taken for an answer that was cut short without a word, as some archives do.
    """
    listing = archive.list_studies(span.dates, span.times)
    named = {study.study_instance_uid: study for study in listing.studies if is_uid(study.study_instance_uid)}
    inside = [study for study in named.values() if span.holds(study.study_date, study.study_time)]
    # Unknown modalities count as radiographs until the series are seen: better one look too many than a study missed.
    radiographs = [study for study in inside if not study.modalities or MODALITIES & set(study.modalities)]
    cut = listing.cut
    if not cut and len(listing.studies) >= most:
        # Exactly the limit, or more: an archive with a silent limit answers "success" with its first so many.
        cut = f"lists {len(listing.studies)} studies, and {most} or more are taken for a limited answer"
    return SpanListing(
        radiographs=tuple(sorted(radiographs, key=lambda s: (s.study_date, s.study_time, s.study_instance_uid))),
        others=len(inside) - len(radiographs),
        cut=cut,
        # Something outside the asked span: the archive did not match on the date or time at all.
        is_deaf=len(inside) < len(named),
    )


def ask_in_parts(archive: Archive, span: Span, *, most: int) -> Iterator[tuple[Span, SpanListing]]:
    """Ask for a span and, where the answer was cut short, for its halves, in order of time; for a dry run.

    Yields each part with its answer; one whose `cut` is not empty could not be halved any more. Raises RetrieveError.
    """
    answer = ask(archive, span, most=most)
    halves = span.halves() if answer.cut and not answer.is_deaf else None
    if halves is None:
        yield span, answer
        return
    for half in halves:
        yield from ask_in_parts(archive, half, most=most)


def has_radiograph_series(archive: Archive, study_instance_uid: str) -> bool:
    """Tell whether a study lists a series of a radiograph's modality; True where it cannot be told."""
    try:
        listed = archive.series(study_instance_uid)
    # Better to fetch one study in vain than to pass one over.
    except RetrieveError:
        return True
    return not listed or any(not series.modality or series.modality in MODALITIES for series in listed)
