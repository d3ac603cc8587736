"""The samplers that the search is compared with, behind the same interface."""
