# Prometheus from Debian's package, for a machine that cannot pull prom/prometheus; the tests use it.
#   docker build -f deploy/prometheus/debian.Dockerfile -t fednot-prometheus deploy/prometheus
FROM python:3.11-slim-bookworm
RUN apt-get update -q \
 && apt-get install -yq --no-install-recommends prometheus \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
 && install -d -o prometheus -g prometheus /prometheus
USER prometheus
VOLUME /prometheus
EXPOSE 9090
ENTRYPOINT ["/usr/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
