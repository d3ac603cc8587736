"""Text from files, the hub or the standard library, as token files and training windows."""
