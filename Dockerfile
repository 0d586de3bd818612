# Two images from one file:
#   docker build --target server -t bitpress-server .
#   docker build --target worker -t bitpress-worker .
# The server has no ML library; the worker has all of them, PyTorch included.

FROM docker.io/library/python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1


FROM base AS server-build
RUN python -m venv /opt/bitpress
ENV PATH=/opt/bitpress/bin:$PATH
WORKDIR /src
COPY requirements/server.txt requirements/
RUN pip install --require-hashes -r requirements/server.txt
COPY . .
RUN pip install --no-deps --no-build-isolation . ./client


FROM base AS worker-build
RUN python -m venv /opt/bitpress
ENV PATH=/opt/bitpress/bin:$PATH
WORKDIR /src
COPY requirements/worker.txt requirements/
RUN pip install --require-hashes -r requirements/worker.txt
# In a call of its own: `+cpu` cannot resolve to a build with several GB of CUDA, and is on this index only.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --extra-index-url "${TORCH_INDEX}" torch==2.13.0+cpu
COPY . .
RUN pip install --no-deps --no-build-isolation . ./client


FROM base AS unprivileged
RUN groupadd --gid 10001 bitpress \
    && useradd --uid 10001 --gid bitpress --home-dir /var/lib/bitpress --no-create-home --shell /usr/sbin/nologin bitpress \
    && install --directory --owner bitpress --group bitpress --mode 0711 /var/lib/bitpress
ENV PATH=/opt/bitpress/bin:$PATH \
    HOME=/var/lib/bitpress \
    BITPRESS_DATA_DIR=/var/lib/bitpress
WORKDIR /var/lib/bitpress


FROM unprivileged AS server
COPY --from=server-build /opt/bitpress /opt/bitpress
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=8)"]
CMD ["python", "-m", "uvicorn", "--factory", "app.main:create_app", "--host", "0.0.0.0", "--port", "8000"]


FROM unprivileged AS worker
# libseccomp2 filters the system calls of the confined children; tini reaps what they leave behind.
# Not pinned: Debian keeps only the newest build of a package, so that an older one cannot be installed.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libseccomp2 tini \
    && rm -rf /var/lib/apt/lists/*
COPY --from=worker-build /opt/bitpress /opt/bitpress
USER 10001:10001
HEALTHCHECK --interval=60s --timeout=30s --start-period=60s \
    CMD ["python", "-m", "workers.alive"]
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "celery", "-A", "workers.celery_app", "worker", "--queues", "jobs.local", "--concurrency", "1", "--hostname", "jobs@%h"]
