"""Write docs/reference/conformance-statement.md: prose from conformance_statement.md.j2, tables from the code.

    python scripts/make_conformance_statement.py [--check]

The order is that of PS3.2 Annex N: overview, introduction, implementation model, services in detail, objects,
character sets, security. `--check` writes nothing and ends with status 1 where the file is not current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from pydicom.uid import UID
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from dicom_node.config import DeliverySection, ReceiveSection
from dicom_node.deliver import peer
from dicom_node.dicom import sop_classes
from dicom_node.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.receive import c_find_query
from dicom_node.receive.upper_layer import access_rules, statuses
from dicom_node.report.sr import fallback_classes

TARGET = Path(__file__).resolve().parents[1] / "docs" / "reference" / "conformance-statement.md"
TEMPLATE = Path(__file__).with_name("conformance_statement.md.j2")
STORE_FAILURES = (
    "OUT_OF_SPACE",
    "STORE_FAILED",
    "INDEX_FAILED",
    "CLASS_MISMATCH",
    "REQUEST_MISMATCH",
    "UNREADABLE",
    "BAD_UID",
    "CONFLICT",
    "STUDY_MISMATCH",
)
FIND_FAILURES = ("FIND_OUT_OF_RESOURCES", "FIND_MISMATCH", "FIND_UNABLE")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def named(uid: str) -> tuple[str, str]:
    """Name and UID as the two cells of a row."""
    return UID(uid).name.replace("|", "/"), f"`{uid}`"


def storage_scp() -> str:
    groups = (
        ("radiography", sop_classes.RADIOGRAPHY),
        ("reports", sop_classes.REPORTS),
        ("presentation states", sop_classes.PRESENTATION),
    )
    return table(
        ("SOP class", "UID", "group"), [(*named(uid), group) for group, uids in groups for uid in sorted(uids)]
    )


def storage_scu() -> str:
    documents = [str(step) for step in fallback_classes.STEPS]
    documents += ["1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.7"]
    purpose = {
        documents[0]: "machine report",
        documents[1]: "machine report where the peer takes nothing richer",
        documents[2]: "reading report; machine report where the peer takes nothing richer",
        documents[3]: "either report where the peer takes nothing richer",
        documents[4]: "only where a destination asks for `pdf`",
        documents[5]: "only where a destination asks for `capture`",
    }
    return table(("SOP class", "UID", "used for"), [(*named(uid), purpose[uid]) for uid in documents])


def other_services() -> str:
    rows: list[tuple[object, str, str, str]] = [
        (Verification, "yes", "yes", "`dicom-node echo`"),
        (StorageCommitmentPushModel, "yes", "yes", "proof of the node's documents; commitment to what peers sent"),
        (PatientRootQueryRetrieveInformationModelFind, "no", "yes", "query of the node's index"),
        (StudyRootQueryRetrieveInformationModelFind, "yes", "yes", "search for priors, count of images, proof"),
        (StudyRootQueryRetrieveInformationModelMove, "yes", "no", "retrieval of priors"),
        (StudyRootQueryRetrieveInformationModelGet, "yes", "no", "retrieval of priors"),
    ]
    return table(
        ("SOP class", "UID", "SCU", "SCP", "used for"),
        [(*named(str(uid)), scu, scp, why) for uid, scu, scp, why in rows],
    )


def transfer_syntaxes() -> str:
    return table(("transfer syntax", "UID"), [named(uid) for uid in sorted(sop_classes.TRANSFER_SYNTAXES)])


def failures(names: Sequence[str]) -> str:
    chosen = [getattr(statuses, name) for name in names]
    return table(
        ("status", "meaning", "Error Comment"), [(f"{one.status:04X}H", "failure", one.comment) for one in chosen]
    )


def find_keys() -> str:
    rows = []
    for level, keys in c_find_query.KEYS_OF_LEVEL.items():
        rows += [(level.value, name, key.matching.value) for name, key in keys.items()]
    return table(("level", "key", "matching"), rows)


def rejections() -> str:
    made = [value for value in vars(access_rules).values() if isinstance(value, access_rules.Rejection)]
    return table(
        ("result", "source", "reason", "when"), [(one.result, one.source, one.reason, one.why) for one in made]
    )


def limits() -> str:
    receive, deliver = ReceiveSection(), DeliverySection()
    return table(
        ("limit", "default", "key"),
        [
            ("associations at once, of each receiver process", receive.max_associations, "`receive.max_associations`"),
            ("of one address", receive.max_associations_per_address, "`receive.max_associations_per_address`"),
            ("largest P-DATA PDU received", f"{receive.pdu_bytes} bytes", "`receive.pdu_bytes`"),
            ("largest P-DATA PDU offered as SCU", f"{peer.MAXIMUM_PDU_BYTES} bytes", "–"),
            ("connection to A-ASSOCIATE-RQ", f"{receive.association_seconds:g} s", "`receive.association_seconds`"),
            ("between two messages", f"{receive.idle_seconds:g} s", "`receive.idle_seconds`"),
            ("one association", f"{receive.lifetime_seconds:g} s", "`receive.lifetime_seconds`"),
            ("one object", f"{receive.max_instance_mib} MiB", "`receive.max_instance_mib`"),
            ("connecting as SCU", f"{deliver.connect_seconds:g} s", "`delivery.connect_seconds`"),
            ("an answer as SCU", f"{deliver.response_seconds:g} s", "`delivery.response_seconds`"),
        ],
    )


def statement() -> str:
    """The whole document: the template beside this script, filled with the tables."""
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False).from_string(
        TEMPLATE.read_text("utf-8")
    )
    text: str = template.render(
        storage_scp=storage_scp(),
        storage_scu=storage_scu(),
        other_services=other_services(),
        limits=limits(),
        rejections=rejections(),
        transfer_syntaxes=transfer_syntaxes(),
        find_keys=find_keys(),
        store_failures=failures(STORE_FAILURES),
        find_failures=failures(FIND_FAILURES),
        implementation_class_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version_name=IMPLEMENTATION_VERSION_NAME,
        max_matches=c_find_query.MAX_MATCHES,
    )
    return text


def main() -> int:
    """Write or check the document; returns the exit status."""
    text = statement()
    if "--check" in sys.argv:
        current = TARGET.read_text("utf-8") if TARGET.exists() else ""
        if current != text:
            sys.stderr.write(f"{TARGET.name} is not current: python scripts/make_conformance_statement.py\n")
            return 1
        return 0
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
