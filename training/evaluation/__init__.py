"""Evaluation of a checkpoint and its report."""
