"""Our faces against the recorded goldens and against live originals."""
