"""One self-contained HTML file out of what the other verbs found."""
