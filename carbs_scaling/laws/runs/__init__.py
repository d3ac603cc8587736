"""Tables of runs, runs that collapsed, and rates that follow a rule."""
