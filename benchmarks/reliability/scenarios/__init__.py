# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a running service, done to a real one; each scenario returns counts of what callers saw."""
