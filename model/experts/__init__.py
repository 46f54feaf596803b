"""Expert classifiers whose predictions are put into the prompt."""
