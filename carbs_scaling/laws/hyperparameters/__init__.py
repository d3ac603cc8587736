"""Laws of further hyperparameters, such as weight decay and beta2."""
