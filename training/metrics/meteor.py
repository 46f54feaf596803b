"""METEOR 1.5 by pycocoevalcap, which runs the authors' Java program: an optional extra, and said so where missing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from training.metrics.text import CorpusScore


class MetricUnavailableError(Exception):
    """A metric cannot be computed on this machine; the message says what is missing. Never reported as a number."""


def meteor(references: Sequence[Sequence[str]], said: Sequence[str]) -> CorpusScore:
    """METEOR (Denkowski and Lavie 2014) of tokenised text; raises MetricUnavailableError without Java or the extra.

    Its stem, synonym and paraphrase tables are 60 MB of the authors' data; there is no well-kept second implementation
    that gives the same numbers.
    """
    if shutil.which("java") is None:
        raise MetricUnavailableError("METEOR needs Java")
    try:
        from pycocoevalcap.meteor.meteor import Meteor
    except ImportError as error:
        raise MetricUnavailableError("METEOR needs the extra 'metrics': pip install dicom-node[metrics]") from error
    scorer = Meteor()
    value, each = scorer.compute_score(
        {number: list(texts) for number, texts in enumerate(references)},
        {number: [text] for number, text in enumerate(said)},
    )
    return CorpusScore(value=float(value), each=tuple(float(score) for score in each))
