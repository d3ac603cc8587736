"""What tasks of somebody's own program share: space, placeholders, processes, and what is read of a run."""
