"""`python -m dicom_node` is the command line."""

from __future__ import annotations


def main() -> None:
    """Run the command line.

    Imported here: each child process of `serve` imports the main module anew, and has no use for commands.
    """
    from dicom_node.cli import main as run_command_line

    run_command_line()


if __name__ == "__main__":
    main()
