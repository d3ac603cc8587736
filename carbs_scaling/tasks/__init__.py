"""Tasks: what a trial is."""
