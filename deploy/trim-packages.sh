#!/bin/sh
# Drops from the virtual environment what a running federation never reads: the packages' own tests,
# and botocore's descriptions of every service of AWS but S3 and those that give credentials.
set -eu
for name in torch numpy scipy sklearn sympy networkx mpmath joblib; do
  folder=$(python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/$name
  [ ! -d "$folder" ] || find "$folder" -depth -type d -name tests -exec rm -rf {} +
done
services=$(dirname "$folder")/botocore/data
[ ! -d "$services" ] || find "$services" -mindepth 1 -maxdepth 1 -type d \
  ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -rf {} +
