"""`dicom-node priors explain`: every image that was considered, with what speaks for and against it."""

from __future__ import annotations

from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, JsonOption, Row, console, open_node, print_json, print_rows
from dicom_node.priors import CandidateVerdict
from dicom_node.priors.explain import as_values, explain_choice
from model.images.sandbox import decode_in_child

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY_UID", help="StudyInstanceUID of the current study.")]
LookOption = Annotated[bool, typer.Option("--look", help="Also decode every image, as the analysis does; slower.")]


def explain(
    study_uid: StudyArgument, config: ConfigOption = None, look: LookOption = False, as_json: JsonOption = False
) -> None:
    """Say which images of a study are analysed and which earlier image each is compared with, and why.

    By the headers alone, or with --look also by the pixels: no chest film, the same film sent again, a broken file.
    """
    with open_node(config) as node:
        current, choices, notes = explain_choice(study_uid, node, decode=decode_in_child if look else None)
    if as_json:
        print_json(as_values(current, choices, notes))
        return
    console.print(current.sentence)
    for judged in current.judged:
        console.print(f"  {'analysed' if judged in current.chosen else 'not analysed'}: {judged.suitability.sentence}")
    for image, choice in choices:
        console.print(f"\nImage of {image.when} ({image.sop_instance_uid})")
        for reason in choice.reasons:
            console.print(f"  {reason}")
        if choice.earlier:
            dates = ", ".join(before.when for before in choice.earlier)
            console.print(f"  Shown as well where the checkpoint takes so many images: {dates}.")
        print_rows(("rank", "taken", "view"), [_row(verdict) for verdict in choice.verdicts])
    for note in notes:
        console.print(note)


def _row(verdict: CandidateVerdict) -> Row:
    """One candidate: its rank, or "-" where it may not be compared with, and what speaks for and against it."""
    said = [("for", text) for text in verdict.in_favour] + [("against", text) for text in verdict.against]
    return Row(
        cells=("-" if verdict.rank is None else str(verdict.rank), verdict.image.when, str(verdict.view)),
        below=(*(f"{which:7}  {text}" for which, text in said), verdict.image.sop_instance_uid),
    )


def register(app: typer.Typer) -> None:
    """Add `priors explain`."""
    group = typer.Typer(help="Show which earlier image a study is compared with, and why.", no_args_is_help=True)
    group.callback()(_group)
    group.command()(explain)
    app.add_typer(group, name="priors")


def _group() -> None:
    """Keeps `explain` a word of its own while it is the group's only command."""
