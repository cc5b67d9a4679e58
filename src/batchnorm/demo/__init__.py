"""What `python -m batchnorm demo` runs. Nothing in the package imports it."""
