"""The film classifier: its training films, training, and the rules by which its outputs are read."""
