from __future__ import annotations

import subprocess
import sys

_CODE = """
import sys
import sartor.data, sartor.nn
optional = {"timm", "torchvision", "PIL", "sklearn", "datasets"}
print(sorted(optional & {name.split(".")[0] for name in sys.modules}))
"""


def test_no_optional_package_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CODE], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
