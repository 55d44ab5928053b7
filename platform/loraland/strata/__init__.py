"""Hidden subclasses of a classifier: found in its features, measured, and trained against."""
