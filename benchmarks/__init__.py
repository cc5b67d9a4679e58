"""Batch normalization's training step, ours against tf_keras' and Keras 3's: `python -m benchmarks`."""
