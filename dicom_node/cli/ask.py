"""`dicom-node ask`: a question on one study, answered out of its result."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, JsonOption, console, open_node, print_json
from dicom_node.errors import UsageError


def ask_command(
    study_uid: Annotated[str, typer.Argument(metavar="STUDY_UID", help="StudyInstanceUID of the study.")],
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help='The question, such as "Is there a pneumothorax?".')
    ],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a question about one study from its current result, or say why it cannot be answered.

    Ask about one finding that the checkpoint was trained on (present, side, degree, change), or about
    everything that is seen or has changed. The question and its answer are kept with the study and never enter a
    report. Exit status 1 where the question is refused.
    """
    from dicom_node.admin import operations
    from dicom_node.index.queries import study_by_uid
    from dicom_node.questions.ask import ask, is_demonstration, question_values

    who = getpass.getuser()
    with open_node(config) as node, node.database.write() as session:
        study = study_by_uid(session, study_uid)
        if study is None:
            raise UsageError(f"no study {study_uid} in the index; `dicom-node studies` lists them")
        now = node.clock()
        row = ask(session, study, question, author=who, now=now)
        operations.record_change(session, node.settings, study, now=now, who=who)
        values = question_values(row, demonstration=is_demonstration(session, row))
    if as_json:
        print_json(values)
    else:
        certainty = f" ({values['certainty']:.0%})" if values["certainty"] is not None else ""
        console.print(f"{values['answer']}{certainty}")
        for uid in values["images"]:
            console.print(f"  image {uid}")
        if values["demonstration"]:
            console.print("  The model is a demonstration, not for clinical use.")
    if values["refused"]:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ask")(ask_command)
