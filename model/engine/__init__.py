"""Scoring and generation over one shared prefix."""
