"""Tokens, steps and FLOPs to a loss, from loss curves; the critical batch."""
