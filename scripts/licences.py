"""List the licences of everything that the default installation brings: `python scripts/licences.py [--extras a,b]`.

Ends with status 1 where one is under the GPL or AGPL, or states no licence at all: such a package may not be a default
dependency (an extra may bring one, and the documents then say so).
"""

from __future__ import annotations

import re
import sys
from email.message import Message
from importlib import metadata
from typing import cast

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DISTRIBUTION = "dicom-node"
STRONG_COPYLEFT = re.compile(r"\b(?:A?GPL|GNU (?:Affero )?General Public)", re.IGNORECASE)
LESSER = re.compile(r"\b(?:LGPL|Lesser General Public)", re.IGNORECASE)
NAMED_BY_HAND: dict[str, str] = {}
"""Packages whose metadata hold no licence: what their repository says. Each is looked up by a person."""


def closure(extras: tuple[str, ...] = ()) -> dict[str, metadata.Distribution]:
    """Every distribution that DISTRIBUTION with these extras needs on this machine, itself left out."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [(DISTRIBUTION, frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # a marker of another platform, or an extra that is not installed here
        found[canonicalize_name(name)] = distribution
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if any(_applies(requirement, extra) for extra in wanted or {""}):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    found.pop(canonicalize_name(DISTRIBUTION))
    return found


def licence_of(distribution: metadata.Distribution) -> str:
    """The licence that a distribution states: SPDX expression, else classifiers, else the first line of the text."""
    said = cast(Message, distribution.metadata)  # the class behind the protocol, which lacks `get`
    expression = said.get("License-Expression")
    if expression:
        return str(expression)
    classifiers = [line.rsplit("::", 1)[1].strip() for line in said.get_all("Classifier") or () if "License ::" in line]
    if classifiers:
        return "; ".join(classifiers)
    text = (said.get("License") or "").strip()
    return text.splitlines()[0] if text else NAMED_BY_HAND.get(canonicalize_name(str(said["Name"])), "")


def is_refused(licence: str) -> bool:
    """True for the GPL and the AGPL without another licence to choose, and where nothing is said."""
    if not licence:
        return True
    alternatives = re.split(r"\bOR\b|;", licence)
    return all(STRONG_COPYLEFT.search(one) and not LESSER.search(one) for one in alternatives)


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def main() -> int:
    """Print the table; returns the exit status."""
    extras = tuple(sys.argv[2].split(",")) if sys.argv[1:2] == ["--extras"] else ()
    refused = []
    for name, distribution in sorted(closure(extras).items()):
        licence = licence_of(distribution)
        sys.stdout.write(f"{name:28} {distribution.version:14} {licence[:70]}\n")
        if is_refused(licence):
            refused.append(f"{name} ({licence or 'no licence stated'})")
    for line in refused:
        sys.stderr.write(f"not for a default dependency: {line}\n")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
