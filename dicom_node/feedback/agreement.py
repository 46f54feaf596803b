"""Agreement of node and radiologists: counts and Cohen's kappa for each finding over a window of time."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from dicom_node.feedback import consensus as opinions
from dicom_node.feedback.consensus import OTHER, Opinion
from model.ontology import ontology
from model.schema import Presence

UNJUDGED = ("", Presence.ABSTAINED.value, "not comparable")
"""The value where the node makes no statement: nothing to agree with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingAgreement:
    """Agreement on one aspect ("presence" or "change") of one finding.

    table: how often the node said the first and radiologists the second. contradictory: radiologists contradict each
    other; counted here and nowhere else.
    """

    finding: str
    aspect: str
    table: Mapping[tuple[str, str], int] = field(default_factory=dict)
    contradictory: int = 0

    @property
    def judged(self) -> int:
        """The number of statements on which all radiologists agree."""
        return sum(self.table.values())

    @property
    def agree(self) -> int:
        """The number of those on which the node agrees with them."""
        return sum(count for (node, reader), count in self.table.items() if node == reader)

    @property
    def node_only(self) -> int:
        """Presence: the node says present, the radiologists absent."""
        return self.table.get((Presence.PRESENT.value, Presence.ABSENT.value), 0)

    @property
    def radiologist_only(self) -> int:
        """Presence: the radiologists say present, the node absent."""
        return self.table.get((Presence.ABSENT.value, Presence.PRESENT.value), 0)

    @property
    def ratio(self) -> float | None:
        """Share that agrees; None where nothing was judged."""
        return self.agree / self.judged if self.judged else None

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa (p_o - p_e) / (1 - p_e), Cohen 1960; None where it is undefined.

        Undefined where nothing was judged, where both always say the same one word (p_e = 1), and for statements of
        which somebody only said that they are wrong (OTHER is no category of the node's).
        """
        total = self.judged
        if not total or any(OTHER in pair for pair in self.table):
            return None
        node: Counter[str] = Counter()
        reader: Counter[str] = Counter()
        for (stated, read), count in self.table.items():
            node[stated] += count
            reader[read] += count
        # The agreement that chance alone would give, were each to use its words as often as it does, but blindly.
        expected = sum(node[word] * reader[word] for word in node) / total**2
        return None if expected == 1.0 else (self.agree / total - expected) / (1.0 - expected)


def figures(
    judged: Iterable[Opinion],
    *,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    device_uid: str | None = None,
    aspect: str = "presence",
) -> dict[str, FindingAgreement]:
    """Agreement by finding, in ontology order, of the opinions whose newest word falls into [since, until). Pure.

    judged: from `consensus.load(session)` or `consensus.settle(rows, predictions)`. device_uid: only statements of
    that checkpoint. aspect: "presence" or "change". Findings of which nobody said anything are left out; so are
    statements that the node did not make (abstained, not comparable).
    """
    tables: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    contradictory: Counter[str] = Counter()
    for opinion in judged:
        if opinion.aspect != aspect or opinion.stated in UNJUDGED:
            continue
        if (since is not None and opinion.at < since) or (until is not None and opinion.at >= until):
            continue
        if device_uid is not None and opinion.device_uid != device_uid:
            continue
        if opinion.contradictory:
            contradictory[opinion.finding] += 1
        else:
            tables[opinion.finding][opinion.stated, opinion.value] += 1
    return {
        key: FindingAgreement(
            finding=key, aspect=aspect, table=dict(tables.get(key, {})), contradictory=contradictory[key]
        )
        for key in ontology().findings
        if key in tables or key in contradictory
    }


def overall(found: Mapping[str, FindingAgreement]) -> FindingAgreement:
    """All findings of one aspect pooled, under the finding ""."""
    table: Counter[tuple[str, str]] = Counter()
    for finding_agreement in found.values():
        table.update(finding_agreement.table)
    aspect = next(iter(found.values())).aspect if found else "presence"
    lost = sum(finding_agreement.contradictory for finding_agreement in found.values())
    return FindingAgreement(finding="", aspect=aspect, table=dict(table), contradictory=lost)


def load_figures(
    session: Session,
    *,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    device_uid: str | None = None,
    aspect: str = "presence",
) -> dict[str, FindingAgreement]:
    """`figures` of the feedback in the index."""
    return figures(opinions.load(session, since=since), since=since, until=until, device_uid=device_uid, aspect=aspect)
