"""Tables of runs, the rules that their rates follow, and outliers."""
