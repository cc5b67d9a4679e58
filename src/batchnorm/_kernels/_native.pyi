"""What `csrc/bind_python.cc` exports. Addresses are ints, 0 for no array; see the C header for shapes."""

from typing import Final

Sizes = tuple[int, int, int, int, int]
# Activation, slope of leaky_relu, address of the residual.
Epilogue = tuple[int, float, int]

FLOAT32: Final[int]
FLOAT64: Final[int]
BFLOAT16: Final[int]
FLOAT16: Final[int]
ACTIVATIONS: Final[dict[str, int]]

def moments(
    type: int,
    sizes: Sizes,
    x: int,
    weights: int,
    by_group: bool,
    total: int,
    effective: int,
    mean: int,
    rest: int,
    variance: int,
    threads: int,
    /,
) -> None: ...
def apply(
    type: int,
    sizes: Sizes,
    x: int,
    mean: int,
    scale: int,
    shift: int,
    y: int,
    threads: int,
    /,
    epilogue: Epilogue | None = None,
) -> None: ...
def grad_sums(
    type: int,
    sizes: Sizes,
    dy: int,
    x: int,
    mean: int,
    dy_sum: int,
    dy_centered_sum: int,
    threads: int,
    /,
    epilogue: Epilogue | None = None,
    scale: int = 0,
    shift: int = 0,
    pulled: int = 0,
) -> None: ...
def grad_input(
    type: int,
    sizes: Sizes,
    dy: int,
    x: int,
    weights: int,
    by_group: bool,
    mean: int,
    slope: int,
    tilt: int,
    offset: int,
    dx: int,
    threads: int,
    /,
    epilogue: Epilogue | None = None,
    shift: int = 0,
) -> None: ...
def train(
    type: int,
    sizes: Sizes,
    x: int,
    gamma: int,
    beta: int,
    channels: int,
    epsilon: float,
    y: int,
    mean: int,
    rest: int,
    variance: int,
    scale: int,
    threads: int,
    /,
    epilogue: Epilogue | None = None,
    shift: int = 0,
) -> None: ...
def infer(
    type: int,
    sizes: Sizes,
    x: int,
    gamma: int,
    beta: int,
    channels: int,
    mean: int,
    variance: int,
    epsilon: float,
    y: int,
    threads: int,
    /,
    epilogue: Epilogue | None = None,
) -> None: ...
def gradients(
    type: int,
    sizes: Sizes,
    dy: int,
    x: int,
    mean: int,
    rest: int,
    variance: int,
    scale: int,
    epsilon: float,
    dx: int,
    dy_sum: int,
    dy_xhat_sum: int,
    threads: int,
    /,
    epilogue: Epilogue | None = None,
    shift: int = 0,
    pulled: int = 0,
) -> None: ...
def blend(
    type: int, groups: int, channels: int, rows: int, factor: float, share: float, old: int, /
) -> None: ...
def use_team(address: int, /) -> None: ...
def instructions() -> str: ...
def select_instructions(name: str | None) -> None: ...
def has_instructions(name: str) -> bool: ...
