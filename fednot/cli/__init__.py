"""The control command `fednot`."""
