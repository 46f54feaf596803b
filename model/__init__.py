"""The model side: pixels, questions, the vision-language model and what it answers. Imports neither sibling package."""
