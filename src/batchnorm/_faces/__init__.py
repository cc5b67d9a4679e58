"""What every API reads in the same way: bounds of renorm, adjustments, weights and masks, axes."""
