"""What a project uses and counts while it runs: of every process, in files that any other can read."""
