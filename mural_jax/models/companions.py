"""Companions: further models of a run, which teach the model that it trains."""

import dataclasses
from collections.abc import Mapping
from typing import Any

COMPANIONS = 'companions'  # their subtree of the parameters, which no export contains


@dataclasses.dataclass(frozen=True)
class Companion:
    """Settings of a further model: a teacher, or a peer that learns in the same step.

    model: Its node, as config.model is one.
    frozen: Whether it keeps its weights; a frozen companion runs as in evaluation.
    init_from: Where its weights come from: the workdir of a run or a file. Empty takes
    config.init_from.model, the run whose weights this one starts from.
    """

    model: Mapping[str, Any]
    frozen: bool = True
    init_from: str = ''


def frozen_pattern(companions: Mapping[str, Companion]) -> str:
    """A pattern of the paths of parameters that no step changes; '' where there are none."""
    frozen = [name for name, companion in companions.items() if companion.frozen]
    return f'^{COMPANIONS}/({"|".join(frozen)})/' if frozen else ''
