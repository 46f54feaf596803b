"""`dicom-node priors explain`: every image that was considered, with what speaks for and against it."""

from __future__ import annotations

from typing import Annotated, Any

import pydicom
import typer
from rich.table import Table

from dicom_node.cli.common import ConfigOption, JsonOption, console, open_node, print_json
from dicom_node.context import NodeContext
from dicom_node.errors import StorageError, UsageError
from dicom_node.index.queries import instances_of_study, prior_candidates, study_by_uid
from dicom_node.index.tables import Instance
from dicom_node.priors import (
    CandidateVerdict,
    CurrentChoice,
    ImageFacts,
    PriorChoice,
    choose_prior,
    facts_of,
    facts_of_rows,
    linked_ids,
    patient_of_row,
    policy_of,
    prefetch,
    select_current,
)

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY_UID", help="StudyInstanceUID of the current study.")]


def explain(study_uid: StudyArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Say which images of a study are analysed and which earlier image each is compared with, and why.

    By the headers: what looking at the pixels adds (view check, the same film sent again) only the analysis knows.
    """
    with open_node(config) as node:
        current, choices, notes = explained(study_uid, node)
    if as_json:
        print_json(_as_values(current, choices, notes))
        return
    console.print(current.sentence)
    for judged in current.judged:
        console.print(f"  {'analysed' if judged in current.chosen else 'not analysed'}: {judged.suitability.sentence}")
    for image, choice in choices:
        console.print(f"\nImage of {image.when} ({image.sop_instance_uid})")
        for reason in choice.reasons:
            console.print(f"  {reason}")
        console.print(_table(choice))
    for note in notes:
        console.print(note)


def explained(
    study_uid: str, node: NodeContext
) -> tuple[CurrentChoice, list[tuple[ImageFacts, PriorChoice]], tuple[str, ...]]:
    """The choice as the analysis would make it now. Raises UsageError for a study that the node does not hold."""
    policy = policy_of(node.settings)
    with node.database.read() as session:
        study = study_by_uid(session, study_uid)
        if study is None:
            raise UsageError(f"no study {study_uid} in the index")
        own = instances_of_study(session, study.id)
        others = linked_ids(patient_of_row(study), policy)
        rows = prior_candidates(session, study, look_back_days=policy.look_back_days, other_ids=others)
        notes = prefetch.notes(session, study)
    current = select_current([_facts(row, node) for row in own], policy)
    candidates = [_facts(row, node) for row in rows]
    choices = [(judged.image, choose_prior(judged.image, candidates, policy)) for judged in current.chosen]
    return current, choices, notes


def _facts(row: Instance, node: NodeContext) -> ImageFacts:
    """From the header; from the index where the file cannot be read."""
    try:
        header = pydicom.dcmread(node.store.path(row.path), stop_before_pixels=True, force=True)
    except (OSError, ValueError, KeyError, AttributeError, NotImplementedError, StorageError):
        return facts_of_rows(row.series.study, row.series, row)
    return facts_of(header, has_pixels=row.rows is not None, pixel_sha256=row.pixel_sha256)


def _table(choice: PriorChoice) -> Table:
    table = Table("rank", "taken", "view", "for", "against", "SOPInstanceUID")
    for verdict in choice.verdicts:
        rank = "-" if verdict.rank is None else str(verdict.rank)
        cells = (verdict.image.when, verdict.view, "\n".join(verdict.in_favour), "\n".join(verdict.against))
        table.add_row(rank, *cells, verdict.image.sop_instance_uid)
    return table


def _as_values(
    current: CurrentChoice, choices: list[tuple[ImageFacts, PriorChoice]], notes: tuple[str, ...]
) -> dict[str, Any]:
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


def register(app: typer.Typer) -> None:
    """Add `priors explain`."""
    group = typer.Typer(help="Which earlier image is compared with, and why.", no_args_is_help=True)
    group.callback()(_group)
    group.command()(explain)
    app.add_typer(group, name="priors")


def _group() -> None:
    """Keeps `explain` a word of its own while it is the group's only command."""
