# SPDX-License-Identifier: Apache-2.0
# The engine on the pip-installed Triton, for machines without a GPU. Build from the root of the checkout:
#   docker build -f deploy/docker/cpu.Dockerfile -t sigmahat:0.1.0-cpu .
# Any Debian 12 does as a base; for a release, pin it: --build-arg BASE=docker.io/library/debian@sha256:...
ARG BASE=docker.io/library/debian:bookworm-slim
FROM ${BASE}

# libpython3.11 is what Triton's Python models run in. Debian's mirror keeps only the newest build of each.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libpython3.11 python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

COPY . /src
RUN python3 -m venv /opt/sigmahat \
    && /opt/sigmahat/bin/pip install --no-cache-dir -c /src/constraints.txt '/src[serve]' \
    && cp -r /src/model_repository /opt/sigmahat/model_repository \
    && rm -rf /src

# The kernels of the processor that builds. Another one's are compiled when a container starts, into /tmp: some 15 s.
ENV NUMBA_CACHE_DIR=/opt/sigmahat/kernels
RUN /opt/sigmahat/bin/python -m sigmahat_kernels.lanes

# Only /tmp and /dev/shm are written.
ENV HOME=/tmp \
    PATH=/opt/sigmahat/bin:/usr/bin:/bin
WORKDIR /opt/sigmahat
USER 10001:10001
EXPOSE 8001 8002
HEALTHCHECK --interval=15s --timeout=15s --start-period=60s CMD ["sigmahat", "probe", "--or-progress-within-s", "1200"]
CMD ["sigmahat", "serve", "--host", "0.0.0.0", "--model-repository", "/opt/sigmahat/model_repository"]
