"""Tests of training.prognosis."""
