"""What a run is worth before it is made: gains of the front, of a lesson, of information."""
