"""What a run costs: FLOPs known before it starts."""
