"""The one scaling law as a function of its parameters, with derivatives and second-order terms."""
