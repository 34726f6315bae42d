# The planning server. Build from the root of the repository:
#   docker build -f deploy/docker/server.Dockerfile -t shardwright-server:dev .
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY proto proto
COPY costmodel costmodel
COPY server server
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels ./proto ./costmodel ./server
# the wheels by file, so that no index can answer for them; s3: bundles in object stores
RUN python -m venv /opt/shardwright \
    && /opt/shardwright/bin/pip install --no-cache-dir \
        /wheels/*.whl "shardwright-server[cpu,s3]"

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/shardwright /opt/shardwright
# compiled loops are for the processor they run on, so each container makes them when it starts
ENV PATH=/opt/shardwright/bin:$PATH \
    HOME=/tmp \
    NUMBA_CACHE_DIR=/tmp/numba \
    PYTHONDONTWRITEBYTECODE=1
# a number, so that Kubernetes can see it is not root
USER 10001:10001
EXPOSE 50051 9090
ENTRYPOINT ["shardwright-server"]
