"""A report's text: its lines, headings, sentences and phrases, and the list of words that they are read by."""
