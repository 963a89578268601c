# SPDX-License-Identifier: Apache-2.0
"""TensorRT engines of the members: built on the node that serves them, proven, kept in a cache, linked to Triton."""
