"""Training one candidate: text, model, loop, typed outcome. Knows nothing of studies or proposals."""
