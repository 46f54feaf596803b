"""`dicom-node priors explain`: every image that was considered, with what speaks for and against it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, JsonOption, Row, console, open_node, print_json, print_rows
from dicom_node.priors import CandidateVerdict
from dicom_node.priors.decision import StoredDecision, stored_decisions
from dicom_node.priors.explain import as_values, explain_choice
from model.images.sandbox import decode_in_child

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY_UID", help="StudyInstanceUID of the current study.")]
LookOption = Annotated[bool, typer.Option("--look", help="Also decode every image, as the analysis does; slower.")]


def explain(
    study_uid: StudyArgument, config: ConfigOption = None, look: LookOption = False, as_json: JsonOption = False
) -> None:
    """Show which prior the analysis chose for a study, then the choice that would be made now, and why.

    Now by the headers alone, or with --look also by the pixels: no chest film, the same film sent again, a broken file.
    """
    with open_node(config) as node:
        current, choices, notes = explain_choice(study_uid, node, decode=decode_in_child if look else None)
        with node.database.read() as session:
            decided = stored_decisions(session, study_uid)
    if as_json:
        print_json({"decided": [asdict(stored) for stored in decided]} | as_values(current, choices, notes))
        return
    for decision in decided:
        _print_decision(decision)
    console.print(
        f"As it would be chosen now, by {'headers and pixels' if look else 'the headers alone'}:", style="bold"
    )
    console.print(current.sentence)
    for judged in current.judged:
        console.print(f"  {'analysed' if judged in current.chosen else 'not analysed'}: {judged.suitability.sentence}")
    for image, choice in choices:
        console.print(f"\nImage of {image.when} ({image.sop_instance_uid})")
        for reason in choice.reasons:
            console.print(f"  {reason}")
        if choice.earlier:
            dates = ", ".join(before.when for before in choice.earlier)
            console.print(f"  Also shown to a checkpoint that takes more than two images: {dates}.")
        print_rows(("rank", "taken", "view"), [_row(verdict) for verdict in choice.verdicts])
    for note in notes:
        console.print(note)


def _print_decision(decision: StoredDecision) -> None:
    """The stored decision: what the report says, whatever would be chosen now."""
    heading = f"Decided by the analysis on {decision.decided_at:%Y-%m-%d %H:%M} UTC, by headers and pixels:"
    console.print(f"{heading}\nimage {decision.sop_instance_uid or '(none)'}", style="bold")
    if decision.prior_sop_instance_uid:
        console.print(f"  compared with the image of {decision.prior_date or 'an unknown date'}")
        console.print(f"  prior image {decision.prior_sop_instance_uid}")
        console.print(f"  prior study {decision.prior_study_instance_uid}")
    else:
        console.print("  compared with no earlier image")
    for reason in decision.reasons:
        console.print(f"  {reason}")
    console.print()


def _row(verdict: CandidateVerdict) -> Row:
    """One candidate: its rank, or "-" where it may not be compared with, and what speaks for and against it."""
    clauses = [("for", text) for text in verdict.in_favour] + [("against", text) for text in verdict.against]
    return Row(
        cells=("-" if verdict.rank is None else str(verdict.rank), verdict.image.when, str(verdict.view)),
        below=(*(f"{which:7}  {text}" for which, text in clauses), verdict.image.sop_instance_uid),
    )


def register(app: typer.Typer) -> None:
    """Add `priors explain`."""
    group = typer.Typer(help="Show which earlier image a study is compared with, and why.", no_args_is_help=True)
    group.callback()(_group)
    group.command()(explain)
    app.add_typer(group, name="priors")


def _group() -> None:
    """Keeps `explain` a word of its own while it is the group's only command."""
