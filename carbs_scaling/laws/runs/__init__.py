"""Tables of runs: reading them, rules that nobody searched, outliers."""
