"""The prior of the scaling law, and the published laws that it is made of."""
