"""Plays recorded two-replica cases of Keras 3 with our layer: `python keras_replicas.py RECORDS RESULTS`."""

import json
import sys

import numpy as np
import tensorflow as tf

import golden_data


def main(source, target):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    with open(source) as file:
        records = json.load(file)
    with open(target, "w") as file:
        json.dump([play(record) for record in records], file)


def play(record):
    from batchnorm.keras.layers import BatchNormalization

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    xs = [tf.constant(golden_data.distributed_input(record, replica)) for replica in range(2)]
    with strategy.scope():
        layer = BatchNormalization(momentum=0.9, **record["options"])
        layer.build((None, *xs[0].shape[1:]))
    batch = strategy.experimental_distribute_values_from_function(lambda c: xs[c.replica_id_in_sync_group])

    @tf.function
    def step(batch):
        return strategy.run(train, args=(batch,))

    def train(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(y**3)
        return y, tape.gradient(loss, x)

    result = {}
    for t in (1, 2):
        y, dx = step(batch)
        result[f"y_step{t}"], result["dx"] = joined(strategy, y), joined(strategy, dx)
    return result | {"vars": {v.name: v.numpy().tolist() for v in layer.weights}}


def joined(strategy, value):
    return (
        np.concatenate([part.numpy() for part in strategy.experimental_local_results(value)]).ravel().tolist()
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
