"""Scaling laws: plain functions on arrays that know nothing of studies or training."""
