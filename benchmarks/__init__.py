"""What Millstream claims about speed, each claim measured beside a peer in one run: `python -m benchmarks`."""
