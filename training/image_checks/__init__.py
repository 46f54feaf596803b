"""Training of the image checks of `model.checks`."""
