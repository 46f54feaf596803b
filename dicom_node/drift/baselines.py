"""Baselines of a week: pairs of the site's first weeks, or a checkpoint's answers on its validation set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.config import Settings
from dicom_node.drift.limits import count_by_bin, name_bins
from dicom_node.drift.samples import (
    ABSTAINED,
    DriftSample,
    Share,
    input_figures,
    output_distributions,
    output_shares,
    rate_of,
)
from dicom_node.index.tables.models import ModelServing
from dicom_node.logs import get_logger
from model.checkpoints import registry
from model.checkpoints.validation_counts import ValidationSet, edges_of
from model.errors import CheckpointError

log = get_logger(__name__)

FIRST_WEEKS, VALIDATION = "first-weeks", "validation"
"""The values of `[drift] baseline`, and what each figure was judged against."""
Values = Sequence[float] | Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Pairs by bin, and how other values are counted into the same bins."""

    counts: Mapping[str, int]
    count: Callable[[Values], dict[str, int]]

    @property
    def n(self) -> int:
        """The number of pairs."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Figures by name. validation: names of those that come from the validation set."""

    shares: Mapping[str, Share]
    distributions: Mapping[str, Distribution]
    validation: frozenset[str] = frozenset()

    def source(self, figure: str) -> str:
        """The baseline of a figure."""
        return VALIDATION if figure in self.validation else FIRST_WEEKS

    def replace_by(self, other: Baseline) -> Baseline:
        """The other's figures, and of these those that it does not know."""
        return Baseline(
            shares={**self.shares, **other.shares},
            distributions={**self.distributions, **other.distributions},
            validation=self.validation | other.validation,
        )


def of_samples(samples: Sequence[DriftSample], *, output: bool) -> Baseline:
    """Figures of the images, or of the answers, of these pairs."""
    figures = output_distributions(samples) if output else input_figures(samples)
    return Baseline(
        shares=output_shares(samples) if output else {},
        distributions={name: _distribution(values) for name, values in figures.items() if values},
    )


def of_validation(found: ValidationSet) -> Baseline:
    """Figures of the answers to the validation set. It knows nothing of pairs that nobody answered."""
    shares = {rate_of(key): Share(count=count, n=found.pairs) for key, count in found.present.items()}
    shares[ABSTAINED] = Share(count=found.abstained, n=found.pairs)
    certainty = Distribution(counts=name_bins(found.certainty), count=_by(found.certainty_edges))
    change = Distribution(counts=found.pair_changes, count=_words)
    distributions = {"certainty": certainty, "change": change}
    return Baseline(shares=shares, distributions=distributions, validation=frozenset(shares) | frozenset(distributions))


def validation_sets(session: Session, settings: Settings, models_dir: Path) -> dict[str, ValidationSet]:
    """Device UID → validation set, of every checkpoint in reach whose manifest has one: the models folder, the model of
    the configuration, and what living workers answer with (an expert makes its Device UID another one)."""
    if settings.model.backend != "transformers":
        return {}
    manifests = {"": _manifest_of_configured_model(settings.model.source)}
    try:
        manifests |= {entry.folder.name: entry.manifest for entry in registry.list_models(models_dir)}
    except CheckpointError as error:
        log.warning("the models folder cannot be read", error=str(error))
    sets = {m.device_uid: m.validation for m in manifests.values() if m is not None and m.validation is not None}
    # The UID with which a worker answers is not that of the manifest where an expert is added; its validation set is
    # the same.
    for folder, device in session.execute(select(ModelServing.folder, ModelServing.device_uid)):
        manifest = manifests.get(folder)
        if device and manifest is not None and manifest.validation is not None:
            sets[device] = manifest.validation
    return sets


def _manifest_of_configured_model(source: str) -> registry.Manifest | None:
    """The manifest of the configured model; None for one of the Hub, without a manifest, or not in reach."""
    try:
        resolved = registry.resolve_source(source)
        return registry.read_manifest(resolved, verify=False) if isinstance(resolved, Path) else None
    except CheckpointError:
        return None


def _distribution(values: Values) -> Distribution:
    """Words as they are, numbers by their own quantiles."""
    if any(isinstance(value, str) for value in values):
        return Distribution(counts=_words(values), count=_words)
    count = _by(edges_of([float(value) for value in values]))
    return Distribution(counts=count(values), count=count)


def _words(values: Values) -> dict[str, int]:
    return dict(Counter(str(value) for value in values))


def _by(edges: Sequence[float]) -> Callable[[Values], dict[str, int]]:
    return lambda values: count_by_bin([float(value) for value in values], edges)
