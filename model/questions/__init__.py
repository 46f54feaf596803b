"""The questions to the model, the answers, and the prompts."""
