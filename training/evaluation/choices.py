"""The multiple-choice test over five visits: accuracy by family beside chance and the commonest letter.

A model that answers single images and pairs is asked for each visit once; its answer is the option that its own
readings make likeliest (`training.evaluation.visits`). A reader without errors is right everywhere on phantoms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from model.schema import DisplayImage
from training.evaluation.visits import VisitPredictor, VisitReading, best_letter, read_visits
from training.metrics.significance import Interval
from training.metrics.summed import interval, mean_figure
from training.records.choices import LETTERS, ChoiceItem

ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceScore:
    """One family, or all. accuracy: a question that is not answered counts as wrong. answered: how many were.
    commonest: share of the letter that is right most often, in this very set."""

    family: str
    items: int
    answered: int
    accuracy: Interval
    commonest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceScores:
    """chance: of guessing. scores: all, then by family. by_kind: accuracy of each kind of question with its count."""

    patients: int
    chance: float
    scores: tuple[ChoiceScore, ...]
    by_kind: dict[str, tuple[float, int]]
    letters: dict[str, str]
    """Question → the letter that was given, "" where none was."""


def answer_choices(
    predictor: VisitPredictor,
    items: Iterable[tuple[ChoiceItem, Sequence[DisplayImage]]],
    *,
    resamples: int = 1000,
    progress: Callable[[int], None] = lambda done: None,
) -> ChoiceScores | None:
    """Ask and score; None where there is no question. Questions on the same images in a row share one reading."""
    given: list[tuple[ChoiceItem, str]] = []
    before: tuple[tuple[str, ...], VisitReading] | None = None
    for item, images in items:
        shown = tuple(image.key for image in item.images)
        if before is None or before[0] != shown:
            before = shown, read_visits(predictor, images)
        # No letter where no option could be scored: an empty one is never right.
        given.append((item, best_letter(item, before[1]) or ""))
        progress(len(given))
    return score_choices(given, resamples=resamples) if given else None


def score_choices(given: Sequence[tuple[ChoiceItem, str]], *, resamples: int = 1000) -> ChoiceScores:
    """Score letters. Raises ValueError where there are none."""
    if not given:
        raise ValueError("no question was answered")
    families = dict.fromkeys(item.family.value for item, _ in given)
    scores = [_score(ALL, given, resamples)]
    scores += [_score(name, [pair for pair in given if pair[0].family == name], resamples) for name in families]
    kinds: dict[str, list[bool]] = {}
    for item, letter in given:
        kinds.setdefault(item.kind, []).append(letter == item.answer)
    return ChoiceScores(
        patients=len({item.patient_id for item, _ in given}),
        chance=1.0 / len(LETTERS),
        scores=tuple(scores),
        by_kind={kind: (sum(right) / len(right), len(right)) for kind, right in kinds.items()},
        letters={item.item_id: letter for item, letter in given},
    )


def _score(family: str, given: Sequence[tuple[ChoiceItem, str]], resamples: int) -> ChoiceScore:
    right = [float(letter == item.answer) for item, letter in given]
    figure = mean_figure([item.item_id for item, _ in given], [item.patient_id for item, _ in given], right)
    return ChoiceScore(
        family=family,
        items=len(given),
        answered=sum(bool(letter) for _, letter in given),
        accuracy=interval([figure], resamples=resamples),
        commonest=Counter(item.answer for item, _ in given).most_common(1)[0][1] / len(given),
    )
