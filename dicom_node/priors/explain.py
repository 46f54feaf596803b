"""The images of a study to analyse and their priors: the choice as it would be made now, in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydicom import Dataset

from dicom_node.context import NodeContext
from dicom_node.dicom.read import read_object
from dicom_node.dicom.rejection_notes import withdrawn_by
from dicom_node.errors import StorageError, UnreadableObjectError, UsageError
from dicom_node.index.queries import instances_of_study, prior_candidates, study_by_uid
from dicom_node.index.tables.core import Instance
from dicom_node.priors import (
    CandidateVerdict,
    CurrentChoice,
    ImageFacts,
    PriorChoice,
    PriorPolicy,
    choose_prior,
    facts_of,
    facts_of_rows,
    image_check,
    linked_ids,
    patient_of_row,
    policy_in_service,
    same_picture,
    select_current,
)
from dicom_node.priors.disputes import DISPUTED, find_disputed_uids
from dicom_node.priors.search_notes import search_notes
from dicom_node.priors.series import choose_earlier
from model.checks.frontal_view import check_view
from model.errors import PixelError
from model.schema import DisplayImage

Decode = Callable[[Path], DisplayImage]


@dataclass(slots=True, kw_only=True)
class _ExplainedImage:
    """Images that were decoded, and why others could not be, by SOPInstanceUID."""

    images: dict[str, DisplayImage] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def at(self, row: Instance, facts: ImageFacts, node: NodeContext, decode: Decode) -> ImageFacts:
        """The same facts with what the pixels say."""
        if not facts.has_pixels:
            return facts
        try:
            seen = decode(node.store.path(row.path))
        except (PixelError, StorageError) as error:
            self.failures[facts.sop_instance_uid] = str(error)
            return facts
        self.images[facts.sop_instance_uid] = seen
        return replace(facts, pixel_sha256=seen.sha256, check=image_check(check_view(seen)))

    def same_as(self, uid: str) -> list[str]:
        """The other images that show the same film."""
        seen = self.images.get(uid)
        return [other for other, image in self.images.items() if seen and other != uid and same_picture(seen, image)]


def explain_choice(
    study_instance_uid: str, node: NodeContext, *, decode: Decode | None = None
) -> tuple[CurrentChoice, list[tuple[ImageFacts, PriorChoice]], tuple[str, ...]]:
    """The choice as the analysis would make it now. Raises UsageError for a study that the node does not hold.

    decode: look at the pixels too, of every image and every candidate. Without it the headers alone speak, which is
    quick and misses what only a look tells: no chest film at all, the same film sent again, a file that is broken.
    """
    policy = policy_in_service(node.settings)
    with node.database.read() as session:
        study = study_by_uid(session, study_instance_uid)
        if study is None:
            raise UsageError(f"no study {study_instance_uid} in the index")
        own = instances_of_study(session, study.id)
        others = linked_ids(patient_of_row(study), policy)
        rows = prior_candidates(session, study, look_back_days=policy.look_back_days, other_ids=others)
        notes = search_notes(session, study)
    looked = _ExplainedImage()
    known = _mark_doubts([_facts(row, node) for row in (*own, *rows)], node, policy)

    def facts_of_all(held: Sequence[Instance]) -> list[ImageFacts]:
        facts = [known[row.sop_instance_uid] for row in held]
        if decode is None:
            return facts
        return [looked.at(row, fact, node, decode) for row, fact in zip(held, facts, strict=True)]

    current, candidates = select_current(facts_of_all(own), policy), facts_of_all(rows)
    broken = list(looked.failures.items())
    choices = []
    for judged in current.chosen:
        uid = judged.image.sop_instance_uid
        same = looked.same_as(uid)
        choice = choose_prior(judged.image, candidates, policy, same_picture=same, unreadable=broken)
        # The prior itself is one of `max_priors`.
        before = choose_earlier(choice, candidates, policy, most=policy.max_priors - 1)
        choices.append((judged.image, replace(choice, earlier=before)))
    unread = tuple(f"Image {uid} cannot be read: {why}." for uid, why in looked.failures.items())
    return current, choices, (*notes, *unread)


def _facts(row: Instance, node: NodeContext) -> tuple[ImageFacts, Dataset]:
    """From the header; from the index where the file cannot be read."""
    try:
        header = read_object(node.store.path(row.path))
    except (OSError, UnreadableObjectError, StorageError):
        return facts_of_rows(row.series.study, row.series, row), Dataset()
    facts = facts_of(header, has_pixels=row.rows is not None, pixel_sha256=row.pixel_sha256)
    # A header may lie about its own UID; the index's is that of the file.
    return replace(facts, sop_instance_uid=row.sop_instance_uid), header


def _mark_doubts(
    read: Sequence[tuple[ImageFacts, Dataset]], node: NodeContext, policy: PriorPolicy
) -> dict[str, ImageFacts]:
    """By SOPInstanceUID, with the marks of rejection notes and of disputed UIDs, as the analysis sets them."""
    withdrawn = withdrawn_by(header for _, header in read)
    claimed = find_disputed_uids(node, {facts.sop_instance_uid: facts.patient for facts, _ in read}, policy)
    return {
        (uid := facts.sop_instance_uid): replace(
            facts,
            withdrawn=withdrawn.get((facts.study_instance_uid, uid), ""),
            disputed=DISPUTED if uid in claimed else "",
        )
        for facts, _ in read
    }


def as_values(
    current: CurrentChoice, choices: list[tuple[ImageFacts, PriorChoice]], notes: tuple[str, ...]
) -> dict[str, Any]:
    """The same as plain values, for JSON and pages."""
    return {
        "current": current.sentence,
        "images": [
            {
                "sop_instance_uid": judged.image.sop_instance_uid,
                "analysed": judged in current.chosen,
                "verdict": judged.suitability.sentence,
            }
            for judged in current.judged
        ],
        "choices": [
            {
                "sop_instance_uid": image.sop_instance_uid,
                "prior": choice.prior.sop_instance_uid if choice.prior else None,
                "prior_study": choice.prior.study_instance_uid if choice.prior else None,
                "reasons": choice.reasons,
                "earlier": [before.sop_instance_uid for before in choice.earlier],
                "candidates": [_verdict_values(verdict) for verdict in choice.verdicts],
            }
            for image, choice in choices
        ],
        "notes": notes,
    }


def _verdict_values(verdict: CandidateVerdict) -> dict[str, Any]:
    return {
        "rank": verdict.rank,
        "sop_instance_uid": verdict.image.sop_instance_uid,
        "study_instance_uid": verdict.image.study_instance_uid,
        "taken": verdict.image.when,
        "view": verdict.view,
        "for": verdict.in_favour,
        "against": verdict.against,
    }
