# SPDX-License-Identifier: Apache-2.0
"""The client talks TLS, trusts whom it is told to trust, and shows its own certificate where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
import pytest
from client.fake_server import fake_server

from sigmahat_client import InvalidRequest, ServerUnavailable, ShrinkageClient, Tls

trustme = pytest.importorskip("trustme", reason="needs sigmahat[dev]")

RETURNS = 0.01 * np.random.default_rng(0).standard_normal((25, 4))


class Files(NamedTuple):
    """Certificates of one authority, as files."""

    root: Path
    chain: Path
    key: Path


def issue(folder: Path) -> Files:
    folder.mkdir()
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1", "localhost", "risk.example")
    files = Files(folder / "ca.pem", folder / "chain.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(files.root)
    leaf.private_key_pem.write_to_path(files.key)
    for blob in leaf.cert_chain_pems:
        blob.write_to_path(files.chain, append=True)
    return files


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return issue(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return issue(tmp_path_factory.mktemp("tls") / "theirs")


@pytest.fixture(scope="module", params=["server alone", "both"])
def mutual(request: pytest.FixtureRequest) -> bool:
    return request.param == "both"


@pytest.fixture(scope="module")
def url(ours: Files, mutual: bool) -> Iterator[str]:
    credentials = grpc.ssl_server_credentials(
        [(ours.key.read_bytes(), ours.chain.read_bytes())],
        root_certificates=ours.root.read_bytes() if mutual else None,
        require_client_auth=mutual,
    )
    with fake_server(credentials=credentials) as server:
        yield server.url


def ask(url: str | list[str], tls: Tls | None) -> None:
    with ShrinkageClient(url, tls=tls, retry_s=0) as client:
        assert client.estimate(RETURNS).status == 0


def test_the_right_certificates_pass(url: str, ours: Files):
    ask(url, Tls(ours.root, ours.chain, ours.key))
    name = Tls(ours.root, ours.chain, ours.key, server_name="risk.example")
    ask(url, name)
    ask([url, url.replace("127.0.0.1", "localhost")], name)


def test_no_certificate_passes_only_where_none_is_asked_for(url: str, ours: Files, mutual: bool):
    if mutual:
        with pytest.raises(ServerUnavailable):
            ask(url, Tls(ours.root))
    else:
        ask(url, Tls(ours.root))


@pytest.mark.parametrize("kind", ["authority", "name", "plaintext"])
def test_what_is_wrong_is_refused(url: str, ours: Files, theirs: Files, kind: str):
    tls = {
        "authority": Tls(theirs.root, ours.chain, ours.key),
        "name": Tls(ours.root, ours.chain, ours.key, server_name="other.example"),
        "plaintext": None,
    }[kind]
    with pytest.raises(ServerUnavailable):
        ask(url, tls)


def test_files_are_checked_first(ours: Files, tmp_path: Path):
    with pytest.raises(InvalidRequest, match=r"root_certificates must be a PEM file, but .*none\.pem is none"):
        ShrinkageClient(tls=Tls(tmp_path / "none.pem"))
    with pytest.raises(InvalidRequest, match="go together"):
        ShrinkageClient(tls=Tls(ours.root, ours.chain))
