"""Dimensions, their encoding in the unit cube, and the projection of points to legal ones."""
