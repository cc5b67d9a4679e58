"""A handwriting recogniser as TensorFlow 1 programs were written: only the import of `layers` is new.

Lines of digits (scikit-learn's) are read by a small convolutional network with a CTC loss: `python
examples/handwriting_tf1.py [steps]` prints the loss and the share of characters it got wrong.
"""

import sys

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from batchnorm.compat.v1 import layers

v1 = tf.compat.v1
LENGTH, BATCH = 4, 16


def lines(rng: np.random.Generator, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A batch of lines of digits, [batch, 8, 8·LENGTH, 1], and what is written on them."""
    chosen = rng.integers(len(images), size=(BATCH, LENGTH))
    rows = np.concatenate([images[chosen[:, k]] for k in range(LENGTH)], axis=2)
    return rows[..., None].astype(np.float32) / 16.0, labels[chosen].astype(np.int32)


def network(images: tf.Tensor, training: tf.Tensor) -> tf.Tensor:
    """Logits over ten digits and the blank, [time, batch, 11]."""
    x = images
    for index, (width, stride) in enumerate([(16, (1, 1)), (32, (2, 1)), (64, (4, 2))]):
        with v1.variable_scope(f"conv{index}"):
            kernel = v1.get_variable(
                "w", [3, 3, x.shape[-1], width], initializer=v1.glorot_uniform_initializer()
            )
            x = tf.nn.conv2d(x, kernel, strides=[1, *stride, 1], padding="SAME")
            x = tf.nn.relu(layers.batch_normalization(x, momentum=0.9, training=training))
    x = tf.transpose(tf.squeeze(x, [1]), [1, 0, 2])
    kernel = v1.get_variable("out", [x.shape[-1], 11], initializer=v1.glorot_uniform_initializer())
    return tf.einsum("tbc,cd->tbd", x, kernel)


def main(steps: int) -> None:
    v1.disable_eager_execution()
    v1.set_random_seed(0)
    digits = load_digits()
    rng = np.random.default_rng(0)
    images = v1.placeholder(tf.float32, [None, 8, 8 * LENGTH, 1])
    written = v1.placeholder(tf.int32, [None, LENGTH])
    training = v1.placeholder(tf.bool, [], name="is_train")
    logits = network(images, training)
    times = tf.fill([tf.shape(images)[0]], tf.shape(logits)[0])
    lengths = tf.fill([tf.shape(images)[0]], LENGTH)
    loss = tf.reduce_mean(
        tf.nn.ctc_loss(written, logits, lengths, times, logits_time_major=True, blank_index=10)
    )
    (decoded,), _ = v1.nn.ctc_greedy_decoder(logits, times)
    wrong = tf.reduce_mean(
        tf.edit_distance(
            tf.SparseTensor(decoded.indices, tf.cast(decoded.values, tf.int32) + 1, decoded.dense_shape),
            tf.sparse.from_dense(written + 1),
        )
    )
    with tf.control_dependencies(v1.get_collection(v1.GraphKeys.UPDATE_OPS)):
        step = v1.train.AdamOptimizer(3e-3).minimize(loss)
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        for number in range(1, steps + 1):
            x, y = lines(rng, digits.images[:1400], digits.target[:1400])
            value, _ = session.run([loss, step], {images: x, written: y, training: True})
            if number % max(steps // 5, 1) == 0:
                x, y = lines(rng, digits.images[1400:], digits.target[1400:])
                errors = session.run(wrong, {images: x, written: y, training: False})
                print(f"step {number}: loss {value:.3f}, characters wrong {errors:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
