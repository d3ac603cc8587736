"""Laws of loss curves under learning-rate schedules; SGD and Adam as SDEs."""
