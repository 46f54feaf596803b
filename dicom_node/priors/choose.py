"""The choice of the prior: candidates in, chosen prior with reasons out. Pure.

A candidate is admitted where all of this is proven:
1. It is another object, of another study, and not the same exposure sent again (same UID, same irradiation event, same
   grey values, the one derived from the other).
2. It is the same person's (`identity.compare_identity`).
3. It is a frontal chest radiograph for display (`suitability.judge`).
4. Its exposure is earlier by date and time, and its study is not dated later. On one day both times must be known.
   Where both headers state their time zone, it is applied; where one does, the order must hold by more than 14 hours.
   Where none does, it must hold on both readings of the hour in which clocks are set forward or back.
5. It is not older than the look-back window.

Ranking of the admitted:
1. Newest first, but a film of the current view (PA with PA, AP with AP) goes before a newer one of another view unless
   it is more than `same_view_days` older than the newest.
2. On the same time: FOR PRESENTATION first, then the current modality, then the rendition rules of `current`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import replace

from dicom_node.priors.current import is_same_exposure, rendition_order
from dicom_node.priors.identity import OTHER_ID, SAME_ID_OTHER_ISSUER, Identity, compare_identity
from dicom_node.priors.suitability import judge
from dicom_node.priors.types import CandidateVerdict, ImageFacts, PriorChoice, PriorPolicy, View

PART_OF_CURRENT = "part of the current study"
LATER = "taken later than the current image"
SAME_PICTURE = "the same picture as the current one, sent again: nothing has changed between them"
ZONE_DOUBT = dt.timedelta(hours=14)
"""No two zones differ by more in their own day; so long an order of which one side's zone is unknown is not proven."""
_DAY = dt.timedelta(days=1)
_EARLIEST = dt.datetime(1, 1, 1)  # noqa: DTZ001 - DICOM local time
_NO_NEWS = (PART_OF_CURRENT, LATER, OTHER_ID, SAME_ID_OTHER_ISSUER)
"""Refusals that a reader does not wonder about: images that are not one of this patient's earlier films."""
_REFUSED_SHOWN = 3
"""A report names so many refused candidates; the status page and `priors explain` show all."""


def choose_prior(
    current: ImageFacts,
    candidates: Iterable[ImageFacts],
    policy: PriorPolicy | None = None,
    *,
    same_picture: Iterable[str] = (),
    unreadable: Iterable[tuple[str, str]] = (),
) -> PriorChoice:
    """Choose the prior of `current`; does not depend on the candidates' order.

    same_picture: SOPInstanceUIDs of candidates whose pixels were compared with the current ones and are the same film.
    unreadable: (SOPInstanceUID, why) of candidates whose pixels cannot be used.
    """
    policy = policy or PriorPolicy()
    # Sorted by what the candidates are: of two with one UID the same one stays, in whatever order they come.
    unique = {image.sop_instance_uid: image for image in sorted(candidates, key=repr)}
    known = dict.fromkeys(same_picture, SAME_PICTURE)
    known |= {uid: f"its image cannot be used: {why}" for uid, why in unreadable}
    verdicts = [judge_candidate(current, image, policy, known.get(uid)) for uid, image in sorted(unique.items())]
    ranked = _rank(current, [verdict for verdict in verdicts if verdict.is_admitted], policy)
    ranks = {verdict.image.sop_instance_uid: rank for rank, verdict in enumerate(ranked, start=1)}
    final = tuple(
        sorted(
            (replace(verdict, rank=ranks.get(verdict.image.sop_instance_uid)) for verdict in verdicts),
            key=lambda verdict: (verdict.rank is None, verdict.rank or 0, verdict.image.sop_instance_uid),
        )
    )
    if not ranked:
        return PriorChoice(prior=None, reasons=_reasons_for_none(current, final), verdicts=final)
    return PriorChoice(prior=ranked[0].image, reasons=_reasons(current, ranked, final), verdicts=final)


def judge_candidate(
    current: ImageFacts, image: ImageFacts, policy: PriorPolicy, known_defect: str | None = None
) -> CandidateVerdict:
    """Everything that speaks for and against one candidate by itself."""
    suitability = judge(image, policy)
    if image.sop_instance_uid == current.sop_instance_uid or image.study_instance_uid == current.study_instance_uid:
        return CandidateVerdict(image=image, view=suitability.view, in_favour=(), against=(PART_OF_CURRENT,))
    identity = compare_identity(current.patient, image.patient, policy)
    if identity.identity is not Identity.SAME:
        # Of another person nothing more is said: the report is not theirs.
        return CandidateVerdict(image=image, view=suitability.view, in_favour=(), against=(identity.sentence,))
    in_favour, against = [identity.sentence], list(_time_objections(current, image, policy))
    if is_same_exposure(current, image):
        against.append("the same exposure as the current one, sent again: nothing has changed between them")
    if known_defect is not None:
        against.append(known_defect)
    if suitability.is_fit:
        in_favour.append(suitability.sentence)
    else:
        against.append(suitability.sentence)
    return CandidateVerdict(image=image, view=suitability.view, in_favour=tuple(in_favour), against=tuple(against))


def _time_objections(current: ImageFacts, image: ImageFacts, policy: PriorPolicy) -> Iterable[str]:
    if current.taken_at is None:
        yield "the current image bears no date, so nothing is proven to be earlier"
        return
    if image.taken_at is None:
        yield "it bears no date, so it is not proven to be earlier"
        return
    now, then = _comparable(current, image)
    # The clock of another zone may show the day before: without a time of day the whole of it counts.
    latest = then if image.taken_time_known else then + _DAY
    if image.taken_at.date() == current.taken_at.date() and not (image.taken_time_known and current.taken_time_known):
        yield "taken on the same day, and without both times it is not proven to be earlier"
    elif then > now:
        yield LATER
    elif (image.zone is None) is not (current.zone is None) and now - latest < ZONE_DOUBT:
        yield "only one of the two states its time zone and they lie within hours, so it is not proven to be earlier"
    elif latest > now:
        yield "without its time of day, in another time zone, it is not proven to be earlier"
    elif image.zone is None and current.zone is None and now - latest < _DAY and _may_be_reversed(now, latest):
        yield "taken in the hour in which clocks are set forward or back, so it is not proven to be earlier"
    elif then == now:
        yield "taken at the very time of the current image"
    elif _study_moment(image) > _study_moment(current) and image.study_date and current.study_date:
        yield "its study is dated later than the current one, which contradicts its exposure time"
    if current.taken_at - image.taken_at > dt.timedelta(days=policy.look_back_days):
        yield f"older than the look-back window of {policy.look_back_days} days"


def _comparable(current: ImageFacts, image: ImageFacts) -> tuple[dt.datetime, dt.datetime]:
    """Both moments on one clock: UTC where both headers state their zone, else what the modalities' clocks showed."""
    assert current.taken_at is not None
    assert image.taken_at is not None
    if current.zone is None or image.zone is None:
        return current.taken_at, image.taken_at
    return current.taken_at - current.zone, image.taken_at - image.zone


def _may_be_reversed(now: dt.datetime, then: dt.datetime) -> bool:
    """Tell whether clocks that were set back between the two, in this machine's zone, may hide that `then` is later."""
    # `fold` says which of the two readings of a repeated hour is meant (PEP 495); nobody knows, so both are tried.
    earliest, latest = ([moment.replace(fold=fold).astimezone(dt.UTC) for fold in (0, 1)] for moment in (now, then))
    return max(latest) >= min(earliest) and now > then


def _study_moment(image: ImageFacts) -> str:
    return image.study_date + (image.study_time or "000000.000000")


def _rank(current: ImageFacts, admitted: list[CandidateVerdict], policy: PriorPolicy) -> list[CandidateVerdict]:
    """The admitted by preference, best first."""
    view = judge(current, policy).view
    rest = sorted(admitted, key=lambda verdict: _recency_order(current, verdict))
    ranked: list[CandidateVerdict] = []
    while rest:
        newest = rest[0].image.taken_at
        assert newest is not None, "an admitted candidate has a date"
        # A film of the same view goes before a newer one of another view, but only where it is hardly older; measured
        # from the newest of those that are left.
        same_view = (
            verdict
            for verdict in rest
            if view in (View.PA, View.AP)
            and verdict.view is view
            and newest - (verdict.image.taken_at or _EARLIEST) <= dt.timedelta(days=policy.same_view_days)
        )
        best = next(same_view, rest[0])
        ranked.append(best)
        rest.remove(best)
    return ranked


def _recency_order(
    current: ImageFacts, verdict: CandidateVerdict
) -> tuple[float, int, bool, tuple[int, bool, int, int, str]]:
    image = verdict.image
    assert image.taken_at is not None, "an admitted candidate has a date"
    order = rendition_order(image)
    return -(image.taken_at - _EARLIEST).total_seconds(), order[0], image.modality != current.modality, order


def _reasons(
    current: ImageFacts, ranked: list[CandidateVerdict], verdicts: tuple[CandidateVerdict, ...]
) -> tuple[str, ...]:
    """Why this prior."""
    best = ranked[0]
    image = best.image
    newest = max(verdict.image.taken_at or _EARLIEST for verdict in ranked)
    current_view = judge(current).view
    what = "the patient's most recent earlier frontal chest radiograph that this node holds"
    if image.taken_at != newest:
        what = f"the most recent earlier one of the same view ({best.view}); a newer one has another view"
    lines = [f"The prior is {what}.", f"Same person: {best.in_favour[0]}."]
    if current_view is best.view and best.view in (View.PA, View.AP):
        lines.append(f"Same view: {best.view}.")
    else:
        lines.append(f"Views: prior {best.view}, current {current_view}.")
    lines.extend(_refusal_lines(verdicts))
    return tuple(lines)


def _reasons_for_none(current: ImageFacts, verdicts: tuple[CandidateVerdict, ...]) -> tuple[str, ...]:
    if not current.patient.key.patient_id:
        return ("No comparison: the current image bears no patient ID, so no earlier one is proven the same person's.",)
    lines = _refusal_lines(verdicts)
    known = any(not verdict.against[0].startswith(_NO_NEWS) for verdict in verdicts)
    what = "no earlier image of this patient is suitable" if known else "no earlier image of this patient is known"
    return (f"No comparison: {what}.", *lines)


def _refusal_lines(verdicts: tuple[CandidateVerdict, ...]) -> list[str]:
    """The refused candidates that a radiologist may wonder about, the newest first; parts of this study and what is
    later are no news."""
    told = [
        verdict
        for verdict in verdicts
        if verdict.against and not any(clause.startswith(_NO_NEWS) for clause in verdict.against)
    ]
    told.sort(key=lambda v: (v.image.study_date, v.image.study_time, v.image.sop_instance_uid), reverse=True)
    lines = [_refusal_line(verdict) for verdict in told]
    if any(verdict.against == (SAME_ID_OTHER_ISSUER,) for verdict in verdicts):
        # Of another person's images neither date nor number is told.
        lines.append(f"Not used: images filed under {SAME_ID_OTHER_ISSUER}.")
    more = len(lines) - _REFUSED_SHOWN
    return lines if more <= 0 else [*lines[:_REFUSED_SHOWN], f"{more} more not used for reasons of the same kinds."]


def _refusal_line(verdict: CandidateVerdict) -> str:
    return f"Not used: image of {verdict.image.when}: {'; '.join(verdict.against)}."
