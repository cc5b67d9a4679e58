"""Calls a tracked tf.Module on two replicas, each on half of the batch: `python tracked_replicas.py RESULTS`."""

import json
import sys

import numpy as np
import tensorflow as tf

from batchnorm.compat.v1.keras.utils import track_tf1_style_variables
from batchnorm.compat.v1.layers import batch_normalization

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")


class Net(tf.Module):
    @track_tf1_style_variables
    def __call__(self, x, training=True):
        return batch_normalization(x, training=training, momentum=0.5, name="n")


def main(target):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    halves = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(X[context.replica_id_in_sync_group * 4 :][:4])
    )
    results = {}
    for where in ("scope", "replica"):
        with strategy.scope():
            net = Net()
            if where == "scope":
                net(X, training=False)
        tf.function(lambda net=net: strategy.run(net, (halves,)))()
        mean = next(v for v in net.variables if v.name == "n/moving_mean:0")
        results[where] = {
            "kinds": [type(v).__name__ for v in net.variables],
            "replicas": [value.numpy().tolist() for value in strategy.experimental_local_results(mean)],
            "mean": mean.numpy().tolist(),
        }
    with open(target, "w") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main(sys.argv[1])
