"""Write expected_by_transformers_4.json: what transformers 4.57.6 answers to the calls of compat_cases.py.

Run by hand, in an environment of its own, from the folder of this file:

    python3.11 -m venv tf4
    tf4/bin/pip install torch==2.13.0 transformers==4.57.6 "huggingface_hub<1"
    tf4/bin/python expected_by_transformers_4.py
"""

import json
import pathlib
import tempfile
import warnings

import transformers
from compat_cases import CASES, plain
from compat_checkpoints import MAKERS

HERE = pathlib.Path(__file__).parent


def main():
    assert transformers.__version__ == "4.57.6", transformers.__version__
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    expected = {}
    with tempfile.TemporaryDirectory() as folder:
        for checkpoint, make in MAKERS.items():
            make(str(pathlib.Path(folder) / checkpoint))
        for name, checkpoint, task, settings, inputs, call in CASES:
            pipe = transformers.pipeline(task, model=str(pathlib.Path(folder) / checkpoint), device="cpu", **settings)
            expected[name] = plain(pipe(inputs, **call))
    lines = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in expected.items()]
    (HERE / "expected_by_transformers_4.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
