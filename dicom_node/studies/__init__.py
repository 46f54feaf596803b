"""The life of a study from its first instance to its completion."""
