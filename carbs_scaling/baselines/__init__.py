"""What the search is compared with, all of it behind the interface of an Optuna sampler."""
