"""Speed and memory, each a file that prints its figures; imported by nothing."""
