"""What is believed about a run before it is made: loss law, Gaussian process, feasibility."""
