"""Regenerate migrations/versions/0001_initial.py from the tables, until the first release; afterwards add revisions."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from alembic import command

from dicom_node.index.database import Database
from dicom_node.index.schema import migration_config

TARGET = Path(__file__).resolve().parent.parent / "migrations" / "versions" / "0001_initial.py"


def main() -> None:
    TARGET.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/empty.db")
        with database.engine.begin() as connection:
            command.revision(
                migration_config(connection), "initial tables of the index", autogenerate=True, rev_id="0001"
            )
    made = next(TARGET.parent.glob("0001_*.py"))
    text = made.read_text("utf-8").replace("dicom_node.index.tables.core.UtcDateTime(timezone=True)", "UtcDateTime()")
    text = text.replace("dicom_node.index.tables.core.UtcDateTime()", "UtcDateTime()")
    text = text.replace(
        "from alembic import op\n",
        "from alembic import op\n\nfrom dicom_node.index.tables.core import UtcDateTime\n",
        1,
    )
    made.unlink()
    TARGET.write_text(text, "utf-8")
    subprocess.run([sys.executable, "-m", "ruff", "check", "--fix", "-q", str(TARGET)], check=True)
    subprocess.run([sys.executable, "-m", "ruff", "format", "-q", str(TARGET)], check=True)


if __name__ == "__main__":
    main()
