"""Computing, the first layer: events and tables in, deltas and rows out to the buffer. It keeps no state of its own."""
