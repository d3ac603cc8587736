"""The search as a sweeper of anybody's Hydra app: `python my_app.py -m hydra/sweeper=carbs_scaling ...`."""
