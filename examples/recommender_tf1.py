"""A recommender as TensorFlow 1 programs were written: embeddings, dense layers and batch normalization.

Only the import of `layers` is new. `python examples/recommender_tf1.py [steps]` prints the loss and the area under the
curve on held-out pairs of users and items that a hidden taste made.
"""

import sys

import numpy as np
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from batchnorm.compat.v1 import layers

v1 = tf.compat.v1
USERS, ITEMS, SIZE = 200, 300, 16


def dense(name: str, x: tf.Tensor, width: int) -> tf.Tensor:
    kernel = v1.get_variable(name, [x.shape[-1], width], initializer=v1.glorot_uniform_initializer())
    return tf.matmul(x, kernel)


def network(users: tf.Tensor, items: tf.Tensor, training: tf.Tensor) -> tf.Tensor:
    """One logit for each pair."""
    table = {n: v1.get_variable(n, [size, SIZE]) for n, size in (("users", USERS), ("items", ITEMS))}
    u, i = tf.nn.embedding_lookup(table["users"], users), tf.nn.embedding_lookup(table["items"], items)
    x = layers.batch_normalization(tf.concat([u, i, u * i], axis=1), training=training, momentum=0.9)
    for index, width in enumerate((64, 32)):
        x = dense(f"dense{index}", x, width)
        x = tf.nn.elu(layers.batch_normalization(x, training=training, momentum=0.9))
    return tf.squeeze(dense("out", x, 1), 1)


def main(steps: int) -> None:
    v1.disable_eager_execution()
    v1.set_random_seed(0)
    rng = np.random.default_rng(0)
    taste = rng.standard_normal((USERS, 4)) @ rng.standard_normal((4, ITEMS))
    held = rng.random((USERS, ITEMS)) < 0.2
    users, items = v1.placeholder(tf.int32, [None]), v1.placeholder(tf.int32, [None])
    liked, training = v1.placeholder(tf.float32, [None]), v1.placeholder_with_default(False, [])
    logits = network(users, items, training)
    loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=liked, logits=logits))
    optimizer = v1.train.AdamOptimizer(1e-2).minimize(loss)
    step = tf.group(optimizer, v1.get_collection(v1.GraphKeys.UPDATE_OPS))
    known, unknown = np.argwhere(~held), np.argwhere(held)
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        for number in range(1, steps + 1):
            u, i = known[rng.integers(len(known), size=512)].T
            feed = {users: u, items: i, liked: taste[u, i] > 0, training: True}
            value, _ = session.run([loss, step], feed)
            if number % max(steps // 5, 1) == 0:
                u, i = unknown.T
                scores = session.run(logits, {users: u, items: i})
                print(f"step {number}: loss {value:.3f}, AUC {roc_auc_score(taste[u, i] > 0, scores):.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
