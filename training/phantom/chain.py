"""Finite Markov chains with partly visible states: how a group of findings evolves, and what can be known of it.

A chain's state is hidden; a film shows the degree of each finding, the chart tells treatments and laboratory flags. The
forward algorithm (Rabiner, Proceedings of the IEEE 77, 1989, section III.A) gives the distribution of the state after
any set of observations exactly, and with it the best possible prediction of the next film.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chain:
    """One group of findings that act on one another; groups are independent of each other.

    step: [S, S], probability of the state one step later; rows sum to 1. levels: finding -> int [S], the degree that a
    film shows in each state (0 absent, 1 to 3 mild to severe; 1 for what has no degree). treatments: name -> bool [S].
    flags: laboratory value -> [S, F], probability of each flag.
    """

    step: Matrix
    levels: Mapping[str, NDArray[np.int64]]
    treatments: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    flags: Mapping[str, Matrix] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not np.allclose(self.step.sum(1), 1.0) or (self.step < 0).any():
            raise ValueError("the rows of a chain's step are distributions")

    @property
    def size(self) -> int:
        """The number of states."""
        return len(self.step)

    def across(self, steps: int) -> Matrix:
        """[S, S], probability of the state `steps` steps later."""
        return _power(self, steps)


@lru_cache(maxsize=128)
def _power(chain: Chain, steps: int) -> Matrix:
    return np.linalg.matrix_power(chain.step, steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmObservation:
    """The known facts at one film. levels: finding -> degree. treatments: name -> given or not. flags: laboratory value
    -> place of its flag. What is missing from a mapping was not looked at."""

    levels: Mapping[str, int] = field(default_factory=dict)
    treatments: Mapping[str, bool] = field(default_factory=dict)
    flags: Mapping[str, int] = field(default_factory=dict)


def stationary(chain: Chain) -> Matrix:
    """The distribution [S] that a step leaves as it is: courses start in it, so that no film is special."""
    # The row of ones asks for a sum of 1: without it nothing at all would solve the equations too.
    weights = np.vstack([chain.step.T - np.eye(chain.size), np.ones(chain.size)])
    target = np.zeros(chain.size + 1)
    target[-1] = 1.0
    positive = np.clip(np.asarray(np.linalg.lstsq(weights, target, rcond=None)[0], np.float64), 0.0, None)
    share: Matrix = positive / positive.sum()
    return share


def likelihood(chain: Chain, seen: FilmObservation) -> Matrix:
    """Probability [S] of what was seen in each state."""
    weights = np.ones(chain.size)
    # What was not seen (a finding not stated, a treatment not noted, a value not measured) says nothing: it weighs no
    # state.
    for key, levels in chain.levels.items():
        if key in seen.levels:
            weights = weights * (levels == seen.levels[key])
    for name, given in chain.treatments.items():
        if name in seen.treatments:
            weights = weights * (given == seen.treatments[name])
    for name, table in chain.flags.items():
        if name in seen.flags:
            weights = weights * table[:, seen.flags[name]]
    return weights


def filter_states(chain: Chain, films: Sequence[FilmObservation], steps: int, *, start: Matrix) -> Matrix:
    """The distribution [S] of the state at the last film, given what was seen at each; `steps` lie between two films.

    Raises ValueError where the chain cannot have produced what was seen.
    """
    across = chain.across(steps)
    belief = start
    for number, seen in enumerate(films):
        # Scaled to 1 at each film: the plain product of a long course would run into zero.
        belief = (belief @ across if number else belief) * likelihood(chain, seen)
        total = belief.sum()
        if total <= 0:
            raise ValueError(f"film {number + 1} shows what the process cannot lead to: {seen}")
        belief = belief / total
    return belief


def sample_states(chain: Chain, steps: int, films: int, rng: Generator, *, start: Matrix) -> list[int]:
    """The state at each film of one course."""
    across = chain.across(steps)
    states = [int(rng.choice(chain.size, p=start))]
    for _ in range(films - 1):
        row = across[states[-1]]
        # A matrix power sums to 1 but for rounding, which `choice` does not forgive.
        states.append(int(rng.choice(chain.size, p=row / row.sum())))
    return states


def product(rows: Sequence[Matrix]) -> Matrix:
    """The joint distribution, flattened, of independent parts given by their own distributions."""
    joint = np.ones(1)
    for row in rows:
        joint = np.multiply.outer(joint, row).ravel()
    return joint
