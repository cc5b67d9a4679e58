"""The mathematics, written once over any engine. Read `step` first."""
