"""What the server keeps on disk: rows in a database, model versions in files."""
