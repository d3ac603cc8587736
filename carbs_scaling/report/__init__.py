"""What a person sees: the live display, the front as table, file and plots, and the power law through it."""
