# SPDX-License-Identifier: Apache-2.0
"""A file of universes to a folder of estimates: ``python with_spark.py URL returns.parquet universes.parquet out``."""

import sys

import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from sigmahat_client.batches import result_schema, score_batches


def main(url: str, returns_path: str, universes_path: str, out: str) -> None:
    spark = SparkSession.builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", 512).getOrCreate()
    returns = pd.read_parquet(returns_path)
    universes = spark.read.parquet(universes_path)
    estimates = universes.mapInPandas(
        lambda batches: score_batches(batches, returns, url=url), from_arrow_schema(result_schema())
    )
    estimates.write.parquet(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
