"""The Gaussian-process surrogate whose prior mean is the scaling law, and the feasibility model."""
