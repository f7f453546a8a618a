"""Importing the package costs little."""

import subprocess
import sys


def test_heavy_libraries_are_imported_late() -> None:
    modules = "checkpoints folder metrics progress report"
    code = f"import sys\nfor m in '{modules}'.split(): __import__('qfleet.runs.' + m)\n"
    code += "print([m for m in ('torch', 'tensorboard', 'tensorflow', 'rich', 'scipy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_tensorboard_brings_neither_torch_nor_tensorflow() -> None:
    code = "import sys, tempfile\nfrom pathlib import Path\nfrom qfleet.runs.metrics import MetricsWriter\n"
    code += "MetricsWriter(Path(tempfile.mkdtemp())).close()\n"
    code += "print([m for m in ('torch', 'tensorflow') if m in sys.modules], 'tensorboard' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[] True\n"
