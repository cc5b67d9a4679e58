"""Live originals: one scenario, run in a worker process against TensorFlow's own layers or against ours."""
