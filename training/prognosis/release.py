"""Give a checkpoint a prognosis head that was learned from phantom courses, measured on courses that nothing else saw.

    python -m training.prognosis.release CHECKPOINT --to FOLDER --work WORK --version 4

The checkpoint reads rendered courses (kept in WORK/readings, so that a later start goes on); a head is fitted on many
more courses whose readings are drawn from those; its temperature is fitted and its figures are measured on rendered
courses of other seeds. What its own figures do not allow is not stated (`findings_to_state`).
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from model.checkpoints.manifest import MANIFEST_NAME, Manifest, read_manifest, write_manifest
from model.errors import ModelError
from model.predict import Predictor, load_predictor
from model.prognosis.foresight import Foresight
from model.prognosis.head import PrognosisHead
from model.prognosis.inputs import SETTINGS
from training.phantom.ceiling import Knowledge, best_answers
from training.phantom.course import Story, sample_story
from training.phantom.scene import PHANTOM_FINDINGS
from training.prognosis.fit import Case, FitOptions, arrays, fit_head, fit_temperature, vary_case
from training.prognosis.measure import SettingScore, Shares, as_table, commonest_answers, measure
from training.prognosis.phantoms import case_of, phantom_vocabulary, pools_of, simulate_cases
from training.readers.phantom import COURSE, phantom_image

READ_SEED, CALIBRATION_SEED, TEST_SEED = 3_000_600, 3_000_700, 9_100_000
SIMULATED_SEED = 4_000_000
LEAST_SKILL = 0.5
"""Skill in a setting, at the low end of its interval, from which anything is stated in it."""
LEAST_GAIN = 0.02
"""By which a finding's accuracy must lie above that of its commonest answer."""
GREATEST_ERROR = 0.05
"""Calibration error of a setting up to which anything is stated in it."""


def read_courses(predictor: Predictor, first_seed: int, count: int, folder: Path) -> dict[int, NDArray[np.float64]]:
    """Seed -> readings [films, findings, 4] of rendered courses; those that lie in the folder are not read again."""
    folder.mkdir(parents=True, exist_ok=True)
    blind = PrognosisHead(vocabulary=phantom_vocabulary(), weights={})
    foresight = Foresight(predictor.vlm, predictor.engine, blind, stated={}, calibrated=predictor.calibrate_answer)
    found = {}
    for seed in range(first_seed, first_seed + count):
        path = folder / f"{seed}.npy"
        if not path.is_file():
            films = len(sample_story(seed).seen)
            images = [phantom_image(f"{COURSE}{seed}/{number}") for number in range(films)]
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                np.save(file, np.stack(foresight.readings(images)))
            partial.replace(path)
        found[seed] = np.load(path)
    return found


def cases_of(readings: Mapping[int, NDArray[np.float64]]) -> Iterator[tuple[int, Story, int, Case]]:
    """(seed, story, number of the current film, case) of every film but the first two and the last, so that all
    settings differ."""
    for seed, read in readings.items():
        story = sample_story(seed)
        for current in range(2, len(story.seen) - 1):
            yield seed, story, current, case_of(story, list(read), current)


def learn_head(
    read: Mapping[int, NDArray[np.float64]],
    calibration: Mapping[int, NDArray[np.float64]],
    *,
    courses: int,
    options: FitOptions | None = None,
) -> tuple[PrognosisHead, dict[str, str]]:
    """The head and the commonest answers of its training courses."""
    rng = np.random.default_rng(0)
    seen = [film for seed in read for film in sample_story(seed).seen]
    pools = pools_of([film for films in read.values() for film in films], seen)
    cases = simulate_cases(courses, SIMULATED_SEED, pools, rng)
    vocabulary = phantom_vocabulary()
    head = fit_head(*arrays([vary_case(case, rng) for case in cases], vocabulary), vocabulary, options)
    shown = [vary_case(case, rng) for _, _, _, case in cases_of(calibration) for _ in range(4)]
    return fit_temperature(head, *arrays(shown, vocabulary)), commonest_answers(cases)


def measure_head(
    head: PrognosisHead, test: Mapping[int, NDArray[np.float64]], commonest: Mapping[str, str], resamples: int = 1000
) -> list[SettingScore]:
    """The figures of every setting, beside the ceiling of a reader without errors."""
    cases = list(cases_of(test))

    def best(number: int, setting: str) -> Shares:
        _, story, current, _ = cases[number]
        return best_answers(story.seen[: current + 1], story.cadence, Knowledge(setting))

    named = [(str(seed), case) for seed, _, _, case in cases]
    return measure(named, head.probabilities, SETTINGS_IN_ORDER, commonest, best=best, resamples=resamples)


SETTINGS_IN_ORDER = ("current", "both", "all", "all and chart", "both and chart", "current and chart")


def findings_to_state(scores: Sequence[SettingScore]) -> dict[str, tuple[str, ...]]:
    """Setting -> findings of which the next image may be foretold, by the setting's and the finding's own figures."""
    stated = {}
    for score in scores:
        allowed = score.skill is not None and score.skill[1] >= LEAST_SKILL and score.ece <= GREATEST_ERROR
        keys = [key for key in PHANTOM_FINDINGS if score.by_finding[key][0] >= score.by_finding[key][1] + LEAST_GAIN]
        stated[score.setting] = tuple(keys) if allowed else ()
    assert set(stated) == set(SETTINGS)
    return stated


def release(
    checkpoint: Path, folder: Path, head: PrognosisHead, scores: Sequence[SettingScore], version: str
) -> Manifest:
    """A copy of the checkpoint with the head and what it may state. Raises CheckpointError."""
    old = read_manifest(checkpoint)
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(checkpoint, draft, ignore=shutil.ignore_patterns(MANIFEST_NAME))
    head.save(draft)
    stated = findings_to_state(scores)
    values = {name: getattr(old, name) for name in Manifest.model_fields if name not in ("device_uid", "files")}
    values |= {
        "version": version,
        "prognosis": any(stated.values()),
        "prognosis_findings": stated,
        "metrics": {**old.metrics, "phantom courses": {score.setting: _figures(score) for score in scores}},
    }
    manifest = write_manifest(draft, **values)
    draft.replace(folder)
    return manifest


def _figures(score: SettingScore) -> dict[str, Any]:
    rounded = {name: value for name, value in asdict(score).items() if name not in ("setting", "by_finding")}
    text = json.dumps(rounded | {"by_finding": score.by_finding})
    return dict(json.loads(text, parse_float=lambda digits: round(float(digits), 4)))


def main(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint folder that reads phantoms")],
    to: Annotated[Path, typer.Option(help="the new checkpoint folder")],
    work: Annotated[Path, typer.Option(help="readings and tables; a later start goes on from them")],
    version: Annotated[str, typer.Option(help="of the new checkpoint")],
    read: Annotated[int, typer.Option(help="courses whose readings are drawn from")] = 100,
    calibrate: Annotated[int, typer.Option(help="courses of the temperature")] = 50,
    test: Annotated[int, typer.Option(help="held-out courses of the figures")] = 150,
    simulate: Annotated[int, typer.Option(help="courses without films that the head learns from")] = 8000,
) -> None:
    """Learn a prognosis head for CHECKPOINT."""
    stages = (("read", READ_SEED, read), ("calibrate", CALIBRATION_SEED, calibrate), ("test", TEST_SEED, test))
    try:
        predictor = load_predictor(checkpoint)
        sets = {}
        for name, seed, count in stages:
            sets[name] = read_courses(predictor, seed, count, work / "readings")
            print(f"{name}: {count} courses read", flush=True)
        head, commonest = learn_head(sets["read"], sets["calibrate"], courses=simulate)
        scores = measure_head(head, sets["test"], commonest)
        manifest = release(checkpoint, to, head, scores, version)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    table = "\n".join(as_table(scores))
    (work / "prognosis.md").write_text(table + "\n", "utf-8")
    print(f"{table}\n{manifest.label}: {manifest.prognosis_findings}")


if __name__ == "__main__":
    typer.run(main)
