# The benchmark worker, for NVIDIA GPUs. Build from the root of the repository:
#   docker build -f deploy/docker/worker.Dockerfile -t shardwright-worker:dev .
# CUDA 12.8 or newer with Python 3.11 or newer; torch and fbgemm-gpu must be built for that CUDA.
ARG CUDA_IMAGE=nvidia/cuda:12.8.1-runtime-ubuntu24.04

FROM ${CUDA_IMAGE} AS python
# the distribution's own Python: its versions change with every security fix
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

FROM python AS build
# Flags for pip, such as "--index-url URL" of an index that holds torch for another CUDA.
ARG TORCH_PIP_FLAGS=""
ARG TORCH_VERSION=2.13.0
ARG FBGEMM_VERSION=1.8.0
WORKDIR /src
COPY proto proto
COPY costmodel costmodel
COPY benchmark_worker benchmark_worker
RUN python3 -m venv /opt/shardwright \
    && /opt/shardwright/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels \
        ./proto ./costmodel ./benchmark_worker
# the flags are several words
# hadolint ignore=SC2086
RUN /opt/shardwright/bin/pip install --no-cache-dir ${TORCH_PIP_FLAGS} \
        "torch==${TORCH_VERSION}" "fbgemm-gpu==${FBGEMM_VERSION}" \
    && /opt/shardwright/bin/pip install --no-cache-dir /wheels/*.whl \
        "shardwright-benchmark-worker[gpu,s3]"

FROM python
COPY --from=build /opt/shardwright /opt/shardwright
ENV PATH=/opt/shardwright/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
ENTRYPOINT ["shardwright-worker"]
