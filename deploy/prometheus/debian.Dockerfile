# Prometheus and Alertmanager from Debian's packages, for a machine that cannot pull prom/prometheus and
# prom/alertmanager; the tests use it. The build argument PROGRAM is prometheus or alertmanager.
#   docker build -f deploy/prometheus/debian.Dockerfile -t fednot-prometheus deploy/prometheus
FROM python:3.11-slim-bookworm
# hadolint ignore=DL3008
RUN apt-get update -q \
 && apt-get install -yq --no-install-recommends prometheus prometheus-alertmanager \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
 && ln -s /usr/bin/prometheus-alertmanager /usr/local/bin/alertmanager \
 && install -d -o 65534 -g 65534 /prometheus /alertmanager
USER 65534:65534
VOLUME ["/prometheus", "/alertmanager"]
EXPOSE 9090 9093
ARG PROGRAM=prometheus
ENV PROGRAM=$PROGRAM
ENTRYPOINT ["/bin/sh", "-c", "exec \"$PROGRAM\" \"$@\"", "--"]
