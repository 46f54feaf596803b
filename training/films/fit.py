"""Fitting how a film classifier's outputs are read (`model.film_rules`), on validation films and pairs only.

Probabilities are calibrated to what radiologists mark, on films as they come (`training.films.expected_marks`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from model.film_rules import FilmRule, FilmScores, believe_films, difference_of, film_log_odds, read_film_finding
from model.schema import COMPARED_CHANGES
from training.films.expected_marks import MarkOdds, expected_marks, expected_pairs, fit_mark_odds
from training.metrics.classification import auroc, class_scores, macro_f1

MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the marked output in the log-odds that are tried."""
FEWEST = 12  # with fewer positives of a kind of label, that kind does not choose the mix
PENALTY = 0.02
"""Of the squared distance of a rule's values from the plain product of two films, over the number of pairs."""
DEGREE_PENALTY = 0.5
THRESHOLDS = tuple(round(0.15 + 0.025 * step, 3) for step in range(23))
"""Nothing is called present that is believed at less than the first."""
CUTS = tuple(round(0.1 + 0.05 * step, 2) for step in range(11))
MIN_PRECISION = 1 / 3
"""Of the films that are called present, so many are so by one kind of label at least."""
SLACK = 0.02
"""Thresholds whose worth lies within this of the best count as equal; the one nearest to 0.5 is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmSample:
    """One finding on one film: scores, and whether reports mention or radiologists mark it (None: not known).
    mentions_any: the film's report mentions this finding or another."""

    scores: FilmScores
    mined: bool | None
    marked: bool | None
    mentions_any: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSample:
    """One finding on a pair. change: known where radiologists read both films and it is on one of them, or both."""

    prior: FilmSample
    current: FilmSample
    change: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Degrees:
    """Values of a `FilmRule` of the same names."""

    degree_bias: float
    degree_slope: float
    degree_cut: float


def fit_rule(films: Sequence[FilmSample], pairs: Sequence[PairSample], degrees: Degrees | None = None) -> FilmRule:
    """The rule of one finding. stated: some threshold is precise enough; figures still have to allow statements."""
    mix = _mix(films)
    marks = fit_mark_odds(*_labels(films, mix))
    rule = _with_pair(_calibrate(mix, films, marks), mix, pairs, marks)
    if degrees is not None:
        rule = rule.model_copy(update=asdict(degrees))
    cut = _threshold(rule, films, pairs)
    return rule.model_copy(update={"threshold": 0.5 if cut is None else cut, "stated": cut is not None})


def fit_degree(pairs: Mapping[str, Sequence[PairSample]]) -> dict[str, Degrees]:
    """Finding → degrees, from pairs that show it twice; findings with few lean on all together. One cut for all: the
    one of greatest macro F1 over worsening, stable and improving."""
    rows = {key: [row for pair in some if (row := _degree_row(pair)) is not None] for key, some in pairs.items()}
    everything = [row for some in rows.values() for row in some]
    # All findings together: the fit that those with few pairs are pulled towards.
    pooled = _fit_degree(everything, (-0.5, 1.0), 1e-3)
    cut = max(CUTS, key=lambda value: _degree_f1(everything, value)) if everything else CUTS[-1]
    fitted = {key: _fit_degree(some, pooled, DEGREE_PENALTY) for key, some in rows.items()}
    return {key: Degrees(degree_bias=bias, degree_slope=slope, degree_cut=cut) for key, (bias, slope) in fitted.items()}


def _degree_f1(rows: Sequence[tuple[float, int]], cut: float) -> float:
    names = {1: "worsening", 0: "stable", -1: "improving"}
    words = [names[0 if abs(value) < cut else 1 if value > 0.0 else -1] for value, _ in rows]
    return macro_f1(class_scores([names[degree] for _, degree in rows], words, tuple(names.values())))


def _mix(films: Sequence[FilmSample]) -> FilmRule:
    """The share of the two outputs that ranks best."""
    best, worth = FilmRule(), -1.0
    for share in MIXES:
        draft = _mix_rule(films, share)
        value = _ranking(films, draft)
        if value > worth + 1e-6:
            best, worth = draft, value
    return best


def _calibrate(mix: FilmRule, films: Sequence[FilmSample], marks: MarkOdds | None) -> FilmRule:
    """The rule for one film whose probabilities hold."""
    log_odds, mined, marked = _labels(films, mix)
    mentions_any = np.array([film.mentions_any for film in films])
    truth = expected_marks(log_odds, mined, marked, mentions_any, marks)
    known = ~np.isnan(truth)
    scale, shift = _logistic(log_odds[known], truth[known])
    # One scale for both outputs, so that calibration leaves their mix as it was chosen.
    return FilmRule(mined=mix.mined * scale, marked=mix.marked * scale, bias=shift)


def _labels(
    films: Sequence[FilmSample], rule: FilmRule
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Log-odds, mined labels and marks [N]; NaN where a label is not known."""
    log_odds = np.array([film_log_odds(film.scores, rule) for film in films])
    mined = np.array([math.nan if film.mined is None else float(film.mined) for film in films])
    marked = np.array([math.nan if film.marked is None else float(film.marked) for film in films])
    return log_odds, mined, marked


def _mix_rule(films: Sequence[FilmSample], share: float) -> FilmRule:
    has_mined = any(film.scores.mined is not None for film in films)
    has_marked = any(film.scores.marked is not None for film in films)
    if not (has_mined and has_marked):
        return FilmRule(mined=float(has_mined), marked=float(has_marked))
    return FilmRule(mined=1.0 - share, marked=share)


def _ranking(films: Sequence[FilmSample], rule: FilmRule) -> float:
    """Mean AUROC over the kinds of label of which there are enough."""
    values = []
    for kind in ("mined", "marked"):
        known = [(getattr(film, kind), film_log_odds(film.scores, rule)) for film in films]
        truth = [bool(is_on) for is_on, _ in known if is_on is not None]
        # AUROC of very few of one class is noise.
        if min(sum(truth), len(truth) - sum(truth)) >= FEWEST:
            values.append(auroc(truth, [score for is_on, score in known if is_on is not None]))
    return sum(values) / len(values) if values else 0.0


def _logistic(values: NDArray[np.float64], truth: NDArray[np.float64]) -> tuple[float, float]:
    """Slope, not negative, and intercept of least log-loss (Platt 1999). truth: probabilities."""

    def loss(free: NDArray[np.float64]) -> float:
        odds = free[0] * values + free[1]
        # The penalty bounds the slope where the scores part the labels cleanly.
        return float((np.logaddexp(0.0, odds) - truth * odds).mean() + 1e-4 * (free**2).sum())

    fitted = minimize(loss, np.array([1.0, 0.0]), method="L-BFGS-B", bounds=[(0.0, 5.0), (None, None)]).x
    return float(fitted[0]), float(fitted[1])


def _with_pair(rule: FilmRule, mix: FilmRule, pairs: Sequence[PairSample], marks: MarkOdds | None) -> FilmRule:
    """The rule with the values of its belief over a pair. Where marks tell what films show, the pairs of which
    radiologists read both films tell first how the two films of a pair go together."""
    known = [pair for pair in pairs if _is_known(pair.prior, marks) and _is_known(pair.current, marks)]
    if not known:
        return rule
    difference = np.array([_difference(pair) for pair in known])
    priors, currents = [pair.prior for pair in known], [pair.current for pair in known]
    shares = np.full((len(known), 4), 0.25)
    if marks is not None:
        read = np.array([film.marked is not None for film in priors]) & [film.marked is not None for film in currents]
        before, after = (marks.of(*_labels(films, mix)[:2]) for films in (priors, currents))
        # First the shares of the four from pairs of which both films were read; they then fill in what the marks leave
        # open in all the others.
        one_read = expected_pairs(shares, _known_marks(priors, marks), _known_marks(currents, marks))
        fitted = _fit_pairs(before[read], after[read], difference[read], one_read[read])
        shares = np.exp(_pair_scores(fitted, before, after, difference))
    truth = expected_pairs(shares, _known_marks(priors, marks), _known_marks(currents, marks))
    before, after = (_labels(films, rule)[0] for films in (priors, currents))
    slope, alone, both, contrast = _fit_pairs(before, after, difference, truth)
    return rule.model_copy(update={"slope": slope, "alone": alone, "both": both, "contrast": contrast})


def _is_known(film: FilmSample, marks: MarkOdds | None) -> bool:
    return marks is not None or film.marked is not None or film.mined is not None


def _known_marks(films: Sequence[FilmSample], marks: MarkOdds | None) -> list[float | None]:
    """1 or 0 where marks or, for want of them, reports tell what a film shows; None where it is only probable."""
    known: list[float | None] = []
    for film in films:
        label = film.marked if film.marked is not None or (marks is not None and film.mentions_any) else film.mined
        known.append(None if label is None else float(label))
    return known


def _pair_scores(
    free: Sequence[float] | NDArray[np.float64],
    prior: NDArray[np.float64],
    current: NDArray[np.float64],
    difference: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Log-scores [P, 4] of rule 2 of `model.film_rules`, all degrees on both films together."""
    slope, alone, both, contrast = free
    tilt = contrast * difference
    columns = (np.zeros(len(prior)), slope * current + alone + tilt, slope * prior + alone - tilt)
    return np.stack([*columns, slope * (prior + current) + both], axis=1)


def _fit_pairs(
    prior: NDArray[np.float64],
    current: NDArray[np.float64],
    difference: NDArray[np.float64],
    truth: NDArray[np.float64],
) -> tuple[float, float, float, float]:
    """Slope, alone, both and contrast of least log-loss; truth [P, 4]: neither, current, prior, both."""
    start = np.array([1.0, 0.0, 0.0, 0.0])

    def loss(free: NDArray[np.float64]) -> float:
        scores = _pair_scores(free, prior, current, difference)
        normal = np.logaddexp.reduce(scores, axis=1)
        penalty = PENALTY * float(((free - start) ** 2).sum())
        return float((normal - (truth * scores).sum(axis=1)).sum() / max(len(prior), 1)) + penalty / 10

    bounds = [(0.0, None), (None, None), (None, None), (0.0, None)]
    slope, alone, both, contrast = (float(value) for value in minimize(loss, start, bounds=bounds).x)
    return slope, alone, both, contrast


def _difference(pair: PairSample) -> float:
    return difference_of(pair.prior.scores, pair.current.scores)


def _degree_row(pair: PairSample) -> tuple[float, int] | None:
    """(difference of amounts, 1 worsening, 0 stable, -1 improving)."""
    degrees = {"worsening": 1, "stable": 0, "improving": -1}
    return (_difference(pair), degrees[pair.change]) if pair.change in degrees else None


def _fit_degree(rows: Sequence[tuple[float, int]], start: tuple[float, float], penalty: float) -> tuple[float, float]:
    if not rows:
        return start
    difference = np.array([value for value, _ in rows])
    degree = np.array([kind for _, kind in rows])

    def loss(free: NDArray[np.float64]) -> float:
        # "Stable" is the reference with a score of 0: the pair of scores says how much a difference has to exceed.
        worse, better = free[0] + free[1] * difference, free[0] - free[1] * difference
        normal = np.logaddexp(np.logaddexp(worse, better), 0.0)
        stated = np.where(degree == 1, worse, np.where(degree == -1, better, 0.0))
        distance = float(((free - np.array(start)) ** 2).sum())
        return float((normal - stated).mean()) + penalty * distance / len(rows)

    fitted = minimize(loss, np.array(start), method="L-BFGS-B", bounds=[(None, 0.5), (0.0, None)]).x
    return float(fitted[0]), float(fitted[1])


def _threshold(rule: FilmRule, films: Sequence[FilmSample], pairs: Sequence[PairSample]) -> float | None:
    """The cut of greatest worth: mean of the F1 against either kind of label, and of the macro F1 of the change where
    enough is known of it; on the belief that serving has. None where no cut is precise enough."""
    rows = [(believe_films(film.scores, None, rule).presence, film) for film in films]
    rows += [(believe_films(pair.current.scores, pair.prior.scores, rule).presence, pair.current) for pair in pairs]
    known = [pair for pair in pairs if pair.change is not None]
    changes = sum(pair.change in COMPARED_CHANGES for pair in known)
    worths = {
        cut: _mean_f1(rows, cut) + (_change_f1(rule, known, cut) / 2.0 if changes >= 2 * FEWEST else 0.0)
        for cut in THRESHOLDS
        if _is_precise(rows, cut)
    }
    if not worths:
        return None
    # Of cuts that are worth about the same, the one nearest to one half: the maximum of a noisy curve lies anywhere.
    enough = max(worths.values()) - SLACK
    return min((cut for cut, worth in worths.items() if worth >= enough), key=lambda cut: abs(cut - 0.5))


def _is_precise(rows: Sequence[tuple[float, FilmSample]], cut: float) -> bool:
    """Tell whether enough of what is called present is so by either kind of label."""
    for kind in ("mined", "marked"):
        called = [
            bool(getattr(film, kind)) for belief, film in rows if belief >= cut and getattr(film, kind) is not None
        ]
        if len(called) >= FEWEST and sum(called) >= MIN_PRECISION * len(called):
            return True
    return False


def _mean_f1(rows: Sequence[tuple[float, FilmSample]], cut: float) -> float:
    values = []
    for kind in ("mined", "marked"):
        known = [(belief >= cut, bool(getattr(film, kind))) for belief, film in rows if getattr(film, kind) is not None]
        positives = sum(is_on for _, is_on in known)
        if positives >= FEWEST:
            hits, positives_stated = sum(s and t for s, t in known), sum(s for s, _ in known)
            values.append(2.0 * hits / (positives_stated + positives))
    return sum(values) / len(values) if values else -math.inf


def _change_f1(rule: FilmRule, pairs: Sequence[PairSample], cut: float) -> float:
    tried = rule.model_copy(update={"threshold": cut, "stated": True, "change_stated": True})
    changes = [read_film_finding("", pair.current.scores, pair.prior.scores, tried, floor=0.0).change for pair in pairs]
    words = [change.value if change is not None else "none" for change in changes]
    return macro_f1(class_scores([str(pair.change) for pair in pairs], words, COMPARED_CHANGES))
