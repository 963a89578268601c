# SPDX-License-Identifier: Apache-2.0
"""What a running service does under load: latency against throughput, where the time goes, and what is refused."""
