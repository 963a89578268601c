# SPDX-License-Identifier: Apache-2.0
"""Ask host:port of the command line for one golden inference, with the certificates of a folder if one follows it."""

import base64
import json
import struct
import sys
from pathlib import Path

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict
from tritonclient.grpc import service_pb2, service_pb2_grpc

TOLERANCE = 0.03
"""What an INT8 engine may differ from ONNX Runtime by."""


def main(address: str, certificates: Path | None) -> None:
    """Compare STATUS and INTENSITY with the golden answer."""
    here = Path(__file__).parent
    request = ParseDict(json.loads((here / "shrinkage.request.json").read_text()), service_pb2.ModelInferRequest())
    with _channel(address, certificates) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60, wait_for_ready=True)
    got = _outputs(MessageToDict(answer))
    wanted = _outputs(json.loads((here / "shrinkage.response.json").read_text()))
    close = all(abs(a - b) <= TOLERANCE for a, b in zip(got["INTENSITY"], wanted["INTENSITY"], strict=True))
    if got["STATUS"] != wanted["STATUS"] or not close:
        sys.exit(f"wanted the golden answer {wanted}, got {got} from {address}")
    print(f"{address} gives the golden answer: {got}")


def _channel(address: str, certificates: Path | None) -> grpc.Channel:
    options = [("grpc.enable_http_proxy", 0)]
    if certificates is None:
        return grpc.insecure_channel(address, options)
    pem = {
        name: path.read_bytes() for name in ("ca.crt", "tls.key", "tls.crt") if (path := certificates / name).exists()
    }
    credentials = grpc.ssl_channel_credentials(pem.get("ca.crt"), pem.get("tls.key"), pem.get("tls.crt"))
    return grpc.secure_channel(address, credentials, options)


def _outputs(answer: dict) -> dict[str, tuple]:
    formats = {"STATUS": "<2i", "INTENSITY": "<2f"}
    raw = {o["name"]: base64.b64decode(r) for o, r in zip(answer["outputs"], answer["rawOutputContents"], strict=True)}
    return {name: struct.unpack(format, raw[name]) for name, format in formats.items()}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else None)
