"""Commands on models and training."""
