"""Evidence for a checkpoint's prognosis: the images it was measured on, how good it was there, and what that allows."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

Spread = tuple[float, float, float]
"""A value with the ends of its 95 % interval by patient."""


class SettingFigures(BaseModel):
    """The figures of one setting (`model.prognosis.inputs.SETTINGS`), as `training.prognosis.measure.SettingScore`.

    accuracy: share of right answers. commonest: the same of always the commonest answer. ceiling: the same of the best
    possible reader of this setting. skill: (accuracy - commonest) / (ceiling - commonest). calibration_error: of the
    likeliest answers. answers: how many were counted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    answers: int = Field(ge=0)
    accuracy: Spread
    commonest: float
    ceiling: float | None = None
    skill: Spread | None = None
    calibration_error: float = Field(ge=0.0)


class PrognosisEvidence(BaseModel):
    """data: what was measured on, in words. kinds: of images (`model.experts.film_classifier.FilmKind`) that these data
    are; the next image of others is not predicted. longest_gap: most days between two successive images that were
    measured; what is older than a longer gap, or one of unknown length, is not read (None: no limit). settings: setting
    → its figures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    kinds: tuple[str, ...]
    longest_gap: int | None = Field(default=None, ge=0)
    settings: Mapping[str, SettingFigures]
