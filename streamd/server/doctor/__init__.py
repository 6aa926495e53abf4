"""`streamd doctor`: checks whether the daemon can run here, with the code that it runs with; changes nothing."""
