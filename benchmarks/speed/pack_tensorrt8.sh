#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Packs TensorRT 8.5.3.1 and a Python 3.10 into pieces of 50 MiB, for a GPU machine without a network:
#   pack_tensorrt8.sh OUT PYTHON_PREFIX [WHEEL]
# On that machine, with all pieces in one folder:
#   for i in 0 1 2; do cat tensorrt8.$i.piece.* | xz -dc | tar x; done
#   python -m benchmarks.speed.gpu_engines --tensorrt8 .
# PYTHON_PREFIX holds bin/python3.10 and lib/; WHEEL is downloaded (549 MB) if it is not given.
# cuBLAS and cuDNN, which only TensorRT's plugins call, are replaced by stubs: it loads, and the members need no plugin.
set -euo pipefail
out=$(realpath -m "$1") prefix=$(realpath "$2") wheel=${3:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work/tree/stubs" "$work/tree/python/lib"
if [ -z "$wheel" ]; then
  python3 -m pip download --no-deps --only-binary=:all: --python-version 3.10 --implementation cp --abi cp310 \
    --platform manylinux_2_17_x86_64 -d "$work" tensorrt==8.5.3.1
  wheel=$(ls "$work"/tensorrt-8.5.3.1-*.whl)
fi
python3 -m zipfile -e "$wheel" "$work/tree"

# Empty functions under the names and versions that the plugin library asks of each of the three.
python3 - "$work/tree" <<'PY'
import collections, re, subprocess, sys
from pathlib import Path

tree = Path(sys.argv[1])
(plugin,) = tree.rglob("libnvinfer_plugin.so.8")
wanted = collections.defaultdict(set)
listing = subprocess.run(["nm", "-D", "--undefined-only", plugin], capture_output=True, text=True, check=True).stdout
for line in listing.splitlines():
    if match := re.search(r" U ((?:cublasLt|cublas|cudnn)\w+)@+(\S+)", line):
        wanted[match[2]].add(match[1])
assert set(wanted) == {"libcublas.so.11", "libcublasLt.so.11", "libcudnn.so.8"}, set(wanted)
for library, symbols in wanted.items():
    source, version = tree / "s.c", tree / "s.map"
    source.write_text("".join(f"int {name}(void) {{ return 1; }}\n" for name in sorted(symbols)))
    version.write_text(f"{library} {{ global: *; }};\n")
    subprocess.run(
        ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", f"-Wl,--version-script={version}",
         "-o", tree / "stubs" / library, source],
        check=True,
    )
    source.unlink(), version.unlink()
    print(library, len(symbols), "symbols")
PY

mkdir -p "$work/tree/python/bin"
cp -L "$prefix/bin/python3.10" "$work/tree/python/bin/"
cp -r "$prefix/lib/python3.10" "$work/tree/python/lib/"
cp -L "$prefix"/lib/libpython3.10.so* "$work/tree/python/lib/" 2>/dev/null || true
rm -rf "$work"/tree/python/lib/python3.10/{site-packages,test,idlelib,ensurepip,tkinter,lib2to3,config-*}

cd "$work/tree"
mkdir -p tensorrt
find . -path ./python -prune -o -name 'libnv*.so*' -exec mv -n {} tensorrt/ \;
large=(tensorrt/libnvinfer.so.8 tensorrt/libnvinfer_builder_resource.so.8.5.3)
i=0
for file in "${large[@]}"; do
  tar c "$file" | xz --x86 --lzma2=preset=6,dict=128MiB > "$work/tensorrt8.$i.xz"
  i=$((i + 1))
done
tar c $(printf -- '--exclude=%s ' "${large[@]}") . | xz --x86 --lzma2=preset=6,dict=128MiB > "$work/tensorrt8.$i.xz"
for archive in "$work"/tensorrt8.*.xz; do
  split -b 50M -d "$archive" "$out/$(basename "$archive" .xz).piece."
done
ls -l "$out"
