"""Fields that every config has, so that a flag can change them: devices, memory, safety, losses.

A run gives the same results on one machine or many; most of these fields say how it is computed.
"""

from typing import Any

from ml_collections import ConfigDict

# The dtype of moments, and whether the optimizer's state waits in host memory.
OPTIMIZER = dict(momentum_dtype='float32', offload=False)


def scale(config: ConfigDict) -> None:
    """A copy of the model on every device, and the default safety."""
    config.mesh = dict(data=-1, fsdp=1, tensor=1)
    config.sharding = ()
    config.microbatches = 1
    config.safety = dict(spike=10.0, rollback_after=10, max_rollbacks=3, stall_minutes=15.0)


def schedule(num_steps: int, log_every: int, checkpoint_every: int, keep: int) -> dict[str, Any]:
    """A schedule in steps; checkpoints by time and by a metric are off."""
    return dict(
        num_steps=num_steps,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        keep=keep,
        checkpoint_minutes=0.0,
        best=dict(metric='', mode='min', keep=1),
    )


def softmax(margin: float = 0.0, label_smoothing: float = 0.0) -> dict[str, Any]:
    """The contrastive softmax over the whole score matrix; by='ring' computes it tile by tile."""
    return dict(
        kind='softmax', margin=margin, label_smoothing=label_smoothing, by='gathered', tile=256
    )


def sigmoid() -> dict[str, Any]:
    """The pairwise sigmoid over the whole score matrix; by='ring' computes it tile by tile."""
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
