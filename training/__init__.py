"""The training framework: data, instructions, training, evaluation. Imports only `model`."""
