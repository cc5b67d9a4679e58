"""One numeric case of a Keras BatchNormalization layer, eager: three training steps and one of inference."""

from originals import graphs, inputs


def numeric(api, case, extra=None):
    """In the form of the golden files' `expect`. `extra` are arguments that only our layer knows."""
    tf = api.tf
    layer = build(api, case, extra or {})
    steps = [step(api, layer, inputs.as_case(case), t) for t in range(4)]
    return {
        "fused": bool(getattr(layer, "fused", False)),
        "y_dtype": steps[0].pop("y_dtype"),
        "variables": [[full_name(v), list(v.shape), tf.as_dtype(v.dtype).name] for v in layer.weights],
        "trainable": [full_name(v) for v in layer.trainable_weights],
        "regularization_losses": [tf.cast(loss, tf.float64).numpy() for loss in layer.losses],
        "config": sorted(layer.get_config()),
        "steps": steps,
    }


def build(api, case, extra):
    tf, options = api.tf, case["options"]
    arguments = {k: v for k, v in options.items() if k not in graphs.OWN} | extra
    constants = inputs.adjustment(inputs.as_case(case))
    if constants is not None:
        scale, offset = constants
        arguments["adjustment"] = lambda shape: (tf.constant(scale), tf.constant(offset))
    if options.get("reg") == "l2":
        arguments |= {"gamma_regularizer": graphs.l2(api, 0.05), "beta_regularizer": graphs.l2(api, 0.05)}
    for name, value in inputs.custom_initial_values(case).items():
        arguments[f"{name}_initializer"] = constant(api, value)
    arguments.setdefault("name", "batch_normalization")
    return api.keras_layer(axis=case["axis"], dtype=case["policy"], **arguments)


def constant(api, value):
    """An initializer that both Keras versions call, each with the arguments of its own protocol."""
    return lambda shape, dtype=None, **_: api.tf.reshape(api.tf.cast(api.tf.constant(value), dtype), shape)


def full_name(variable):
    """Keras 3 tells a variable's full name as its path, Keras 2 as its name."""
    return getattr(variable, "path", variable.name).removesuffix(":0")


def training_argument(case, training):
    if case.train_kind == "int":
        return int(training)
    if case.train_kind == "none":
        return True if training else None
    return training


def step(api, layer, case, t):
    tf, training = api.tf, inputs.STEPS[t]
    x, w = tf.constant(inputs.input_at(case, t)), tf.constant(inputs.loss_weights_at(case, t))
    mask = {"mask": tf.constant(inputs.mask_at(case, t))} if case.options.get("mask") else {}
    if not layer.built:
        layer.build(case.shape)
    affine = {last(v): v for v in layer.weights if last(v) in ("gamma", "beta")}
    sources = {"dx": x} | {f"d{k}": watched(v) for k, v in affine.items()}
    with tf.GradientTape() as tape:
        for source in sources.values():
            tape.watch(source)
        y = layer(x, training=training_argument(case, training), **mask)
        loss = tf.reduce_sum(w * y)
    grads = tape.gradient(loss, list(sources.values()))
    result = {"training": training, "y": y.numpy()}
    result |= {k: g.numpy() for k, g in zip(sources, grads, strict=True) if g is not None}
    if training:
        moving = [v for v in layer.weights if last(v) not in affine]
        result["vars"] = {last(v): api.np.asarray(v.numpy()) for v in moving}
    return result | ({"y_dtype": y.dtype.name} if t == 0 else {})


def watched(variable):
    """What a tape can watch: Keras 3 wraps TensorFlow's variable."""
    return variable if callable(variable.value) else variable.value


def last(variable):
    return full_name(variable).rsplit("/", 1)[-1]
