"""HL7 messages of a laboratory and of an order entry system, as they send them."""

from __future__ import annotations

SENDER = "LAB^HOSPITAL"


def lab(
    value: str = "184",
    *,
    code: str = "1988-5^C reactive protein^LN",
    unit: str = "mg/L",
    flag: str = "HH",
    status: str = "F",
    kind: str = "NM",
    taken: str = "20260301080000",
    reported: str = "20260301084500",
    at: str = "20260301084600",
    patient: str = "P1^^^HOSP",
    filler: str = "F-1",
    sender: str = SENDER,
    control: str = "LAB1",
) -> str:
    """An ORU^R01 with one numeric result."""
    obr = ["OBR", "1", "", filler, "CRP^CRP^L"] + [""] * 21
    obr[7], obr[22], obr[25] = taken, reported, status
    name, place = sender.split("^")
    return "\r".join(
        (
            f"MSH|^~\\&|{name}|{place}|LUMEN|NODE|{at}||ORU^R01^ORU_R01|{control}|P|2.5.1",
            f"PID|1||{patient}||Doe^Jane||19600101|F",
            "|".join(obr),
            f"OBX|1|{kind}|{code}||{value}|{unit}|<5|{flag}|||{status}|||{taken}",
            "",
        )
    )


def order(
    control_code: str = "NW",
    *,
    code: str = "C03CA01^Furosemide^ATC",
    number: str = "O-1",
    placed: str = "20260301060000",
    begins: str = "20260301070000",
    ends: str = "",
    at: str = "",
    patient: str = "P1^^^HOSP",
    event: str = "RDE^O11^RDE_O11",
    sender: str = SENDER,
) -> str:
    """An order of a drug; without a code only ORC is sent."""
    name, place = sender.split("^")
    lines = [
        f"MSH|^~\\&|{name}|{place}|LUMEN|NODE|{at or placed}||{event}|ORD{control_code}|P|2.5.1",
        f"PID|1||{patient}||Doe^Jane",
        f"ORC|{control_code}|{number}|||||||{placed}",
    ]
    if code:
        lines += [f"TQ1|1||||||{begins}|{ends}", f"RXE||{code}|40||mg"]
    return "\r".join((*lines, ""))
