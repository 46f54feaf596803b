"""The public door of the training loop: `python -m training.train RECIPE --out FOLDER`."""

import typer

from training.loop.train import main, train

__all__ = ["main", "train"]

if __name__ == "__main__":
    typer.run(main)
