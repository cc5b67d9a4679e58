"""What the graph scenarios share: case options as layer arguments, and what a graph holds afterwards."""

from originals import inputs

OWN = ("mask", "reg", "adjustment", "renorm_clipping_as_tensors", "activation", "batch_weights")


def layer_arguments(api, case):
    """The case's options as constructor arguments: plain ones as they are, the symbolic ones built."""
    tf, v1, options = api.tf, api.v1, case["options"]
    arguments = {k: v for k, v in options.items() if k not in OWN}
    if options.get("renorm_clipping") and options.get("renorm_clipping_as_tensors"):
        clipping = {k: tf.constant(v, tf.float32) for k, v in options["renorm_clipping"].items()}
        arguments["renorm_clipping"] = clipping
    constants = inputs.adjustment(inputs.as_case(case))
    if constants is not None:
        scale, offset = constants
        arguments["adjustment"] = lambda shape: (tf.constant(scale), tf.constant(offset))
    values = inputs.custom_initial_values(case)
    return arguments, {k: v1.constant_initializer(v) for k, v in values.items()}


def l2(api, factor):
    return lambda w: factor * api.tf.reduce_sum(w * w)


def training_argument(api, case, value):
    """`training` as the case wants it given; a placeholder comes with the feed that sets it."""
    kind = case["train_kind"]
    if kind == "bool":
        return value
    if kind == "int":
        return int(value)
    if kind == "const":
        return api.tf.constant(value)
    raise ValueError(f"train_kind {kind!r}")


def describe_variables(api, variables=None):
    variables = api.v1.global_variables() if variables is None else variables
    return [[v.op.name, v.shape.as_list(), v.dtype.base_dtype.name] for v in variables]


def collections(api, graph):
    """Every collection's members by name; variable scopes' own bookkeeping is left out."""
    found = {}
    for key in graph.get_all_collection_keys():
        if isinstance(key, str) and not key.startswith(("__", "cond_context", "while_context")):
            found[key] = [member_name(m) for m in graph.get_collection(key)]
    return found


def member_name(member):
    """An operation's name; a tensor's likewise, with its output number unless that is 0."""
    name = getattr(member, "name", None) or str(member)
    return name.removesuffix(":0")


def state(variables, values):
    """The non-trainable variables' values by the last part of their names."""
    return {
        short(v): value
        for v, value in zip(variables, values, strict=True)
        if short(v) not in ("gamma", "beta")
    }


def short(variable):
    return variable.op.name.rsplit("/", 1)[-1]
