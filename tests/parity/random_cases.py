"""Random option combinations that an original accepts and on which no deviation is expected."""

import random

CLIPPINGS = (None, {"rmax": 1.4, "rmin": 0.7, "dmax": 0.5}, {"rmax": 1.2}, {"rmin": 0.9}, {"dmax": 0.3})
SHAPES = ([6, 3], [6, 4, 3], [4, 3, 2, 5], [4, 2, 3, 2, 2], [6, 1], [4, 5, 4, 1])


def draw(api, seed):
    """One case in the goldens' form, without recorded numbers."""
    r = random.Random(f"{api} {seed}")
    return {"v1": v1, "contrib": contrib, "tf_keras": tf_keras, "keras3": keras3}[api](r, 9000 + seed)


def common(r, seed, dtypes):
    return {
        "seed": seed,
        "shape": r.choice(SHAPES),
        "dtype": r.choice(dtypes),
        "init": r.choice(["default", "custom"]),
    }


def shared_options(r):
    options = {"center": r.random() < 0.8, "scale": r.random() < 0.8, "epsilon": r.choice([1e-3, 1e-5, 0.1])}
    if r.random() < 0.3:
        options["reg"] = "l2"
    if r.random() < 0.2:
        options["trainable"] = False
    return options


def renorm_options(r, chance):
    if r.random() >= chance:
        return {}
    return {"renorm": True, "renorm_momentum": r.choice([0.7, 0.99]), "renorm_clipping": r.choice(CLIPPINGS)}


def axes(r, shape, several):
    rank = len(shape)
    if several and rank > 2 and r.random() < 0.3:
        return sorted(r.sample(range(1, rank), 2))
    return r.choice([-1, -1, 1])


def fusable(case):
    """Whether the original may run its fused kernel, which takes no mask."""
    axis, rank = case["axis"], len(case["shape"])
    return isinstance(axis, int) and rank in (4, 5) and axis % rank in (1, rank - 1)


def divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]


def v1(r, seed):
    case = common(r, seed, ["float32", "float32", "float64", "float16", "bfloat16"])
    case |= {
        "axis": axes(r, case["shape"], True),
        "train_kind": r.choice(["bool", "placeholder", "const", "int"]),
    }
    options = shared_options(r) | {"momentum": r.choice([0.0, 0.5, 0.9, 0.99])}
    options |= renorm_options(r, 0.4 if case["dtype"] != "float64" else 0.0)
    extra = r.choice(["", "ghosts", "adjustment", "mask"])
    if extra == "ghosts":
        options["virtual_batch_size"] = r.choice(divisors(case["shape"][0]))
    elif extra == "adjustment":
        options["adjustment"] = r.choice(["channel", "example", "scalar"])
    elif extra == "mask":
        options |= {"mask": True} | ({"fused": False} if fusable(case) else {})
    return case | {"options": options}


def contrib(r, seed):
    case = common(r, seed, ["float32", "float32", "float64", "float16"])
    case["train_kind"] = r.choice(["bool", "placeholder", "const"])
    options = shared_options(r) | {
        "decay": r.choice([0.5, 0.9, 0.999]),
        "data_format": r.choice(["NHWC", "NCHW"]),
    }
    options["updates_collections"] = r.choice(["update_ops", "update_ops", None, "my_updates"])
    kind = r.choice(["", "weights", "debias", "renorm", "adjustment"])
    if kind == "weights":
        options["batch_weights"] = r.choice(["int", "frac"])
    elif kind == "debias":
        options["zero_debias_moving_mean"] = True
    elif kind:
        options["updates_collections"] = "update_ops"
    if kind == "adjustment":
        options["adjustment"] = "channel"
    if kind == "renorm" and case["dtype"] != "float64":
        options |= {
            "renorm": True,
            "renorm_decay": r.choice([0.7, 0.99]),
            "renorm_clipping": r.choice(CLIPPINGS),
        }
    if case["dtype"] == "float64" or r.random() < 0.3:
        options["fused"] = False
    if options["updates_collections"] != "update_ops" or kind in ("weights", "debias"):
        options.pop("reg", None)
    if r.random() < 0.3:
        options["activation"] = "relu"
    return case | {"options": options}


def keras_case(r, seed, policies):
    case = common(r, seed, ["float32"])
    del case["dtype"]
    return case | {"policy": r.choice(policies), "train_kind": r.choice(["bool", "int", "none"])}


def tf_keras(r, seed):
    case = keras_case(r, seed, ["float32", "float32", "float64", "mixed_float16", "mixed_bfloat16"])
    case["axis"] = axes(r, case["shape"], True)
    options = shared_options(r) | {"momentum": r.choice([0.5, 0.9])}
    options |= renorm_options(r, 0.4 if case["policy"] != "float64" else 0.0)
    extra = r.choice(["", "ghosts", "adjustment", "mask"])
    if extra == "ghosts":
        options["virtual_batch_size"] = r.choice(divisors(case["shape"][0]))
    elif extra == "adjustment":
        options["adjustment"] = r.choice(["channel", "example"])
    elif extra == "mask":
        options |= {"mask": True} | ({"fused": False} if fusable(case) else {})
    return case | {"options": options}


def keras3(r, seed):
    case = keras_case(r, seed, ["float32", "float32", "float64", "mixed_float16", "mixed_bfloat16"])
    case["axis"] = axes(r, case["shape"], False)
    options = shared_options(r) | {"momentum": r.choice([0.5, 0.9])} | renorm_options(r, 0.4)
    # Its masked moments lose a channel axis of size one.
    if r.random() < 0.3 and case["shape"][case["axis"]] > 1:
        options["mask"] = True
    return case | {"options": options}
