# The trainer of cost models, on CPUs. Build from the root of the repository:
#   docker build -f deploy/docker/trainer.Dockerfile -t shardwright-trainer:dev .
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# Flags for pip, such as "--index-url URL" of an index that holds the CPU build of torch. Without
# them torch may bring gigabytes of CUDA libraries that the trainer never uses.
ARG TORCH_PIP_FLAGS=""
ARG TORCH_VERSION=2.13.0
WORKDIR /src
COPY proto proto
COPY costmodel costmodel
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels ./proto ./costmodel
# the flags are several words
# hadolint ignore=SC2086
RUN python -m venv /opt/shardwright \
    && /opt/shardwright/bin/pip install --no-cache-dir ${TORCH_PIP_FLAGS} "torch==${TORCH_VERSION}" \
    && /opt/shardwright/bin/pip install --no-cache-dir /wheels/*.whl \
        "shardwright-costmodel[cpu,train,s3]"

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/shardwright /opt/shardwright
ENV PATH=/opt/shardwright/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
ENTRYPOINT ["shardwright-train"]
