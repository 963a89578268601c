# SPDX-License-Identifier: Apache-2.0
"""What the features are worth, and the tables of the documentation."""
