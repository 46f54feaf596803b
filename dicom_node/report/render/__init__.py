"""Reports as page, PDF, picture and text."""
