"""Engines: where the clients of a cell run. In this process, on Ray, or as real processes."""
