"""Readings of a checkpoint's film classifier on each film of whole series, for `training.prognosis.series --readings`.

    python -m training.prognosis.film_readings CHECKPOINT --series FOLDER --out readings.npz

Only films that the classifier did not learn from: those of the patients that chose and calibrated it, and the dev part.
A film's probability is that of the film alone by the manifest's rules (`model.film_rules`, rule 1).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from model.errors import CheckpointError, ModelError
from model.experts.film_classifier import FilmClassifier
from model.film_rules import FilmRule, film_log_odds
from model.predict import load_predictor
from training.films.finish import open_film_set
from training.records.record import Split

BATCH = 16


def film_probabilities(
    classifier: FilmClassifier, rules: Mapping[str, FilmRule], squares: NDArray[np.uint8]
) -> Iterator[list[float]]:
    """For each grey square [N, SIDE, SIDE] the probability of each finding that has a rule, in the rules' order."""
    for start in range(0, len(squares), BATCH):
        grey = torch.from_numpy(squares[start : start + BATCH].astype(np.float32) / 255.0)
        for view in classifier.look_at_squares(grey[:, None]):
            yield [1.0 / (1.0 + math.exp(-film_log_odds(view.scores(key), rule))) for key, rule in rules.items()]


def save_readings(path: Path, ids: Sequence[str], findings: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
    """Write the file that `training.prognosis.series.read_readings` reads."""
    with path.open("wb") as file:
        np.savez(file, ids=np.array(ids), findings=np.array(findings), probabilities=np.array(rows))


def main(
    checkpoint: Annotated[Path, typer.Argument(help="folder of a checkpoint with a film classifier")],
    series: Annotated[Path, typer.Option(help="folder nih_series; the folder nih beside it is read too")],
    out: Annotated[Path, typer.Option(help="the file to write, .npz")],
    cache: Annotated[Path | None, typer.Option(help="file that keeps the decoded films (.npz)")] = None,
) -> None:
    """Read the films and write their probabilities."""
    try:
        reader = load_predictor(checkpoint).films
        if reader is None:
            raise CheckpointError(f"{checkpoint}: has no film classifier; see python -m training.films.finish")
        films = open_film_set(series, cache)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    rows = np.flatnonzero(films.is_validation | (films.splits == Split.VALIDATE.value))
    rules = reader.reading.findings
    read = list(film_probabilities(reader.classifier, rules, films.squares[rows]))
    save_readings(out, films.names[rows].tolist(), list(rules), read)
    print(f"{out}: {len(read)} films, {len(rules)} findings")


if __name__ == "__main__":
    typer.run(main)
