"""Fitting the scaling law to a table of runs, with its noise, scatter and held-out check."""
