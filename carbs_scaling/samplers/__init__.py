"""What is run next: `CarbsSampler` and its parts."""
