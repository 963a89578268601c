# SPDX-License-Identifier: Apache-2.0
"""A file of universes to a folder of estimates: ``python with_ray.py URL returns.parquet universes.parquet out``."""

import sys

import pandas as pd
import ray

from sigmahat_client.batches import score_batches


def main(url: str, returns_path: str, universes_path: str, out: str) -> None:
    returns = ray.put(pd.read_parquet(returns_path))
    universes = ray.data.read_parquet(universes_path)
    estimates = universes.map_batches(
        lambda batch: next(score_batches([batch], ray.get(returns), url=url)), batch_size=512, batch_format="pyarrow"
    )
    estimates.write_parquet(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
