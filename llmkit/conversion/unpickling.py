"""The process that reads pickled weights: run by itself, it has no network and keeps tensors only.

python -I unpickling.py OUT FILE.bin [FILE.bin ...]
"""

import errno
import json
import re
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

# Events of Python's audit hooks (PEP 578) that reading weights has no need of.
FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "urllib.")


def refuse(event: str, arguments: tuple[object, ...]) -> None:
    """Refuse the network and other programs, whatever a pickle may try."""
    if event.startswith(FORBIDDEN):
        raise PermissionError(f"{event} is not allowed while weights are read")


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict; tied tensors become copies, since safetensors keeps no shared memory."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    return {str(name): t.detach().clone().contiguous() for name, t in state.items() if isinstance(t, torch.Tensor)}


def explain(err: Exception) -> str:
    """Say in one line why a file cannot be read; torch's own words advise to run the code that it holds."""
    if type(err).__name__ == "UnpicklingError":
        asked_for = re.search(r"GLOBAL (\S+)", str(err))
        return f"it asks for {asked_for[1]}, which is no tensor" if asked_for else "it is not a file of torch.save"
    return f"it is damaged ({str(err).partition(chr(10))[0][:100] or type(err).__name__})"


def main(out: Path, files: list[Path]) -> None:
    """Write each file's tensors as safetensors, and an index where there are several."""
    index: dict[str, str] = {}
    total = 0
    for number, path in enumerate(files, 1):
        name = "model.safetensors" if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
        try:
            tensors = read_tensors(path)
        except Exception as err:  # one line for the parent process
            sys.exit(f"{path.name}: {explain(err)}")
        if not tensors:
            sys.exit(f"{path.name}: it holds no tensors")
        try:
            save_file(tensors, str(out / name), metadata={"format": "pt"})
        except Exception as err:  # safetensors has an error of its own for a full disk
            sys.stderr.write(str(err).partition("\n")[0])
            raise SystemExit(errno.EIO) from None  # 1 says that the weights cannot be read
        index |= dict.fromkeys(tensors, name)
        total += sum(t.numel() * t.element_size() for t in tensors.values())
    if len(files) > 1:
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2, sort_keys=True)
        (out / "model.safetensors.index.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.addaudithook(refuse)
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
