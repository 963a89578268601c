# SPDX-License-Identifier: Apache-2.0
"""A file of universes to a folder of estimates: ``python with_dask.py URL returns.parquet universes.parquet out``."""

import sys

import dask.dataframe as dd
import pandas as pd

from sigmahat_client.batches import result_schema, score_batches


def main(url: str, returns_path: str, universes_path: str, out: str) -> None:
    returns = pd.read_parquet(returns_path)
    universes = dd.read_parquet(universes_path).repartition(npartitions=4)
    estimates = universes.map_partitions(
        lambda part: next(score_batches([part], returns, url=url)), meta=result_schema().empty_table().to_pandas()
    )
    estimates.to_parquet(out, schema=result_schema(), write_index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
