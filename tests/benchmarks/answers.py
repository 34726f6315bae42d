"""What each side answered to each task, kept on disk: a rerun only redoes what changed.

One JSON file a task and side under `build/benchmarks/answers/`, with the key of everything that the
answer depends on; an answer of another key does not count.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from shardwright.domain import Shard, ShardingPlan, ShardingProblem

ROOT = Path("build/benchmarks/answers")

FORMAT = 1


@dataclass(frozen=True)
class Answer:
    """Of one side to one task.

    Attributes:
        plan: None when it found none.
        cpu_s: Process time it took.
        predicted_ms: What the side itself thinks its plan costs; None when it does not say.
        note: Why there is no plan.
    """

    plan: ShardingPlan | None
    cpu_s: float
    predicted_ms: float | None = None
    note: str = ""


def read(task: str, side: str, key: str, problem: ShardingProblem) -> Answer | None:
    """An answer of this key; None when there is none."""
    try:
        kept = json.loads(_path(task, side).read_text())
    except FileNotFoundError:
        return None
    if kept["key"] != _full(key):
        return None
    plan = None if kept["shards"] is None else _plan(kept["shards"], problem)
    return Answer(plan, kept["cpu_s"], kept["predicted_ms"], kept["note"])


def write(task: str, side: str, key: str, problem: ShardingProblem, answer: Answer) -> None:
    """Keeps an answer, in place of any older one, all or nothing."""
    kept: dict[str, Any] = {"key": _full(key), **asdict(answer)}
    del kept["plan"]
    kept["shards"] = None if answer.plan is None else _shards(answer.plan, problem)
    path = _path(task, side)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(kept))
    part.replace(path)


def digest(*modules: ModuleType) -> str:
    """Of the sources of modules, and of all modules of packages: 12 hex digits."""
    found = hashlib.sha256()
    for module in modules:
        file = Path(str(module.__file__))
        files = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
        for source in files:
            found.update(source.read_bytes())
    return found.hexdigest()[:12]


def _full(key: str) -> str:
    return f"{FORMAT} {key}"


def _path(task: str, side: str) -> Path:
    return ROOT / task / f"{side}.json"


def _shards(plan: ShardingPlan, problem: ShardingProblem) -> list[list[int]]:
    index = {table.name: i for i, table in enumerate(problem.tables)}
    return [
        [index[s.table], s.device, s.row_offset, s.num_rows, s.column_offset, s.num_columns]
        for s in plan.shards
    ]


def _plan(shards: list[list[int]], problem: ShardingProblem) -> ShardingPlan:
    return ShardingPlan(tuple(Shard(problem.tables[i].name, *rest) for i, *rest in shards))
