"""`python -m dicom_node` is the command line."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line.

    Imported here: each child process of `serve` imports the main module anew, and has no use for commands.
    """
    open_standard_streams()
    from dicom_node.cli import main as run_command_line

    run_command_line()


def open_standard_streams() -> None:
    """Open /dev/null in place of each standard stream with which this process was started closed.

    Without it the first socket or file would get the number of standard error, and with it what a library prints there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number, which is this one


if __name__ == "__main__":
    main()
