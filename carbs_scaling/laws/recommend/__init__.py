"""Recipes, batch rules and advice from a fitted law."""
