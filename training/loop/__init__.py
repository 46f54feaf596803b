"""The training loop, its learners and optimizers."""
