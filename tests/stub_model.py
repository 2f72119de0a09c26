"""A model folder that `check` takes for whole, without a tensor in it."""

import json
from pathlib import Path


def make_stub_model(folder: Path, **config: object) -> Path:
    """Write a configuration and a safetensors file that holds nothing; return the folder.

    It is of type gpt2, unless `config` names another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": "gpt2"} | config
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    head = b"{}"
    (folder / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
    return folder
