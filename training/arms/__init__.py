"""The study of what each stream of training data adds."""
