"""Give a checkpoint a prognosis head that was learned from phantom courses, measured on courses that nothing else saw.

    python -m training.prognosis.release CHECKPOINT --to FOLDER --work WORK --version 4

The checkpoint reads rendered courses (kept in WORK/readings, so that a later start goes on); a head is fitted on many
more courses whose readings are drawn from those; its temperature is fitted and its figures are measured on rendered
courses of other seeds. What its own figures do not allow is not stated (`findings_to_state`). With --head the head that
lies there is measured and taken instead of a new one.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from model.checkpoints.files import MANIFEST_NAME
from model.checkpoints.manifest import Manifest, read_manifest, write_manifest
from model.checkpoints.prognosis_evidence import PrognosisEvidence, SettingFigures
from model.errors import CheckpointError, ModelError
from model.experts.film_classifier import FilmKind
from model.predict import Predictor, load_predictor
from model.prognosis.foresight import Foresight
from model.prognosis.head import FILE, PrognosisHead, read_head
from model.prognosis.inputs import SETTINGS
from training.metrics.forecasts import SettingScore, Shares, as_table
from training.phantom.ceiling import Knowledge, best_answers
from training.phantom.course import Story, sample_story
from training.phantom.process import CADENCES
from training.phantom.scene import PHANTOM_FINDINGS
from training.prognosis.fit import FitOptions, PrognosisCase, fit_head, fit_temperature, make_arrays, vary_case
from training.prognosis.measure import commonest_answers, measure
from training.prognosis.phantoms import case_of, exact_cases, phantom_vocabulary, pools_of, simulate_cases
from training.readers.phantom import COURSE, load_phantom_image

READ_SEED, CALIBRATION_SEED, TEST_SEED = 3_000_600, 3_000_700, 9_100_000
SIMULATED_SEED = 4_000_000
COMMONEST_COURSES = 2000
"""Courses whose commonest answers a head that was not learned here is measured against."""
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
    readings = {}
    for seed in range(first_seed, first_seed + count):
        path = folder / f"{seed}.npy"
        if not path.is_file():
            films = len(sample_story(seed).seen)
            images = [load_phantom_image(f"{COURSE}{seed}/{number}") for number in range(films)]
            # By rename: a run that was cut off leaves no half file to be read as a whole one.
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                np.save(file, np.stack(foresight.readings(images)))
            partial.replace(path)
        readings[seed] = np.load(path)
    return readings


def cases_of(readings: Mapping[int, NDArray[np.float64]]) -> Iterator[tuple[int, Story, int, PrognosisCase]]:
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
    # Varied before fitting: parts of what is known are left out, as they are at a real site.
    head = fit_head(*make_arrays([vary_case(case, rng) for case in cases], vocabulary), vocabulary, options)
    shown = [vary_case(case, rng) for _, _, _, case in cases_of(calibration) for _ in range(4)]
    return fit_temperature(head, *make_arrays(shown, vocabulary)), commonest_answers(cases)


def _head_in(folder: Path) -> PrognosisHead:
    head = read_head(folder)
    if head is None:
        raise CheckpointError(f"{folder}: holds no {FILE}; without --head a new head is learned")
    return head


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
        # The lower end of its interval, not the value: a skill that may be chance is not stated.
        allowed = score.skill is not None and score.skill[1] >= LEAST_SKILL and score.ece <= GREATEST_ERROR
        keys = [key for key in PHANTOM_FINDINGS if score.by_finding[key][0] >= score.by_finding[key][1] + LEAST_GAIN]
        stated[score.setting] = tuple(keys) if allowed else ()
    assert set(stated) == set(SETTINGS)
    return stated


def release(
    checkpoint: Path, folder: Path, head: PrognosisHead, scores: Sequence[SettingScore], version: str, data: str
) -> Manifest:
    """A copy of the checkpoint with the head and what it may state; data: what it was measured on, in words.

    Raises CheckpointError.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} is there already; a checkpoint is never overwritten")
    old = read_manifest(checkpoint)
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(checkpoint, draft, ignore=shutil.ignore_patterns(MANIFEST_NAME))
    head.save(draft)
    stated = findings_to_state(scores)
    evidence = PrognosisEvidence(
        data=data,
        kinds=(FilmKind.PHANTOM.value,),
        longest_gap=max(CADENCES),
        settings={score.setting: setting_figures(score) for score in scores},
    )
    by_finding = {score.setting: _round_numbers(score.by_finding) for score in scores}
    values = {name: getattr(old, name) for name in Manifest.model_fields if name not in ("device_uid", "files")}
    values |= {
        "version": version,
        "base": f"{old.label} {old.device_uid}",
        "parameters": old.parameters + head.size - _size_of(read_head(checkpoint)),
        "prognosis": any(stated.values()),
        "prognosis_findings": stated,
        "prognosis_evidence": evidence,
        "metrics": {**old.metrics, "prognosis, accuracy, commonest and ceiling by finding": by_finding},
    }
    manifest = write_manifest(draft, **values)
    draft.replace(folder)
    return manifest


def setting_figures(score: SettingScore) -> SettingFigures:
    """The figures of a setting as the manifest keeps them."""
    return SettingFigures(
        answers=score.answers,
        accuracy=_round_numbers(score.accuracy),
        commonest=round(score.common, 4),
        ceiling=_round_numbers(score.ceiling),
        skill=_round_numbers(score.skill),
        calibration_error=round(score.ece, 4),
    )


def _round_numbers(value: Any) -> Any:
    """The value with four digits behind the point in every number, tuples as lists."""
    return json.loads(json.dumps(value), parse_float=lambda digits: round(float(digits), 4))


def _size_of(head: PrognosisHead | None) -> int:
    return head.size if head is not None else 0


def main(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint folder that reads phantoms")],
    to: Annotated[Path, typer.Option(help="the new checkpoint folder")],
    work: Annotated[Path, typer.Option(help="readings and tables; a later start continues from them")],
    version: Annotated[str, typer.Option(help="of the new checkpoint")],
    read: Annotated[int, typer.Option(help="courses whose readings are drawn from")] = 100,
    calibrate: Annotated[int, typer.Option(help="courses of the temperature")] = 50,
    test: Annotated[int, typer.Option(help="held-out courses of the figures")] = 150,
    simulate: Annotated[int, typer.Option(help="courses without films that the head learns from")] = 8000,
    head: Annotated[Path | None, typer.Option(help="folder of a head that is taken instead of a new one")] = None,
) -> None:
    """Learn a prognosis head for CHECKPOINT."""
    readings = work / "readings"
    try:
        predictor = load_predictor(checkpoint)
        if head is None:
            read_from = read_courses(predictor, READ_SEED, read, readings)
            fitted_on = read_courses(predictor, CALIBRATION_SEED, calibrate, readings)
            learned, commonest = learn_head(read_from, fitted_on, courses=simulate)
        else:
            learned, commonest = _head_in(head), commonest_answers(exact_cases(COMMONEST_COURSES, SIMULATED_SEED))
        tested = read_courses(predictor, TEST_SEED, test, readings)
        scores = measure_head(learned, tested, commonest)
        data = f"{test} held-out phantom courses, seeds from {TEST_SEED}, {scores[0].answers} answers"
        manifest = release(checkpoint, to, learned, scores, version, data)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    table = "\n".join(as_table(scores))
    (work / "prognosis.md").write_text(table + "\n", "utf-8")
    print(f"{table}\n{manifest.label}: {manifest.prognosis_findings}")


if __name__ == "__main__":
    typer.run(main)
