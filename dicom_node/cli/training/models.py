"""The `models` commands: which checkpoint answers, how it is read, and the way back."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_node.admin.formats import label, percent
from dicom_node.cli.common import ConfigOption, JsonOption, Row, console, errors, open_node, print_json, print_rows
from dicom_node.errors import UsageError
from dicom_node.serving import promotion as models
from dicom_node.serving import shadow
from dicom_node.serving import shadow_comparison as shadow_figures
from dicom_node.serving.status import (
    Effect,
    figure_lines,
    folder_of,
    history_lines,
    model_lines,
    model_values,
    wait_for_effect,
)
from dicom_node.serving.workers import serving_lines

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Folder of the checkpoint below data_dir/models.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept in journal and audit.")]
WaitOption = Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for the running workers to switch.")]
WAIT_SECONDS = 60.0
SIDES = ("champion", "challenger")
DECISIVE = ("presence_auroc", "change_f1")
"""Figures of a checkpoint that `promote` shows to whoever decides."""


def list_command(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the checkpoints of the models folder, the one that answers, and the workers that use it."""
    with open_node(config) as node:
        with node.database.read() as session:
            challenger = shadow.challenger(session, node.settings)
            serving, history = serving_lines(session, node.clock()), history_lines(session, limit=20)
        lines = model_lines(node, shadow=challenger)
    if as_json:
        print_json({"models": lines, "serving": serving, "history": history, "shadow": challenger})
        return
    rows = []
    for line in lines:
        mark = "champion" if line["champion"] else "shadow" if line["shadow"] else ""
        size = f"{line['bytes'] / 1e6:.0f} MB" if line["bytes"] is not None else ""
        cells = (mark, line["folder"] or "(configured)", f"{line['name']} {line['version']}".strip(), size)
        rows.append(Row(cells=cells, below=(line["device_uid"], line["problem"])))
    print_rows(("", "folder", "model", "size"), rows)
    for line in serving:
        text = (
            f"worker {line['worker']} has used {line['folder'] or 'the configured model'} since {line['since']:%F %T}"
        )
        console.print(f"{text}{'; ' + line['error'] if line['error'] else ''}")


def show_command(name: NameArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Verify a checkpoint's files and show its manifest and history. Exit 1 if it is refused."""
    with open_node(config) as node:
        values = model_values(node, name)
    if as_json:
        print_json(values)
    else:
        for key in ("folder", "name", "version", "device_uid", "champion", "bytes"):
            console.print(f"{key.replace('_', ' '):12} {values[key]}")
        for line in figure_lines(values.get("manifest", {}).get("metrics", {})):
            console.print(f"{'measured':12} {line}")
        for line in values["history"]:
            console.print(f"{line['at']:%F %T}  {line['kind']} by {line['who']}  {line['reason']}")
    if values["problem"]:
        errors.print(values["problem"])
        raise typer.Exit(1)


def promote_command(
    name: NameArgument,
    reason: ReasonOption = "",
    wait: WaitOption = WAIT_SECONDS,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a checkpoint the champion. Running workers switch without a restart. Exit 1 if one cannot."""
    with open_node(config) as node:
        folder_of(node.models_dir, name)
        manifest = models.promote(node, name, who=getpass.getuser(), reason=reason)
        effect = wait_for_effect(node, name, seconds=wait)
    if not as_json:
        for line in figure_lines(manifest.metrics, only=DECISIVE) or ["its manifest has no figures"]:
            console.print(f"measured: {line}")
    _report(f"{name} is the champion", name, manifest.device_uid, effect, as_json=as_json)


def rollback_command(
    reason: ReasonOption = "",
    wait: WaitOption = WAIT_SECONDS,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Return to the previous champion, or to the configured model if there is none."""
    with open_node(config) as node:
        manifest = models.rollback(node, who=getpass.getuser(), reason=reason)
        folder = models.champion(node.models_dir)
        effect = wait_for_effect(node, folder, seconds=wait)
    uid = manifest.device_uid if manifest is not None else ""
    _report(f"{folder or 'the configured model'} answers again", folder, uid, effect, as_json=as_json)


def _report(sentence: str, folder: str, device_uid: str, effect: Effect, *, as_json: bool) -> None:
    if as_json:
        values: dict[str, Any] = {"champion": folder, "device_uid": device_uid, "seconds": round(effect.seconds, 3)}
        lists = {"workers": effect.workers, "waiting": effect.waiting, "errors": effect.errors}
        print_json(values | {key: list(value) for key, value in lists.items()})
    else:
        console.print(sentence)
        if effect.workers:
            console.print(f"in effect after {effect.seconds:.1f} s at {', '.join(effect.workers)}")
        elif not effect.waiting and not effect.errors:
            console.print("no worker has a model loaded: it takes effect with the next study")
    for error in effect.errors:
        errors.print(f"not loaded: {error}")
    if effect.waiting:
        errors.print(f"not yet in effect after {effect.seconds:.0f} s at {', '.join(effect.waiting)}")
    if effect.errors or effect.waiting:
        raise typer.Exit(1)


def shadow_command(
    name: Annotated[str, typer.Argument(metavar="NAME|off|default", help="A checkpoint; default: as configured.")],
    config: ConfigOption = None,
) -> None:
    """Let a challenger answer live studies without being reported, or stop it."""
    with open_node(config) as node:
        chosen = shadow.choose(node, name, who=getpass.getuser())
    console.print(f"{chosen} runs in the shadow" if chosen else "nothing runs in the shadow")


def disagreements_command(
    name: NameArgument,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Greatest number of results.")] = 50,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List results on which the shadow challenger disagrees with the report, newest first."""
    with open_node(config) as node, node.database.read() as session:
        folder_of(node.models_dir, name)
        summary, lines = shadow_figures.summary(session, name), shadow_figures.disagreements(session, name, limit=limit)
    if as_json:
        print_json({"summary": summary, "disagreements": lines})
        return
    console.print(
        f"{summary['answered']} studies answered, {summary['disagreeing']} with a disagreement, "
        f"{summary['failed']} without an answer"
    )
    rows = [
        Row(
            cells=(
                difference["finding"].replace("_", " "),
                label(difference["aspect"]),
                *(_word_of(difference, who) for who in SIDES),
            ),
            below=(line["study_instance_uid"],),
        )
        for line in lines
        for difference in line["differences"]
    ]
    print_rows(("finding", "what", "report", "challenger"), rows)


def _word_of(difference: dict[str, Any], who: str) -> str:
    probability = difference[f"{who}_probability"]
    return label(difference[who]) + (f" ({percent(probability)})" if probability is not None else "")


def export_command(
    name: NameArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a copy of a checkpoint that vLLM loads (docs/serving.md)."""
    from model.checkpoints.vllm_export import export_for_vllm
    from model.errors import CheckpointError

    with open_node(config) as node:
        source = folder_of(node.models_dir, name)
        try:
            changed = export_for_vllm(source, folder)
        except CheckpointError as error:
            raise UsageError(str(error)) from error
    if as_json:
        print_json({"folder": str(folder), "renamed": changed})
    else:
        console.print(f"{folder}: {len(changed)} weights have another name there; next: vllm serve {folder}")


def register(app: typer.Typer) -> None:
    """Add the `models` commands."""
    from dicom_node.cli.training.calibrate import calibrate_command

    group = typer.Typer(name="models", help="List, promote, roll back and calibrate checkpoints.", no_args_is_help=True)
    group.command("list")(list_command)
    group.command("show")(show_command)
    group.command("promote")(promote_command)
    group.command("rollback")(rollback_command)
    group.command("shadow")(shadow_command)
    group.command("export")(export_command)
    group.command("disagreements")(disagreements_command)
    group.command("calibrate")(calibrate_command)
    app.add_typer(group)
