# SPDX-License-Identifier: Apache-2.0
"""Install Chromium and its driver from Debian, for the tests that look at pages.

Unlike the tools of tests/cluster it needs a hundred libraries in their places, so it is installed, not unpacked. Where
that is not allowed, or there is no Debian, the tests say that there is no Chromium, and are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess

PACKAGES = ("chromium", "chromium-driver", "fonts-dejavu-core")


def main() -> None:
    """Install what is missing, quietly; say why not."""
    if shutil.which("chromium") and shutil.which("chromedriver"):
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print("no Chromium: it needs apt-get and root; the tests that look at pages are skipped")
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(
            ["apt-get", "--quiet", "--quiet", *command], env=environment, check=False, stdout=subprocess.DEVNULL
        )
        if done.returncode:
            print(f"no Chromium: apt-get {command[0]} failed; the tests that look at pages are skipped")
            return


if __name__ == "__main__":
    main()
