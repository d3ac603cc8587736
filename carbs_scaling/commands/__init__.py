"""What each verb of `carbs-scaling` does with its composed configuration."""
