"""For tests, ours and yours: conformance suites for every protocol, and generators of events."""
