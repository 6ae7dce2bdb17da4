"""What every config says about devices, memory and safety, so that a flag can change it.

On one machine or many, the run is the same: these fields say how it is computed.
"""

from typing import Any

from ml_collections import ConfigDict

# What moments are kept in, and where the optimizer's state waits.
OPTIMIZER = dict(momentum_dtype='float32', offload=False)


def scale(config: ConfigDict) -> None:
    """Copies of the model on all devices, and the usual safety."""
    config.mesh = dict(data=-1, fsdp=1, tensor=1)
    config.sharding = ()
    config.microbatches = 1
    config.safety = dict(spike=10.0, rollback_after=10, max_rollbacks=3, stall_minutes=15.0)


def schedule(num_steps: int, log_every: int, checkpoint_every: int, keep: int) -> dict[str, Any]:
    """A schedule in steps; checkpoints by the clock and by a metric are off."""
    return dict(
        num_steps=num_steps,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        keep=keep,
        checkpoint_minutes=0.0,
        best=dict(metric='', mode='min', keep=1),
    )


def softmax(margin: float = 0.0, label_smoothing: float = 0.0) -> dict[str, Any]:
    """The contrastive softmax, all scores at once; by='ring' computes them tile by tile."""
    return dict(
        kind='softmax', margin=margin, label_smoothing=label_smoothing, by='gathered', tile=256
    )


def sigmoid() -> dict[str, Any]:
    """The contrastive sigmoid, likewise."""
    return dict(kind='sigmoid', by='gathered', tile=256)


def space(
    *sides: str,
    embedding: int,
    temperature: float,
    heads: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A space that compares its sides by cosine; a linear head for each side without another."""
    linear = dict(kind='linear', bias=False)
    return dict(
        sides=sides,
        embedding=embedding,
        heads={side: (heads or {}).get(side, dict(linear)) for side in sides},
        similarity=dict(kind='cosine'),
        temperature=temperature,
        **more,
    )
