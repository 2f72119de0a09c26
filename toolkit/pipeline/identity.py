"""What a stage's result is a function of, and the hash of it.

    key = blake2b(canonical JSON of {kind, round, version, spec slice, input keys, file digests,
                                     seed, hardware})
Never the hash of source code: a stage's version is raised by hand.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.pipeline.digests import Digests, function_file
from toolkit.pipeline.graph import OUTSIDE_KEYS, Node
from toolkit.pipeline.machine import Machine
from toolkit.spec.schema import Spec


def flatten(value: Any, path: str) -> dict[str, Any]:
    """Return dotted path -> JSON value for every leaf of a section; an empty mapping is a leaf."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping) and value:
        leaves: dict[str, Any] = {}
        for name, part in value.items():
            leaves.update(flatten(part, f"{path}.{name}"))
        return leaves
    if isinstance(value, (list, tuple)):
        value = list(value)
    return {path: value}


def spec_slice(spec: Spec, paths: tuple[str, ...], ignored: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the leaves below `paths`, without `ignored` and those that only judge a result."""
    leaves: dict[str, Any] = {}
    for path in paths:
        value: Any = spec
        for name in path.split("."):
            value = getattr(value, name) if value is not None else None
        leaves.update(flatten(value, path))
    outside = (*OUTSIDE_KEYS, *ignored)
    return {p: v for p, v in leaves.items() if not _below(p, outside)}


def _below(path: str, sections: tuple[str, ...]) -> bool:
    return any(path == section or path.startswith(section + ".") for section in sections)


def compute_parts(
    spec: Spec, node: Node, input_keys: Mapping[str, str], machine: Machine, digests: Digests
) -> dict[str, Any]:
    """Return everything the result of `node` depends on, as JSON-able values.

    Args:
        spec: the resolved spec.
        node: the stage.
        input_keys: stage kind -> key of the result it reads.
        machine: resolved hardware.
        digests: where file digests come from.
    """
    files: dict[str, str] = {}
    for path in node.files:
        files.update(digests.tree(path))
    # by its name in the run folder: a run that is moved keeps its results
    files |= own_digests(Path(spec.out), node, digests)
    for reference in node.functions:
        files.update(digests.tree(function_file(reference)))
    return {
        "kind": node.kind,
        "round": node.round,
        "version": node.version,
        "spec": spec_slice(spec, node.paths, node.ignored),
        "inputs": dict(input_keys),
        "files": files,
        "seed": spec.seed,
        "hardware": _hardware(spec, machine) if node.computes else {},
    }


def own_digests(run: Path, node: Node, digests: Digests) -> dict[str, str]:
    """Return name -> digest of the files of the run folder that `node` reads and no stage wrote."""
    return {name: digests.file(run / name) for name in node.own}


def _hardware(spec: Spec, machine: Machine) -> dict[str, Any]:
    hardware = spec.hardware
    on_gpu = {"cuda_graphs": hardware.cuda_graphs} if machine.gpu else {}  # a CPU knows none
    return {
        "device": machine.device_text,
        "precision": hardware.precision,
        "threads": machine.threads,
        "micro_batch": hardware.micro_batch,
        "fused_head": hardware.fused_head,
        "gradient_checkpointing": hardware.gradient_checkpointing,
        "deterministic": hardware.deterministic,
        "kernels": machine.isa,
        **on_gpu,
    }


def compute_key(parts: Mapping[str, Any]) -> str:
    """Return 64 hex digits for `parts`; the order of mappings does not matter."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode("ascii"), digest_size=32).hexdigest()
