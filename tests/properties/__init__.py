"""Properties that hold for every input: agreement with the oracle, and what changes nothing."""
