"""What is proposed next: `front.py` for the front of loss against FLOPs, `target.py` for one larger model."""
