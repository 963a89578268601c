# SPDX-License-Identifier: Apache-2.0
"""How long things take, on a CPU, through the service and on a GPU."""
